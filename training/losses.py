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
    temperature: float,
) -> Tensor:
    """Cross-entropy of each line's item against the batch's other items.

    Each item is one column, however often it was taken, so that other occurrences of the positive
    are no negatives. With log q, a negative's weight is one over its chance to be in the batch: the
    sum over the batch's negatives is then an unbiased estimate of the sum over all items, and the
    gradient tends to the full softmax's as the batch grows. The positive, which is there for
    certain, keeps weight one.

    Args:
        user_BD, item_PD: vectors; the score is their inner product over the temperature.
        positive_B: each line's column.
        false_negative_BP: columns left out of a line's sum (the rest of its own basket).
        log_q_P: natural log of the chance that other requests of the batch hold the item, or None
            for plain in-batch softmax.
    Returns: mean loss in nats, scalar.
    Source: Bengio & Senecal, 2008; Yi et al., RecSys 2019. Departure: Yi corrects the positive
        too, by the same q, which weighs it by 1/q where it stands once for certain.
    """
    score_BP = user_BD @ item_PD.T / temperature
    if log_q_P is not None:
        correction_BP = (-log_q_P).expand_as(score_BP)
        correction_BP = correction_BP.scatter(1, positive_B.unsqueeze(1), 0.0)
        score_BP = score_BP + correction_BP
    score_BP = score_BP.masked_fill(false_negative_BP, -torch.inf)
    return functional.cross_entropy(score_BP, positive_B)
