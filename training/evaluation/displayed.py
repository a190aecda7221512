"""How well what searches displayed is ranked: MRR, P@1 and NDCG@10, list by list.

A list is what one search displayed and what came of each candidate, graded as JDsearch grades: 3
for a purchase, 2 for a cart (or a collect), 1 for a click, 0 for nothing. Lists of which nothing
came are not judged. Source: Liu et al., SIGIR 2023; cut-offs and gains are our reading, which
docs/models explains.

Candidates of equal score stand by popularity, then by item key: nothing that the list's order or
its grades could say.

Shape legend: C candidates, list after list. L lists. I distinct items of the catalogue among them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from training.evaluation.metrics import Gains
from training.evaluation.trial import Trial

GRADES = {"impression": 0, "click": 1, "collect": 2, "cart": 2, "buy": 3}
NDCG_AT = 10

Scores = npt.NDArray[np.number[Any]]
Ints = npt.NDArray[np.integer]


@dataclass(frozen=True, kw_only=True, eq=False)
class Lists:
    """What is ranked.

    Attributes:
        list_C: which list, ascending from 0, none without candidates. grade_C: what came of it.
        item_C: its number in the catalogue, 0 for none. events_C: how popular it was before.
        tie_C: where it stands among candidates of equal score, the smallest first; all differ.
        user_L, query_L: whose search, and what was asked.
        line_L: a line of the trial's examples with the search's request and query; -1 for none.
    """

    list_C: Ints
    grade_C: Ints
    item_C: Ints
    events_C: Ints
    tie_C: Ints
    user_L: Ints
    query_L: Sequence[str]
    line_L: Ints


def lists_of(trial: Trial) -> Lists:
    """The lists of a trial that has what was displayed."""
    assert trial.displayed is not None
    search, of_line = ["t_ms", "user_key", "search_id"], ["user_key", "t_ms", "query"]
    popular = trial.past.group_by("item_key").agg(pl.len().alias("events"))
    found = (
        trial.displayed.join(popular, on="item_key", how="left")
        .with_columns(
            pl.col("events").cast(pl.Int64).fill_null(0),
            pl.col("action").replace_strict(GRADES).alias("grade"),
        )
        .sort(*search, "item_key")
        .with_columns(pl.struct(search).rle_id().alias("list"))
    )
    examples = trial.examples
    lines = pl.DataFrame(
        {
            "user_key": trial.users,
            "t_ms": examples.t_ms_U[examples.request_B],
            "query": pl.Series(examples.queries, dtype=pl.String),
            "line": np.arange(examples.lines),
        }
    ).unique(of_line, keep="first")
    searches = found.unique("list", keep="first", maintain_order=True).join(
        lines, on=of_line, how="left", maintain_order="left"
    )
    item_key_C, events_C = (found[name].to_numpy() for name in ("item_key", "events"))
    tie_C = np.empty(len(found), np.int64)
    tie_C[np.lexsort((item_key_C, -events_C))] = np.arange(len(found))
    return Lists(
        list_C=found["list"].to_numpy(),
        grade_C=found["grade"].to_numpy(),
        item_C=trial.catalogue.numbers(item_key_C),
        events_C=events_C,
        tie_C=tie_C,
        user_L=searches["user_key"].to_numpy(),
        query_L=searches["query"].to_list(),
        line_L=searches["line"].fill_null(-1).to_numpy(),
    )


def bm25(
    lists: Lists, trial: Trial, *, watched: Callable[[Sequence[int]], Iterable[int]] = iter
) -> Scores:
    """BM25 of each candidate's text by its list's query, [C]; 0 for items without one.

    How rare a word is, all displayed items of the catalogue say together.

    Args:
        watched: goes through the lists and may show how far it is.
    """
    items_I = np.unique(lists.item_C[lists.item_C > 0])
    index = trial.index_of(items_I)
    score_C = np.zeros(len(lists.list_C), np.float32)
    bounds = np.searchsorted(lists.list_C, np.arange(len(lists.query_L) + 1))
    for number in watched(range(len(lists.query_L))):
        mine = np.arange(bounds[number], bounds[number + 1])
        known = mine[lists.item_C[mine] > 0]
        among = items_I.searchsorted(lists.item_C[known])
        score_C[known] = index.bm25(lists.query_L[number], among)
    return score_C


def gains(lists: Lists, score_C: Scores) -> dict[str, Gains]:
    """What each list has of each metric, [L]; the metric is the mean over lists.

    `mrr`: one over the place, from 1, of the first candidate with a grade above 0. `p@1`: whether
    that place is the first. `ndcg@10`: the grades of the first ten, each divided by
    log2(place + 1), as a share of what the best order would give.
    """
    found_C = np.lexsort((lists.tie_C, -score_C, lists.list_C))
    best_C = np.lexsort((-lists.grade_C, lists.list_C))
    starts_L = np.searchsorted(lists.list_C, np.arange(len(lists.query_L)))
    place_C = np.arange(len(lists.list_C)) - starts_L[lists.list_C]

    def discounted_gain(order_C: Ints) -> Gains:
        gain_C = np.where(place_C < NDCG_AT, lists.grade_C[order_C] / np.log2(place_C + 2.0), 0.0)
        gain_L: Gains = np.add.reduceat(gain_C, starts_L)
        return gain_L

    taken_C = lists.grade_C[found_C] > 0
    first_L = np.minimum.reduceat(np.where(taken_C, place_C, len(place_C)), starts_L)
    return {
        "mrr": 1.0 / (first_L + 1.0),
        "p@1": (first_L == 0).astype(np.float64),
        f"ndcg@{NDCG_AT}": discounted_gain(found_C) / discounted_gain(best_C),
    }
