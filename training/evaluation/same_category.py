"""`category@K`: which share of the towers' first K stands in the taken item's category.

It says whether towers read the query, and nothing of relevance: queries may be words of categories,
and what people look for may stand in several.

Shape legend: B lines, L of them at a time, N candidates, K first ones.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from training.evaluation.metrics import Gains
from training.evaluation.scores import Columns, Scores
from training.evaluation.trial import Trial

ROWS = "all, by category"
KS = (10, 100)


class SameCategory:
    """What reads the towers' scores of the trial's lines.

    Attributes:
        known_B: whether the taken item has a category; the others are not counted.
    """

    def __init__(self, trial: Trial, *, ks: Sequence[int] = KS) -> None:
        self._ks = [min(k, len(trial.candidates)) for k in ks]
        self._names = [f"category@{k}" for k in ks]
        categories = trial.catalogue.table["category"].combine_chunks().dictionary_encode()
        number = categories.indices.fill_null(-1).to_numpy()
        self._candidate_N = torch.from_numpy(number[trial.candidates - 1])
        item_B = trial.examples.item_B
        self._taken_B = np.where(item_B > 0, number[item_B - 1], -1)
        self.known_B = self._taken_B >= 0
        self._share_BK = np.empty((trial.examples.lines, len(ks)))

    def read(self, lines: Columns, score_BN: Scores) -> None:
        """As `Reader` has it."""
        first_LK = torch.from_numpy(score_BN).topk(max(self._ks)).indices
        taken_L = torch.from_numpy(self._taken_B[lines])
        same_LK = (self._candidate_N[first_LK] == taken_L.unsqueeze(1)).numpy()
        for at, k in enumerate(self._ks):
            self._share_BK[lines, at] = same_LK[:, :k].mean(1)

    def gains(self) -> dict[str, Gains]:
        """Shares of the lines whose item has a category, by metric."""
        share_BK = self._share_BK[self.known_B]
        return {name: share_BK[:, at] for at, name in enumerate(self._names)}
