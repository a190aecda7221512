"""What is said of users' own last lines beside the usual: ranks among what each has not had.

Shape legend: N candidates, B lines.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from training import unseen
from training.metrics import Ranks
from training.trial import Trial
from training.unseen import Scored

_LINES_PER_PASS = 64


def ranks(trial: Trial, name: str, scored: Iterable[Scored]) -> dict[str, dict[str, Ranks]]:
    """Of the method that has scored all lines and of popularity, by what they are among."""
    examples, request_B = trial.examples, trial.examples.request_B
    moments = np.stack([examples.user_key_U[request_B], examples.t_ms_U[request_B]], 1)
    drawn_BK = unseen.draw(
        trial.owned, trial.targets, moments.tolist(), candidates=len(trial.candidates)
    )
    of_method = {
        method: unseen.ranks(scores, trial.owned, trial.targets, drawn_BK)
        for method, scores in ((name, scored), ("most popular", _popularity(trial)))
    }
    return {
        rows: {method: found[rows] for method, found in of_method.items()}
        for rows in of_method[name]
    }


def _popularity(trial: Trial) -> Iterator[Scored]:
    """Scores that fall from candidate to candidate: they stand in order of popularity."""
    score_N = -np.arange(len(trial.candidates), dtype=np.float32)
    lines_B = np.arange(trial.examples.lines)
    for start in range(0, len(lines_B), _LINES_PER_PASS):
        lines = lines_B[start : start + _LINES_PER_PASS]
        yield lines, np.broadcast_to(score_N, (len(lines), len(score_N)))
