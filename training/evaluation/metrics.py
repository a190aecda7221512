"""Ranks, and the metrics that follow from them, with one relevant item a line."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

KS = (10, 50, 100, 500, 1_000)
MISSED = np.iinfo(np.int64).max  # the rank of a target that is no candidate

Ranks = npt.NDArray[np.int64]
Gains = npt.NDArray[np.float64]


def ranks_of(score_BN: npt.NDArray[np.floating], target_B: npt.NDArray[np.integer]) -> Ranks:
    """How many candidates stand before each line's target: 0 is the best, MISSED for target -1.

    Of equal scores the candidate with the smaller column stands first. A score that is no number
    is a miss.
    """
    rows = np.arange(len(target_B))
    known_B = target_B >= 0
    own_B1 = score_BN[rows, np.where(known_B, target_B, 0)][:, None]
    rank_B: Ranks = (score_BN > own_B1).sum(1).astype(np.int64)
    equal_B = (score_BN == own_B1).sum(1)
    for row in np.flatnonzero((equal_B > 1) & known_B):
        rank_B[row] += np.count_nonzero(score_BN[row, : target_B[row]] == own_B1[row])
    rank_B[~known_B | np.isnan(own_B1[:, 0])] = MISSED
    return rank_B


def gains(rank_B: Ranks, *, pool: int | None, ks: Sequence[int] = KS) -> dict[str, Gains]:
    """What each line has of each metric, [B]; the metric is the mean over lines.

    `recall@k`: whether the line's item is in the top k. `ndcg@k`: 1 / log2(rank + 2) if it is.
    `mrr`: 1 / (rank + 1). `auc`: the share of the other candidates that stand behind the item. A
    miss has nothing of any.

    Args:
        pool: how many candidates there are; None where lines have some each: then without `auc`.
    """
    missed_B = rank_B == MISSED
    rank_B = np.where(missed_B, 0, rank_B)
    ndcg_B = 1.0 / np.log2(rank_B + 2.0)
    inside = {k: ~missed_B & (rank_B < k) for k in ks}
    found = {
        **{f"recall@{k}": inside_B.astype(np.float64) for k, inside_B in inside.items()},
        **{f"ndcg@{k}": np.where(inside_B, ndcg_B, 0.0) for k, inside_B in inside.items()},
        "mrr": np.where(missed_B, 0.0, 1.0 / (rank_B + 1.0)),
    }
    if pool is not None:
        found["auc"] = np.where(missed_B, 0.0, 1.0 - rank_B / max(pool - 1, 1))
    return found
