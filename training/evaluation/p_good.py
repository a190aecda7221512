"""`P_good@K`: which share of every method's first K a relevance model finds relevant to the query.

The model (`pagoda.relevance`) judges every candidate among the first K, where people's labels say
something of a few (`graded`, beside this). It is asked of drawn lines, for it takes its time.

Source: Li et al., KDD 2021, section 4.

Shape legend: N candidates, S of them that any method shows, L drawn lines.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from pagoda.relevance import Judge
from training.evaluation import channels
from training.evaluation.channels import Measured, Orders
from training.evaluation.metrics import KS, Gains
from training.evaluation.scores import Columns
from training.evaluation.trial import Trial

ROWS = "drawn lines, by model"


def gains(
    trial: Trial, judge: Judge, orders: Mapping[int, Orders], *, ks: Sequence[int] = KS
) -> dict[str, dict[str, Gains]]:
    """Each method's shares of each drawn line, [L]: `p_good_model@k`.

    Args:
        orders: of each line the first candidates of every method; the first k has no more.
    """
    shown_S = _distinct(order for of_line in orders.values() for order in of_line.values())
    items_S = judge.items(trial.catalogue.table.take(trial.candidates[shown_S] - 1))
    good_N = np.zeros(len(trial.candidates), bool)
    queries = trial.examples.queries

    def measure(line: int, of_line: Orders) -> Measured:
        first = _distinct(of_line.values())
        query = judge.queries([queries[line]]).take(np.zeros(len(first), np.int64))
        odds = judge.odds(query, items_S.take(shown_S.searchsorted(first)))
        good_N[first] = odds >= judge.threshold
        return {
            method: {f"p_good_model@{k}": good_N[order[:k]].mean() for k in ks}
            for method, order in of_line.items()
        }

    return channels.gains(orders, measure)


def _distinct(orders: Iterable[Columns]) -> Columns:
    return np.unique(np.concatenate(list(orders)))
