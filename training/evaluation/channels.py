"""The first candidates of every method for a few drawn lines: what is too much for all lines.

Shape legend: N candidates, L drawn lines; columns are places among the candidates.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping

import numpy as np

from training import negatives
from training.evaluation import baselines
from training.evaluation.metrics import KS, Gains
from training.evaluation.scores import Columns, Scores
from training.evaluation.trial import Trial

LINES = 200
FIRST = max(KS)

Orders = Mapping[str, Columns]  # by method, its first candidates, the best first
Measured = Mapping[str, Mapping[str, float]]  # by method and metric


class Channels:
    """Reads the towers' scores of the drawn lines, and ranks by the baselines beside.

    The same lines are drawn of the same number every time, all if there are no more.

    Args:
        name: what the towers are called. first: how many candidates of each method are kept.
        lines: how many to draw.

    Attributes:
        orders: of each drawn line.
    """

    def __init__(self, trial: Trial, *, name: str, first: int = FIRST, lines: int = LINES) -> None:
        self._trial, self._name, self._first = trial, name, first
        self._drawn = negatives.draw(lines, pool=trial.examples.lines, seed=(0,)) - 1
        self.orders: dict[int, Orders] = {}

    def read(self, lines: Columns, score_BN: Scores) -> None:
        """As `training.evaluation.scores.Reader` has it."""
        trial = self._trial
        for at in np.flatnonzero(np.isin(lines, self._drawn)):
            line = int(lines[at])
            orders = {
                self._name: np.argsort(-score_BN[at], kind="stable"),
                "most popular": np.arange(len(trial.candidates)),
                **baselines.rankings(trial.index, trial.examples.queries[line], trial.owned[line]),
            }
            self.orders[line] = {
                method: order[: self._first].copy() for method, order in orders.items()
            }


def gains(
    orders: Mapping[int, Orders], measure: Callable[[int, Orders], Measured]
) -> dict[str, dict[str, Gains]]:
    """Of each method and metric what each line has, [L].

    Args:
        measure: of a line, by its orders.
    """
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for line, of_line in orders.items():
        for method, values in measure(line, of_line).items():
            for metric, value in values.items():
                found[method][metric].append(value)
    return {
        method: {metric: np.array(each, np.float64) for metric, each in of_method.items()}
        for method, of_method in found.items()
    }
