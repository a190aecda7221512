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

from training.metrics import MISSED, Ranks, ranks_of

DRAWN = 100
NOT_DRAWN = -1

Columns = npt.NDArray[np.integer]
Scores = npt.NDArray[np.floating]
Scored = tuple[Columns, Scores]  # some lines by number, and their scores of all candidates


def ranks(
    scored: Iterable[Scored],
    owned: Sequence[Columns],
    target_B: Columns,
    drawn_BK: npt.NDArray[np.int64],
) -> dict[str, Ranks]:
    """Each line's rank among all unseen and among the drawn, by what it is among.

    Args:
        owned: of each line's user, the candidates it has had before the line, with repeats.
        target_B: each line's own candidate, -1 for none.
    """
    among_all, among_some = (np.empty(len(target_B), np.int64) for _ in range(2))
    for lines, score_BN in scored:
        of_lines = [owned[line] for line in lines]
        among_all[lines] = among_unseen(score_BN, of_lines, target_B[lines])
        among_some[lines] = among_drawn(score_BN, drawn_BK[lines], target_B[lines])
    return {"among unseen": among_all, f"among {drawn_BK.shape[1]} unseen": among_some}


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
        owned, target_B: as `ranks` takes them.
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
