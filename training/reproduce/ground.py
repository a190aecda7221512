"""What the runs of a part stand on: rows fetched and cut once, and what each search wanted.

completejourney has no labels of relevance, and its queries are words of categories: the share of
the first K on the taken item's leaf category only says whether a model reads the query, and is not
called P_good. Simulated shoppers want a shelf, and the truth beside the files says which: there the
share of the first K on that shelf is P_good@K, known and not guessed.

Shape legend: B judged lines, N candidates.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import polars as pl

from pagoda import dataset as datasets
from pagoda import features, lake
from pagoda.forgotten import copying
from pagoda.ids import keys_of
from pagoda.models.catalogue import Catalogue
from pagoda.models.tables import Sizes
from pagoda.schemas import SEARCHES
from pagoda.settings import Settings
from training.data import rows, splits
from training.data.batches import Examples, prepare
from training.data.lines import events_before
from training.evaluation import judging
from training.evaluation.metrics import MISSED, Ranks
from training.evaluation.row_sets import row_sets
from training.evaluation.trial import Trial
from training.inputs import Inputs, inputs_of, plan, require_same_features
from training.recipes import Recipe
from training.reproduce.plan import Part
from training.reproduce.record import Facts, GroundRecord

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

KS = (10, 50, 100)
SIMULATION = "simulation"  # the folder in a home that holds the files and the truth
_SETS = ("all", "non-repeats")
MEANT = "meant clicks"
P_GOOD = "P_good"  # what relevance is called where it is known
_LINE = ("user_key", "t_ms", "query")

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, eq=False)
class Wanted:
    """What each judged line's search wanted.

    Attributes:
        measure: what the share of the first K on the wanted shelf is called.
        leaf_B: the number of the wanted leaf category; 0: not known.
        meant_B: whether the click was for what the item is, and no mistake; None: nobody knows.
    """

    measure: str
    leaf_B: npt.NDArray[np.int32]
    meant_B: Mask | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Ground:
    """Rows to train on, lines to judge, and what these wanted."""

    facts: Facts
    train: Examples
    trial: Trial
    sizes: Sizes
    wanted: Wanted

    @property
    def leaves(self) -> npt.NDArray[np.int32]:
        """Each candidate's leaf category, by number, [N]."""
        leaf_N: npt.NDArray[np.int32] = self.trial.catalogue.attributes["leaf"][
            self.trial.candidates
        ]
        return leaf_N

    def record(self) -> GroundRecord:
        """What the report needs of it."""
        known = row_sets(self.trial)
        sets = {name: known[name] for name in _SETS}
        if self.wanted.meant_B is not None:
            sets[MEANT] = self.wanted.meant_B
        shelved_B = self.wanted.leaf_B > 0
        size = np.bincount(self.leaves, minlength=int(self.wanted.leaf_B.max(initial=0)) + 1)
        size_B = size[self.wanted.leaf_B[shelved_B]]
        _, user_B = np.unique(self.trial.users, return_inverse=True)
        return GroundRecord(
            facts=self.facts,
            relevance=self.wanted.measure,
            user=user_B.tolist(),
            sets={name: mask.astype(int).tolist() for name, mask in sets.items()},
            shelved=shelved_B.astype(int).tolist(),
            baselines={
                name: listed(rank_B)
                for name, rank_B in judging.by_baselines(
                    self.trial, np.arange(self.trial.examples.lines), self.trial.targets
                ).items()
            },
            ceiling={k: float(np.minimum(size_B, k).mean() / k) if len(size_B) else 0 for k in KS},
        )


def listed(rank_B: Ranks) -> list[int]:
    """Ranks as they are kept: -1 for a miss."""
    kept: list[int] = np.where(rank_B == MISSED, -1, rank_B).tolist()
    return kept


def read(settings: Settings, part: Part, recipe: Recipe) -> Inputs:
    """Lines, items and which features there are, with the fingerprint of all of it.

    Args:
        recipe: one that reads the rows that all do; its service, windows and words are used.
    """
    found = inputs_of(settings, plan(recipe, datasets.load(settings), part.week))
    train_lines, judged_lines = found.train_lines, found.judged_lines
    if part.rows is not None:
        train_lines = latest(train_lines, part.rows)
    if part.judged is not None:
        judged_lines = drawn(judged_lines, part.judged)
    limits = f"{found.fingerprint} {part.rows} {part.judged}"
    return replace(
        found,
        train_lines=train_lines,
        judged_lines=judged_lines,
        fingerprint=hashlib.blake2b(limits.encode(), digest_size=6).hexdigest(),
    )


def latest(lines: pl.DataFrame, most: int) -> pl.DataFrame:
    """The lines of the latest requests that together have at most so many; their order stays."""
    requests = lines.group_by("user_key", "t_ms").len()
    return _first(lines, requests.sort("t_ms", "user_key", descending=True), most)


def drawn(lines: pl.DataFrame, most: int) -> pl.DataFrame:
    """The lines of requests drawn by a fixed seed; their order stays."""
    requests = lines.group_by("user_key", "t_ms").len().sort("t_ms", "user_key")
    return _first(lines, requests[np.random.default_rng(0).permutation(len(requests))], most)


def _first(lines: pl.DataFrame, requests: pl.DataFrame, most: int) -> pl.DataFrame:
    kept = requests.filter(pl.col("len").cum_sum() <= most)
    return lines.join(kept, on=["user_key", "t_ms"], how="semi", maintain_order="left")


def build(
    settings: Settings,
    part: Part,
    recipe: Recipe,
    inputs: Inputs,
    folder: Path,
    *,
    encoded: Path,
    session: SparkSession | None = None,
) -> Ground:
    """Fetch, cut and encode.

    Args:
        inputs: as `read` gave them for the same recipe.
        folder: where what is fetched stays for the next time. encoded: where what is encoded lies.
    """
    chosen = plan(recipe, inputs.dataset, part.week)
    service = features.service(recipe.service)
    stats = service.columns_of(features.USER_STATS)
    tokenizer = inputs.tokenizer(recipe)
    catalogue = Catalogue.build(inputs.items, tokenizer)
    with copying(settings):
        fetched = rows.fetch(settings, service, inputs.requests, folder, session=session)
        require_same_features(settings, chosen, inputs)
        train, judged = (
            prepare(
                rows.read(fetched, lines),
                lines,
                catalogue,
                tokenizer,
                spec=recipe.windows,
                stats=stats,
                folder=encoded / name,
            )
            for name, lines in (("train", inputs.train_lines), ("judged", inputs.judged_lines))
        )
    trial = Trial(
        examples=judged,
        catalogue=catalogue,
        history=events_before(settings, chosen.judged.end, inputs.snapshots),
        starts_ms=splits.starts_ms(inputs.dataset, chosen.judged),
    )
    return Ground(
        facts=Facts(
            data_set=inputs.dataset.name,
            queries=inputs.dataset.query_protocol,
            trained_on=f"{train.lines:,} lines of {train.requests:,} requests before "
            f"{chosen.judged.first}",
            judged_on=f"{judged.lines:,} lines, {chosen.judged.first} to {chosen.judged.last}",
            candidates=len(trial.candidates),
        ),
        train=train,
        trial=trial,
        sizes=Sizes.of(catalogue, tokenizer, stats=stats),
        wanted=by_category(trial)
        if part.noise is None
        else by_truth(trial, truth(settings, settings.home / SIMULATION)),
    )


def by_category(trial: Trial) -> Wanted:
    """The taken item's own leaf category stands for what was wanted."""
    leaf = trial.catalogue.attributes["leaf"]
    return Wanted(measure="category precision", leaf_B=leaf[trial.examples.item_B])


def by_truth(trial: Trial, known: pl.DataFrame) -> Wanted:
    """What simulated shoppers wanted, and which clicks were no mistakes.

    Args:
        known: as `truth` gives it.
    """
    examples, catalogue = trial.examples, trial.catalogue
    lines = pl.DataFrame(
        {
            "user_key": trial.users,
            "t_ms": examples.t_ms_U[examples.request_B],
            "query": examples.queries,
            "item_key": examples.item_key_B,
        }
    )
    joined = lines.join(known, on=list(_LINE), how="left", maintain_order="left").select(
        "leaf_category",
        meant=pl.col("meant").list.contains(pl.col("item_key")).fill_null(value=False),
    )
    number_of = {
        value: int(number)
        for value, number in zip(
            catalogue.table["leaf_category"].to_pylist(),
            catalogue.attributes["leaf"][1:],
            strict=True,
        )
    }
    leaf = [number_of.get(value, 0) for value in joined["leaf_category"].to_list()]
    return Wanted(
        measure=P_GOOD, leaf_B=np.array(leaf, np.int32), meant_B=joined["meant"].to_numpy()
    )


def truth(settings: Settings, folder: Path) -> pl.DataFrame:
    """What each simulated search wanted: user_key, t_ms, query, `leaf_category`, `meant`.

    A shown item is relevant if it is on the wanted shelf, so the relevant ones say which it is; a
    page without any leaves it unknown. `meant`: keys of the items clicked for what they are.

    Args:
        folder: what `pagoda stream simulate --to-files` has written.
    """
    shown = pl.read_parquet(folder / "truth" / "impressions" / "*.parquet")
    items = pl.read_parquet(folder / "items.parquet", columns=["item_id", "leaf_category"])
    items = items.with_columns(item_key=pl.Series(keys_of("item", items["item_id"].to_list())))
    of_search = (
        shown.join(items, on="item_id")
        .group_by("search_id")
        .agg(
            leaf_category=pl.col("leaf_category").filter(pl.col("relevance") >= 1).first(),
            meant=pl.col("item_key").filter(pl.col("clicked_for") == "relevance"),
        )
    )
    searches = lake.open_table(settings, SEARCHES).scan(
        selected_fields=("search_id", "user_key", "query", "ts")
    )
    return (
        pl.DataFrame(searches.to_arrow())
        .with_columns(t_ms=pl.col("ts").dt.epoch("ms"))
        .join(of_search, on="search_id")
        .select(*_LINE, "leaf_category", "meant")
        .unique(list(_LINE), keep="first")
    )
