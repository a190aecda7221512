"""Losses over one set of columns that all lines of a batch share (MGDSPR 3.4, and log q).

Shape legend: B lines, N columns (distinct items), K further negatives of a line.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True, kw_only=True)
class Mix:
    """Relevance-improving hard negatives, `i_mix = α i⁺ + (1-α) i_hard`, α ~ U(low, high) (3.4).

    Attributes:
        most: hard negatives of a line, the largest scores.
        share: at most this share of the negatives; the smaller bound counts. Of 2,048, the set
            here, that is the paper's 684; of fewer a third as well.
        through_positive: whether the gradient flows into `i⁺` through the mix too.
        corrected: where log q corrects the positive's score, by as much: the odds between the two
            are then those of their scores alone. Without, a mix of a rare item weighs next to
            nothing beside it.
    """

    low: float = 0.4
    high: float = 0.6
    most: int = 684
    share: float = 684 / 2048
    through_positive: bool = True
    corrected: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.high <= 1:
            raise ValueError("a mix needs 0 <= low <= high <= 1")
        if self.most < 1 or not 0 < self.share <= 1:
            raise ValueError("a mix needs most >= 1 and 0 < share <= 1")


def sampled_softmax(
    score_BN: Tensor,
    *,
    positive_B: Tensor,
    excluded_BN: Tensor,
    log_q_N: Tensor | None,
    correct_positive: bool,
    further_BK: Tensor | None = None,
    reward_B: Tensor | None = None,
) -> Tensor:
    """Cross-entropy of each line's item against all columns.

    Each item is one column, however many sources hold it, so that other occurrences of the
    positive are no negatives. Popular items are among the columns too often; log q corrects that in
    one of two ways, each right in its own sense (both are tested on problems with known chances):

    * negatives only: each weighs one over its chance to be there and the positive, which is there
      for certain, weighs one. The sum over the columns is an unbiased estimate of the sum over all
      items: the gradient tends to the full softmax's as the columns grow.
    * the positive too: which column was taken is then a proper question whose right answer is the
      full softmax's, so that its optimum is the same, however few columns there are.

    Args:
        score_BN: scores over the temperature.
        positive_B: each line's column.
        excluded_BN: columns left out of a line's sum (the rest of its own basket).
        log_q_N: natural log of each item's chance to be among the columns (`negatives.Chances`),
            or None for plain sampled softmax.
        correct_positive: whether the positive's score is corrected as well.
        further_BK: scores of a line's further negatives, which no chance has brought (`mixed`, and
            the hard sources of `negatives`); -inf for none.
        reward_B: what each line's loss weighs in the mean; None for 1.
    Returns: mean loss in nats, scalar.
    Source: Bengio & Senecal, 2008 (negatives); Yi et al., RecSys 2019 (all).
    """
    logit_BN = score_BN
    if log_q_N is not None:
        correction_BN = (-log_q_N).expand_as(score_BN)
        if not correct_positive:
            correction_BN = correction_BN.scatter(1, positive_B.unsqueeze(1), 0.0)
        logit_BN = logit_BN + correction_BN
    logit_BN = logit_BN.masked_fill(excluded_BN, -torch.inf)
    if further_BK is not None and further_BK.shape[1]:  # to join nothing would copy all
        logit_BN = torch.cat([logit_BN, further_BK], 1)
    if reward_B is None:
        return functional.cross_entropy(logit_BN, positive_B)
    return (reward_B * functional.cross_entropy(logit_BN, positive_B, reduction="none")).mean()


def mixed(
    score_BN: Tensor,
    *,
    positive_B: Tensor,
    excluded_BN: Tensor,
    negatives: int,
    mix: Mix,
    dice: torch.Generator,
) -> Tensor:
    """Scores of each line's mixed negatives, [B, K].

    The score is linear in the item: `α s⁺ + (1-α) s_hard`, and no mixed vector need be built. Not
    so for a cosine.

    Args:
        score_BN: as they are, uncorrected.
        negatives: how many columns are a line's negatives, the rest of its basket included.
    """
    own_B1 = positive_B.unsqueeze(1)
    score_positive_B1 = score_BN.gather(1, own_B1)
    if not mix.through_positive:
        score_positive_B1 = score_positive_B1.detach()
    negative_BN = score_BN.masked_fill(excluded_BN, -torch.inf).scatter(1, own_B1, -torch.inf)
    hard = max(1, min(mix.most, int(negatives * mix.share)))
    hard_BK = negative_BN.topk(hard, dim=1).values
    # Drawn on the processor: the same on every device.
    drawn_BK = torch.empty(hard_BK.shape, dtype=hard_BK.dtype)
    alpha_BK = drawn_BK.uniform_(mix.low, mix.high, generator=dice).to(hard_BK.device)
    return torch.where(
        hard_BK.isinf(), hard_BK, alpha_BK * score_positive_B1 + (1 - alpha_BK) * hard_BK
    )


def pairwise_hinge(
    score_BN: Tensor, *, positive_B: Tensor, excluded_BN: Tensor, margin: float
) -> Tensor:
    """`max(0, margin - s⁺ + s⁻)`, the mean over all pairs of a line's item and a negative."""
    own_B1 = positive_B.unsqueeze(1)
    negative_BN = (~excluded_BN).scatter(1, own_B1, value=False)
    hinge_BN = functional.relu(margin - score_BN.gather(1, own_B1) + score_BN)
    return hinge_BN[negative_BN].mean()
