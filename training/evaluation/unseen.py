"""Ranks among items that a line's user has not had: all of them, or a hundred drawn ones.

The protocol of many published tables ranks the taken item among 100 random unseen items. Such
numbers are far higher than ranks among all items and can only be compared with each other, so both
stand side by side. The drawn items are a sample of the others: uniform, distinct, never the line's
own item nor one that its user has had.

Shape legend: B lines, N candidates, K drawn.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from training.evaluation.metrics import MISSED, Ranks, ranks_of
from training.evaluation.scores import Columns, Scores

DRAWN = 100
NOT_DRAWN = -1


class UnseenRanks:
    """Each line's rank among all unseen and among the drawn.

    Args:
        owned: of each line's user, the candidates it has had before the line, with repeats.
        target_B: each line's own candidate, -1 for none.
        drawn_BK: as `draw` has it.

    Attributes:
        ranks: by what they are among, [B] each.
    """

    def __init__(
        self, owned: Sequence[Columns], target_B: Columns, drawn_BK: npt.NDArray[np.int64]
    ) -> None:
        self.owned, self.target_B, self.drawn_BK = owned, target_B, drawn_BK
        self._all_B, self._some_B = (np.empty(len(target_B), np.int64) for _ in range(2))
        self.ranks: dict[str, Ranks] = {
            "among unseen": self._all_B,
            f"among {drawn_BK.shape[1]} unseen": self._some_B,
        }

    def read(self, lines: Columns, score_BN: Scores) -> None:
        """As `training.evaluation.scores.Reader` has it."""
        target_B = self.target_B[lines]
        owned = [self.owned[line] for line in lines]
        self._all_B[lines] = among_unseen(score_BN, owned, target_B)
        self._some_B[lines] = among_drawn(score_BN, self.drawn_BK[lines], target_B)


def draw(
    owned: Sequence[Columns],
    target_B: Columns,
    seeds: Iterable[Sequence[int]],
    *,
    candidates: int,
    count: int = DRAWN,
) -> npt.NDArray[np.int64]:
    """Candidates drawn for each line, [B, count]; NOT_DRAWN where there are no more unseen ones.

    Args:
        owned, target_B: as `UnseenRanks` takes them.
        seeds: of each line: the same line draws the same, whatever lines are beside it.
    """
    drawn_BK = np.full((len(target_B), count), NOT_DRAWN, np.int64)
    for line, (own, target, seed) in enumerate(zip(owned, target_B, seeds, strict=True)):
        barred = np.append(own, target)
        # In random order, so that what is left is a fair draw of the others.
        size = min(candidates, count + len(np.unique(barred)))
        some = np.random.default_rng(seed).choice(candidates, size=size, replace=False)
        left = some[~np.isin(some, barred)][:count]
        drawn_BK[line, : len(left)] = left
    return drawn_BK


def among_unseen(score_BN: Scores, owned: Sequence[Columns], target_B: Columns) -> Ranks:
    """Each line's rank once all that its user has had, but for the target, is left out."""
    left_BN = np.array(score_BN, copy=True)
    for line, (own, target) in enumerate(zip(owned, target_B, strict=True)):
        left_BN[line, own[own != target]] = -np.inf
    return ranks_of(left_BN, target_B)


def among_drawn(score_BN: Scores, drawn_BK: npt.NDArray[np.int64], target_B: Columns) -> Ranks:
    """Each line's rank among its drawn candidates and its own; of equal scores as `ranks_of`."""
    own_B1 = np.where(target_B >= 0, target_B, 0)[:, None]
    own_score_B1 = np.take_along_axis(score_BN, own_B1, 1)
    score_BK = np.take_along_axis(score_BN, np.where(drawn_BK < 0, 0, drawn_BK), 1)
    before_BK = (score_BK > own_score_B1) | ((score_BK == own_score_B1) & (drawn_BK < own_B1))
    rank_B: Ranks = (before_BK & (drawn_BK != NOT_DRAWN)).sum(1).astype(np.int64)
    rank_B[target_B < 0] = MISSED
    return rank_B
