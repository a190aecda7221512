"""What is said of users' own last lines beside the usual: ranks among what each has not had.

Shape legend: N candidates, B lines.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from training.evaluation import scores, unseen
from training.evaluation.metrics import Ranks
from training.evaluation.scores import Scored
from training.evaluation.trial import Trial
from training.evaluation.unseen import UnseenRanks

_LINES_PER_PASS = 64


def reader(trial: Trial) -> UnseenRanks:
    """What reads a method's scores of the trial's lines."""
    examples, request_B = trial.examples, trial.examples.request_B
    moments = np.stack([examples.user_key_U[request_B], examples.t_ms_U[request_B]], 1)
    drawn_BK = unseen.draw(
        trial.owned, trial.targets, moments.tolist(), candidates=len(trial.candidates)
    )
    return UnseenRanks(trial.owned, trial.targets, drawn_BK)


def ranks(trial: Trial, name: str, towers: UnseenRanks) -> dict[str, dict[str, Ranks]]:
    """Of the method whose scores were read and of popularity, by what they are among."""
    popular = UnseenRanks(towers.owned, towers.target_B, towers.drawn_BK)
    scores.read(_popularity(trial), [popular])
    return {
        rows: {name: rank_B, "most popular": popular.ranks[rows]}
        for rows, rank_B in towers.ranks.items()
    }


def _popularity(trial: Trial) -> Iterator[Scored]:
    """Scores that fall from candidate to candidate: they stand in order of popularity."""
    score_N = -np.arange(len(trial.candidates), dtype=np.float32)
    lines_B = np.arange(trial.examples.lines)
    for start in range(0, len(lines_B), _LINES_PER_PASS):
        lines = lines_B[start : start + _LINES_PER_PASS]
        yield lines, np.broadcast_to(score_N, (len(lines), len(score_N)))
