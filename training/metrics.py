"""Ranks, and the metrics that follow from them, with one relevant item a line."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

KS = (10, 50, 100)
MISSED = np.iinfo(np.int64).max  # the rank of a target that is no candidate

Ranks = npt.NDArray[np.int64]


def ranks_of(score_BN: npt.NDArray[np.floating], target_B: npt.NDArray[np.integer]) -> Ranks:
    """How many candidates stand before each line's target: 0 is the best, MISSED for target -1.

    Of equal scores the candidate with the smaller column stands first.
    """
    rows = np.arange(len(target_B))
    known_B = target_B >= 0
    own_B1 = score_BN[rows, np.where(known_B, target_B, 0)][:, None]
    rank_B: Ranks = (score_BN > own_B1).sum(1).astype(np.int64)
    equal_B = (score_BN == own_B1).sum(1)
    for row in np.flatnonzero((equal_B > 1) & known_B):
        rank_B[row] += np.count_nonzero(score_BN[row, : target_B[row]] == own_B1[row])
    rank_B[~known_B] = MISSED
    return rank_B


def summary(rank_B: Ranks, ks: Sequence[int] = KS) -> dict[str, float]:
    """Mean `recall@k` and `ndcg@k` of the lines; no lines, no metrics.

    With one relevant item, recall@k is 1 if it is in the top k and ndcg@k is 1 / log2(rank + 2).
    """
    if not len(rank_B):
        return {}
    found: dict[str, float] = {f"recall@{k}": float((rank_B < k).mean()) for k in ks}
    gain_B = 1.0 / np.log2(np.minimum(rank_B, 2**52) + 2.0)
    return found | {f"ndcg@{k}": float(np.where(rank_B < k, gain_B, 0.0).mean()) for k in ks}
