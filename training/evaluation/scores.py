"""The towers' scores of all candidates: gone through once, however many want to know of them.

All of them would be as many as lines times candidates. So they come some lines at a time, and each
reader keeps a little of every line.

Shape legend: B lines, N candidates, D width.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pagoda.console import watched
from pagoda.models.base import TwoTowers
from training.evaluation.metrics import ranks_of
from training.evaluation.trial import Trial
from training.vectors import encode_lines

_SCORES_PER_PASS = 50_000_000
Columns = npt.NDArray[np.integer]  # places among the candidates
Scores = npt.NDArray[np.floating]
Scored = tuple[Columns, Scores]  # some lines by number, and their scores of all candidates


class Reader(Protocol):
    """What is to be known of each line's scores."""

    def read(self, lines: Columns, score_BN: Scores) -> None:
        """Some lines; every line comes once."""


def read(scored: Iterable[Scored], readers: Sequence[Reader]) -> None:
    """Show all scores to every reader."""
    for lines, score_BN in scored:
        for each in readers:
            each.read(lines, score_BN)


class TargetRanks:
    """Each line's rank of its own item.

    Attributes:
        rank_B: as `ranks_of` has it.
    """

    def __init__(self, target_B: Columns) -> None:
        self._target_B = target_B
        self.rank_B = np.empty(len(target_B), np.int64)

    def read(self, lines: Columns, score_BN: Scores) -> None:
        """As `Reader` has it."""
        self.rank_B[lines] = ranks_of(score_BN, self._target_B[lines])


def by_towers(
    trial: Trial,
    model: TwoTowers,
    item_vectors: npt.NDArray[np.float32],
    *,
    users: Iterable[tuple[Columns, Tensor]] | None = None,
) -> Iterator[Scored]:
    """Some lines and their scores of all candidates, until every line had its turn.

    Args:
        item_vectors: of the whole catalogue, row = item number - 1.
        users: lines and their vectors; None: all lines, with a bar on a terminal.
    """
    item_ND = torch.from_numpy(item_vectors)[torch.from_numpy(trial.candidates - 1).long()]
    at_once = max(1, _SCORES_PER_PASS // len(item_ND))
    for lines, user_BD in user_vectors(trial, model) if users is None else users:
        for start in range(0, len(lines), at_once):
            some = slice(start, start + at_once)
            yield lines[some], (user_BD[some] @ item_ND.T).numpy()


def user_vectors(trial: Trial, model: TwoTowers) -> Iterator[tuple[Columns, Tensor]]:
    """Some lines and their vectors [B, D], with a bar on a terminal."""
    return encode_lines(
        model,
        trial.examples,
        trial.catalogue,
        watched=lambda passes: watched(passes, "towers, by requests"),
    )
