"""In-batch sampled softmax, over the distinct items of a batch (systems.md 1.5 and 4).

Shape legend: B lines, P distinct items of the batch, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def in_batch_softmax(
    user_BD: Tensor,
    item_PD: Tensor,
    *,
    positive_B: Tensor,
    false_negative_BP: Tensor,
    log_q_P: Tensor | None,
    correct_positive: bool,
    temperature: float,
) -> Tensor:
    """Cross-entropy of each line's item against the batch's other items.

    Each item is one column, however often it was taken, so that other occurrences of the positive
    are no negatives. Popular items are in the batch too often; log q corrects that in one of two
    ways, each right in its own sense (both are tested on problems with known chances):

    * negatives only: each weighs one over its chance to be in the batch and the positive, which is
      there for certain, weighs one. The sum over the batch is an unbiased estimate of the sum over
      all items: the gradient tends to the full softmax's as the batch grows.
    * the positive too: which item of the batch was taken is then a proper question whose right
      answer is the full softmax's, so that its optimum is the same, whatever the batch's size.

    Args:
        user_BD, item_PD: vectors; the score is their inner product over the temperature.
        positive_B: each line's column.
        false_negative_BP: columns left out of a line's sum (the rest of its own basket).
        log_q_P: natural log of the chance that other requests of the batch hold the item, or None
            for plain in-batch softmax.
        correct_positive: whether the positive's score is corrected as well.
    Returns: mean loss in nats, scalar.
    Source: Bengio & Senecal, 2008 (negatives); Yi et al., RecSys 2019 (all).
    """
    score_BP = user_BD @ item_PD.T / temperature
    if log_q_P is not None:
        correction_BP = (-log_q_P).expand_as(score_BP)
        if not correct_positive:
            correction_BP = correction_BP.scatter(1, positive_B.unsqueeze(1), 0.0)
        score_BP = score_BP + correction_BP
    score_BP = score_BP.masked_fill(false_negative_BP, -torch.inf)
    return functional.cross_entropy(score_BP, positive_B)
