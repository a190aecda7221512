"""Judge vectors over all candidates, beside the baselines; `pagoda evaluate` does it for a bundle.

Candidates are the catalogue's items that have a title and an event before the week. A line's
target outside of them counts as a miss. Rows are shown whole and without repeats: lines whose user
had no event with the item before the line.

Shape legend: N candidates, B lines, D width.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
import typer

from pagoda import dataset as datasets
from pagoda import settings as settings_module
from pagoda.bundle import Bundle, Metric
from pagoda.console import emit_json, emit_table, run
from pagoda.errors import InputError, NothingToDo
from pagoda.features import USER_STATS
from pagoda.forgotten import copying
from pagoda.models.base import TwoTowers
from pagoda.models.catalogue import Catalogue
from pagoda.models.inputs import item_batch, user_batch
from pagoda.settings import Settings
from training import baselines, held_out, rows, splits
from training.data import Examples, prepare
from training.lines import Week, events_before, judged_span, week_of
from training.metrics import Ranks, ranks_of, summary
from training.unseen import Scored

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_ITEMS_PER_PASS = 8_192
_REQUESTS_PER_PASS = 64

app = typer.Typer(help="Judge a bundle beside the baselines.")


@dataclass(frozen=True, kw_only=True, eq=False)
class Trial:
    """One week's lines and what was known before it.

    Attributes:
        examples: the week's requests and lines.
        history: (user_key, item_key, t_ms) of events, of which only those before a line's moment
            make it a repeat, and only those before `starts_ms` make candidates and popularity.
        starts_ms: where the week begins. None: each user has one line, and what is judged of a
            user begins there.
    """

    examples: Examples
    catalogue: Catalogue
    history: pl.DataFrame
    starts_ms: int | None

    @cached_property
    def past(self) -> pl.DataFrame:
        """The events before what is judged."""
        if self.starts_ms is not None:
            return self.history.filter(pl.col("t_ms") < self.starts_ms)
        examples = self.examples
        judged = pl.DataFrame({"user_key": examples.user_key_U, "judged_ms": examples.t_ms_U})
        joined = self.history.join(judged, on="user_key", how="left")
        unjudged = pl.col("judged_ms").is_null()
        before = joined.filter(unjudged | (pl.col("t_ms") < pl.col("judged_ms")))
        return before.drop("judged_ms")

    @cached_property
    def candidates(self) -> npt.NDArray[np.int32]:
        """Item numbers of the candidates, most popular first, ties by item key."""
        counted = (
            self.past.group_by("item_key").len().sort("len", "item_key", descending=[True, False])
        )
        numbers = self.catalogue.numbers(counted["item_key"].to_numpy())
        numbers = numbers[numbers > 0]
        titled = self.catalogue.table["title"].is_valid().to_numpy()
        candidates: npt.NDArray[np.int32] = numbers[titled[numbers - 1]]
        return candidates

    @cached_property
    def _column(self) -> npt.NDArray[np.int64]:
        """Each item number's place among the candidates, -1 for none."""
        column = np.full(len(self.catalogue) + 1, -1, np.int64)
        column[self.candidates] = np.arange(len(self.candidates))
        return column

    @cached_property
    def targets(self) -> npt.NDArray[np.int64]:
        """Each line's target as a place among the candidates, -1 for none."""
        target: npt.NDArray[np.int64] = self._column[self.examples.item_B]
        return target

    @cached_property
    def repeats(self) -> npt.NDArray[np.bool_]:
        """Whether the line's user had an event with its item before the line."""
        examples = self.examples
        first = self.history.group_by("user_key", "item_key").agg(pl.col("t_ms").min())
        lines = pl.DataFrame(
            {
                "user_key": examples.user_key_U[examples.request_B],
                "item_key": self.catalogue.keys[examples.item_B - 1],
                "line_t_ms": examples.t_ms_U[examples.request_B],
            }
        )
        joined = lines.join(first, on=["user_key", "item_key"], how="left", maintain_order="left")
        return (
            joined.select((pl.col("t_ms") < pl.col("line_t_ms")).fill_null(value=False))
            .to_series()
            .to_numpy()
        )

    @cached_property
    def owned(self) -> list[npt.NDArray[np.int64]]:
        """Each line's user's candidates before what is judged, one entry an event."""
        past = self.past
        columns = self._column[self.catalogue.numbers(past["item_key"].to_numpy())]
        grouped = (
            past.select("user_key", column=pl.Series(columns))
            .filter(pl.col("column") >= 0)
            .group_by("user_key")
            .agg("column")
            .select("user_key", "column")
        )
        of_user = {user: np.array(places, np.int64) for user, places in grouped.iter_rows()}
        nothing = np.empty(0, np.int64)
        users = self.examples.user_key_U[self.examples.request_B].tolist()
        return [of_user.get(user, nothing) for user in users]


def judge(
    trial: Trial,
    model: TwoTowers,
    item_vectors: npt.NDArray[np.float32],
    *,
    week: Week,
    name: str,
) -> list[Metric]:
    """The towers under `name`, then every baseline.

    Of users who have a line each also the ranks among what they have not had.
    """
    ranks = {name: judge_towers(trial, model, item_vectors), **judge_baselines(trial)}
    found = metrics(week, ranks, trial.repeats)
    if trial.starts_ms is None:
        found += held_out.metrics(trial, name, _scores(trial, model, item_vectors), week=week)
    return found


def judge_baselines(trial: Trial) -> dict[str, Ranks]:
    """Ranks of every baseline by name."""
    fields = trial.catalogue.table.select(["first_category", "title"]).to_pylist()
    texts = [
        f"{fields[number - 1]['first_category'] or ''} {fields[number - 1]['title']}"
        for number in trial.candidates
    ]
    popular = {"most popular": baselines.most_popular(trial.targets)}
    if not any(trial.examples.queries):
        return popular
    return {
        **popular,
        **baselines.by_words(
            baselines.TextIndex(texts), trial.examples.queries, trial.owned, trial.targets
        ),
    }


def judge_towers(
    trial: Trial,
    model: TwoTowers,
    item_vectors: npt.NDArray[np.float32],
) -> Ranks:
    """Each line's rank by the towers' inner product, over all candidates.

    Args:
        item_vectors: of the whole catalogue, row = item number - 1.
    """
    rank_B = np.empty(trial.examples.lines, np.int64)
    for lines, score_BN in _scores(trial, model, item_vectors):
        rank_B[lines] = ranks_of(score_BN, trial.targets[lines])
    return rank_B


def _scores(
    trial: Trial, model: TwoTowers, item_vectors: npt.NDArray[np.float32]
) -> Iterator[Scored]:
    """Some lines and their scores of all candidates, until every line had its turn."""
    examples = trial.examples
    item_ND = torch.from_numpy(item_vectors)[torch.from_numpy(trial.candidates - 1).long()]
    with torch.inference_mode():
        for start in range(0, examples.requests, _REQUESTS_PER_PASS):
            requests = np.arange(start, min(start + _REQUESTS_PER_PASS, examples.requests))
            request_B, lines = examples.lines_of(requests)
            if not len(lines):
                continue
            user_BD = model.encode_user(
                user_batch(
                    examples.behaviour.take(requests),
                    trial.catalogue,
                    examples.texts,
                    request_B=request_B,
                    text_B=examples.text_B[lines],
                )
            )
            yield lines, (user_BD @ item_ND.T).numpy()


def encode_items(model: TwoTowers, catalogue: Catalogue) -> npt.NDArray[np.float32]:
    """Every item's vector, float32 [items, D], in the catalogue's order."""
    with torch.inference_mode():
        parts = [
            model.encode_item(item_batch(numbers, catalogue))
            for numbers in np.array_split(
                np.arange(1, len(catalogue) + 1), len(catalogue) // _ITEMS_PER_PASS + 1
            )
        ]
        return np.asarray(torch.cat(parts).numpy(), np.float32)


def metrics(
    week: Week, ranks: Mapping[str, Ranks], repeat_B: npt.NDArray[np.bool_]
) -> list[Metric]:
    """One line a method and set of rows."""
    sets = {"all": np.ones_like(repeat_B), "non-repeats": ~repeat_B}
    return [
        Metric(
            week=week,
            method=method,
            rows=rows,
            count=int(chosen_B.sum()),
            values=summary(rank_B[chosen_B]),
        )
        for method, rank_B in ranks.items()
        for rows, chosen_B in sets.items()
    ]


def as_table(found: Iterable[Metric]) -> list[dict[str, str | int]]:
    """Metrics for people."""
    return [
        {
            "week": each.week,
            "method": each.method,
            "rows": each.rows,
            "lines": each.count,
            **{name: f"{value:.3f}" for name, value in each.values.items()},
        }
        for each in found
    ]


@app.command()
def evaluate(
    name: Annotated[
        str | None, typer.Argument(metavar="BUNDLE", help="A bundle's name; default: the newest.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The metrics as JSON.")] = False,
) -> None:
    """Judge a bundle as it is served, on the week that it was not trained on."""
    settings = settings_module.load()
    bundle = Bundle.load(_path(settings, name))
    found = judge_bundle(settings, bundle)
    if as_json:
        emit_json({"bundle": bundle.name, "metrics": [each.model_dump() for each in found]})
    else:
        emit_table(as_table(found), title=bundle.name)


def judge_bundle(
    settings: Settings, bundle: Bundle, *, session: SparkSession | None = None
) -> list[Metric]:
    """Metrics of a bundle's own weights and vectors, on rows fetched anew from Feast."""
    dataset = datasets.load(settings)
    week = week_of(str(bundle.manifest.recipe_config.get("week")))
    span = judged_span(dataset, week)
    trained_on = bundle.manifest.dataset
    now = dataset.model_dump(mode="json")
    if now | trained_on != now:
        raise InputError(
            "this bundle was trained on another data set",
            where=bundle.name,
            expected=str(trained_on.get("fingerprint")),
            found=dataset.fingerprint,
            next_step="Train again: the week to judge on may have been trained on.",
        )
    rows.require_built(settings, bundle.service, span, bundle.manifest.windows)
    judged = splits.lines_of(settings, dataset, span, week)
    with copying(settings), tempfile.TemporaryDirectory(dir=settings.scratch) as folder:
        requests = judged.select("user_key", "t_ms").unique().sort("t_ms", "user_key")
        fetched = rows.fetch(settings, bundle.service, requests, Path(folder), session=session)
        trial = Trial(
            examples=prepare(
                rows.read(fetched, judged),
                judged,
                bundle.catalogue,
                bundle.tokenizer,
                spec=bundle.manifest.windows,
                stats=bundle.service.columns_of(USER_STATS),
                folder=Path(folder) / "judged",
            ),
            catalogue=bundle.catalogue,
            history=events_before(settings, span.end),
            starts_ms=splits.starts_ms(dataset, span),
        )
        return judge(
            trial, bundle.model, bundle.item_vectors, week=week, name=bundle.manifest.recipe
        )


def _path(settings: Settings, name: str | None) -> Path:
    if name is not None:
        return settings.bundles / name
    manifests = sorted(
        settings.bundles.glob("*/bundle.json"), key=lambda each: each.stat().st_mtime
    )
    if not manifests:
        raise NothingToDo(
            "there is no bundle", where=str(settings.bundles), next_step="Run `pagoda train demo`."
        )
    return manifests[-1].parent


if __name__ == "__main__":
    run(app)
