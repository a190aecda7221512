"""What is said of users' own last lines beside the usual: ranks among what each has not had.

Shape legend: N candidates, B lines.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from pagoda.bundle import Metric
from training import unseen
from training.lines import Week
from training.metrics import summary
from training.unseen import Scored

if TYPE_CHECKING:
    from training.evaluate import Trial

_LINES_PER_PASS = 64


def metrics(trial: Trial, name: str, scored: Iterable[Scored], *, week: Week) -> Iterator[Metric]:
    """Of the method that has scored all lines, then of popularity."""
    examples, request_B = trial.examples, trial.examples.request_B
    moments = np.stack([examples.user_key_U[request_B], examples.t_ms_U[request_B]], 1)
    drawn_BK = unseen.draw(
        trial.owned, trial.targets, moments.tolist(), candidates=len(trial.candidates)
    )
    for method, scores in ((name, scored), ("most popular", _popularity(trial))):
        found = unseen.ranks(scores, trial.owned, trial.targets, drawn_BK)
        for rows, rank_B in found.items():
            values = summary(rank_B)
            yield Metric(week=week, method=method, rows=rows, count=len(rank_B), values=values)


def _popularity(trial: Trial) -> Iterator[Scored]:
    """Scores that fall from candidate to candidate: they stand in order of popularity."""
    score_N = -np.arange(len(trial.candidates), dtype=np.float32)
    lines_B = np.arange(trial.examples.lines)
    for start in range(0, len(lines_B), _LINES_PER_PASS):
        lines = lines_B[start : start + _LINES_PER_PASS]
        yield lines, np.broadcast_to(score_N, (len(lines), len(score_N)))
