"""Metrics of every method's whole ranking over a few drawn lines: what is too much for all lines.

Shape legend: N candidates, L drawn lines; columns are places among the candidates.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping

import numpy as np

from training import baselines, negatives
from training.metrics import Gains
from training.trial import Trial
from training.unseen import Columns, Scored

LINES = 200

Orders = Mapping[str, Columns]  # by method, the candidates as it ranks them, the best first, [N]
Measured = Mapping[str, Mapping[str, float]]  # by method and metric


def gains(
    trial: Trial,
    scored: Iterable[Scored],
    measure: Callable[[int, Orders], Measured],
    *,
    name: str,
    lines: int = LINES,
) -> tuple[Columns, dict[str, dict[str, Gains]]]:
    """The drawn lines, and of each method and metric what each of them has, [L].

    The same lines are drawn of the same number every time, all if there are no more.

    Args:
        scored: the towers' scores of all lines. name: what the towers are called.
        measure: of a line, by the rankings that the towers and the baselines give it.
        lines: how many to draw.
    """
    drawn = negatives.draw(lines, pool=trial.examples.lines, seed=(0,)) - 1
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    measured_lines = []
    for some, score_BN in scored:
        for at in np.flatnonzero(np.isin(some, drawn)):
            line = int(some[at])
            query, owned = trial.examples.queries[line], trial.owned[line]
            orders = {
                name: np.argsort(-score_BN[at], kind="stable"),
                "most popular": np.arange(len(trial.candidates)),
                **baselines.rankings(trial.index, query, owned),
            }
            measured_lines.append(line)
            for method, values in measure(line, orders).items():
                for metric, value in values.items():
                    found[method][metric].append(value)
    return np.array(measured_lines, np.int64), {
        method: {metric: np.array(each, np.float64) for metric, each in of_method.items()}
        for method, of_method in found.items()
    }
