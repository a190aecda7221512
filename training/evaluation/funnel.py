"""How much of what each channel finds passes the stages behind retrieval: `Num_prank`, `Num_rank`.

    first K of each channel ─ relevance control ─► pre-ranking ─ first M of all together ─► ranking
                                                   Num_prank                                Num_rank

Channels are the methods under comparison: the towers and the baselines. Relevance control is what
serving does with the terms of a query (`pagoda.understanding`); the pre-ranker orders the survivors
of all channels together, each item once. An item that several channels have found counts for each.

Source: Li et al., KDD 2021, section 4. The paper counts both in a production whose other channels
and rankers are not ours: that channels are the baselines, K and M are our reading.

Shape legend: N candidates, L drawn lines; columns are places among the candidates.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial

import numpy as np

from pagoda.models.bst import Bst
from pagoda.shelf import Mask, Shelf
from pagoda.understanding import Vocabulary, control, satisfying
from training import ranker
from training.evaluation import channels
from training.evaluation.channels import Measured, Orders
from training.evaluation.metrics import Gains
from training.evaluation.scores import Columns, Scores
from training.evaluation.trial import Trial

ROWS = "drawn lines"


@dataclass(frozen=True, kw_only=True)
class Funnel:
    """The stages behind retrieval.

    Attributes:
        min_relevant: terms that fewer items satisfy are dropped, as serving is set.
        pre_ranker: None: nothing is said of ranking.
        k: how many of a channel's first candidates it gives.
        ranked: M, how many items of all channels together enter ranking.
    """

    min_relevant: int
    pre_ranker: Bst | None
    k: int = channels.FIRST
    ranked: int = 200


def gains(
    trial: Trial, funnel: Funnel, orders: Mapping[int, Orders]
) -> dict[str, dict[str, Gains]]:
    """Each channel's metrics of each drawn line, [L].

    Args:
        orders: of each line at least the first `funnel.k` of every channel.
    """
    passing = _control(trial, funnel.min_relevant)

    def measure(line: int, orders: Orders) -> Measured:
        pre_ranker = funnel.pre_ranker
        return passed(
            orders,
            passing(trial.examples.queries[line]),
            k=funnel.k,
            pre_rank=None if pre_ranker is None else partial(_scores, trial, pre_ranker, line),
            ranked=funnel.ranked,
        )

    return channels.gains(orders, measure)


def passed(
    orders: Orders,
    passing_N: Mask,
    *,
    k: int,
    pre_rank: Callable[[Columns], Scores] | None,
    ranked: int,
) -> dict[str, dict[str, int]]:
    """One line's counts, by channel.

    `num_prank@k`: how many of the channel's first k survive relevance control. `num_rank@M`: how
    many of these are among the first M that the pre-ranker picks from all survivors.

    Args:
        orders: columns as each channel ranks them, the best first.
        passing_N: what relevance control lets through.
        pre_rank: scores of columns; of equal ones the smaller column stands first.
        ranked: M.
    """
    first = {channel: columns[:k] for channel, columns in orders.items()}
    left = {channel: columns[passing_N[columns]] for channel, columns in first.items()}
    counts = {channel: {f"num_prank@{k}": len(each)} for channel, each in left.items()}
    if pre_rank is not None:
        together = np.unique(np.concatenate(list(left.values())))
        entering = together[np.argsort(-pre_rank(together), kind="stable")[:ranked]]
        for channel, each in left.items():
            counts[channel][f"num_rank@{ranked}"] = int(np.isin(each, entering).sum())
    return counts


def _control(trial: Trial, min_relevant: int) -> Callable[[str], Mask]:
    """Which candidates satisfy the terms of a query that relevance control keeps, [N]."""
    shelf = Shelf(trial.catalogue.table)
    vocabulary = Vocabulary(shelf)
    everything = np.ones(len(shelf), bool)

    @cache
    def passing(query: str) -> Mask:
        terms = vocabulary.terms(query)
        decided = control(shelf, terms, passing=everything, min_relevant=min_relevant)
        mask: Mask = satisfying(shelf, decided.kept)[trial.candidates - 1]
        return mask

    return passing


def _scores(trial: Trial, model: Bst, line: int, columns: Columns) -> Scores:
    items = trial.candidates[columns]
    return ranker.scores(model, trial.examples, trial.catalogue, line=line, items=items)
