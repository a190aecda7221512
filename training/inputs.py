"""What a training reads from the lake, and the fingerprint of all of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass

import polars as pl
import pyarrow as pa

from pagoda import features, lake
from pagoda.bundle import Bundle, as_json
from pagoda.console import people
from pagoda.dataset import Dataset
from pagoda.errors import Conflict, InputError, NothingToDo
from pagoda.models.catalogue import FIELDS
from pagoda.schemas import EVENTS, ITEMS, ROBOTS, SEARCHES, Table
from pagoda.settings import Settings
from pagoda.text import Tokenizer
from training.data import lines, rows, splits
from training.data.lines import Snapshots, Span, Week, judged_span, trained_span
from training.data.splits import Part
from training.recipes import Recipe

VERSION = 6  # raise it with every change that gives other towers for the same rows


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Which days a training reads.

    Attributes:
        train: days whose lines are fitted. judged: the week that is evaluated, after them, or the
            same days.
        parent: the bundle that training goes on from, if any (`training.parents`).
        changed: settings that were given to the recipe of that name, as people wrote them.
    """

    recipe: Recipe
    dataset: Dataset
    week: Week
    train: Span
    judged: Span
    parent: Bundle | None = None
    changed: tuple[str, ...] = ()

    @property
    def whole(self) -> Span:
        """Both: the days whose features must have been built."""
        return Span(first=self.train.first, end=self.judged.end)


@dataclass(frozen=True, kw_only=True, eq=False)
class Inputs:
    """Lines, items and what they are a reading of.

    Attributes:
        displayed: what the judged searches displayed, where it is that which is judged.
        not_taken: what the training days' searches showed in vain, if the recipe asks for it.
        snapshots: Iceberg snapshot id of every table read.
        features: digest of the feature rows there are for the days.
        fingerprint: of the recipe and of the content, not of the snapshots: a table that was
            written again with the same rows changes nothing. A parent enters with its manifest,
            which holds its name and a hash of each of its files.
    """

    dataset: Dataset
    train_lines: pl.DataFrame
    judged_lines: pl.DataFrame
    displayed: pl.DataFrame | None
    not_taken: pl.DataFrame | None
    items: pa.Table
    snapshots: dict[str, int]
    features: str
    fingerprint: str

    @property
    def requests(self) -> pl.DataFrame:
        """Distinct `user_key`, `t_ms` of all lines, by time."""
        both = pl.concat([self.train_lines, self.judged_lines]).select("user_key", "t_ms")
        return both.unique().sort("t_ms", "user_key")

    def tokenizer(self, recipe: Recipe) -> Tokenizer:
        """A tokenizer of the training lines' queries and all titles."""
        titles = [title for title in self.items["title"].to_pylist() if title]
        return Tokenizer.fit(
            [*self.train_lines["query"].to_list(), *titles],
            segmentation=recipe.tokenizer.segmentation,
            min_count=recipe.tokenizer.min_count,
            buckets=recipe.tokenizer.buckets,
        )


def plan(recipe: Recipe, dataset: Dataset, week: Week) -> Plan:
    """The recipe's days on this data set, from the first day there is.

    Where each user's last lines are judged, both parts have all days.

    Raises: InputError if there is no such feature service, if the recipe's windows need more than
        feature rows hold, or if it reads queries and there are none.
    """
    if recipe.service not in (there := [each.name for each in features.SERVICES]):
        raise InputError(
            f"no feature service {recipe.service!r}",
            where=f"recipe {recipe.name}",
            expected=f"one of {', '.join(there)}",
        )
    if dataset.requests == "events" and getattr(recipe.model, "needs_queries", False):
        raise InputError(
            "the model knows what is looked for by the query, and this data set has none",
            where=f"recipe {recipe.name}",
            next_step="Train `sasrec` or `next_item`, or another recipe whose model reads clicks.",
        )
    if problems := recipe.windows.beyond(features.CANDIDATES):
        raise InputError(
            "the windows need more than feature rows hold",
            where=f"recipe {recipe.name}",
            problems=problems,
            next_step="Enlarge CANDIDATES in pagoda/features.py and build the days again, or "
            'choose smaller windows; see "A longer window" in docs/add-a-feature.md.',
        )
    return Plan(
        recipe=recipe,
        dataset=dataset,
        week=week,
        train=trained_span(dataset, week, recipe.train_days),
        judged=judged_span(dataset, week),
    )


def inputs_of(settings: Settings, chosen: Plan) -> Inputs:
    """Read them.

    Raises: NothingToDo without lines, or without impressions that the recipe asks for; InputError
        if features were not built.
    """
    dataset, service = chosen.dataset, features.service(chosen.recipe.service)
    views = [view.table for view in service.views]
    at = _snapshots(settings, (ITEMS, EVENTS, SEARCHES, ROBOTS, *views))
    found = lake.open_table(settings, ITEMS).scan(
        selected_fields=tuple(FIELDS.names), snapshot_id=at.get(ITEMS.name)
    )
    items = found.to_arrow()
    if items["title"].null_count == len(items):
        raise NothingToDo(
            "no item has a title, and candidates need one",
            where="lake, items",
            next_step="Import a catalogue with titles.",
        )
    train_lines = _known(_some(settings, dataset, chosen.train, "train", at), items)
    judged_lines = _some(settings, dataset, chosen.judged, chosen.week, at)
    displayed = splits.displayed(settings, dataset, chosen.judged, at)
    shown = _shown(settings, chosen, at) if chosen.recipe.loop.negatives.impressed else None
    feature_rows = rows.content(settings, service, chosen.whole, chosen.recipe.windows, at)
    digest = hashlib.blake2b(digest_size=16)
    for part in (
        str(VERSION),
        json.dumps(as_json(chosen.recipe), sort_keys=True),
        chosen.week,
        dataset.fingerprint,
        service.schema_hash,
        feature_rows,
        train_lines.write_csv(),
        judged_lines.write_csv(),
        "" if shown is None else shown.write_csv(),
        pl.DataFrame(items).sort("item_key").write_csv(),
        *([] if displayed is None else [displayed.write_csv()]),
        *([] if chosen.parent is None else [chosen.parent.manifest.model_dump_json()]),
    ):
        digest.update(f"{part}\0".encode())
    return Inputs(
        dataset=dataset,
        train_lines=train_lines,
        judged_lines=judged_lines,
        displayed=displayed,
        not_taken=shown,
        items=items,
        snapshots=at,
        features=feature_rows,
        fingerprint=digest.hexdigest(),
    )


def require_same_features(settings: Settings, chosen: Plan, inputs: Inputs) -> None:
    """Feast reads its tables as they are: raise Conflict if they were built anew meanwhile."""
    service = features.service(chosen.recipe.service)
    now = _snapshots(settings, [view.table for view in service.views])
    if all(inputs.snapshots.get(name) == each for name, each in now.items()):
        return
    found = rows.content(settings, service, chosen.whole, chosen.recipe.windows)
    if found != inputs.features:
        raise Conflict(
            "features were built while the training read them",
            where=service.name,
            next_step="Train again.",
        )


def _snapshots(settings: Settings, tables: Iterable[Table]) -> dict[str, int]:
    found = {table.name: lake.open_table(settings, table).current_snapshot() for table in tables}
    return {name: each.snapshot_id for name, each in found.items() if each}


def _shown(settings: Settings, chosen: Plan, at: Snapshots) -> pl.DataFrame:
    found = lines.not_taken(settings, chosen.train, at)
    if found.is_empty():
        raise NothingToDo(
            "no impressions to draw negatives from",
            where=f"recipe {chosen.recipe.name}, lake, {chosen.train.first} to {chosen.train.last}",
            expected="events with the action `impression` and their search's id",
            next_step="Import them, or train without `Negatives(impressed=...)`.",
        )
    return found


def _known(found: pl.DataFrame, items: pa.Table) -> pl.DataFrame:
    """The lines that can be learned from: of items that the lake has."""
    known = lines.of_items(found, items["item_key"])
    if left := len(found) - len(known):
        people.print(f"{left:,} of {len(found):,} lines left out: the lake lacks their items")
    if known.is_empty():
        raise NothingToDo(
            "no line is of an item that the lake has",
            where="lake, items",
            next_step="Import the items of these days' events.",
        )
    return known


def _some(
    settings: Settings, dataset: Dataset, span: Span, part: Part, at: Snapshots
) -> pl.DataFrame:
    found = splits.lines_of(settings, dataset, span, part, at)
    if found.is_empty():
        raise NothingToDo(
            "no searches that led to an item"
            if dataset.requests == "searches"
            else f"no events to make rows of: {', '.join(dataset.positive_actions)}",
            where=f"lake, {span.first} to {span.last}",
            next_step="Import a data set, or check test_from in dataset.json.",
        )
    return found
