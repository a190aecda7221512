"""What stands in for a query where there is none: the item that the user clicked last.

Shape legend: B lines, U requests, X texts, M distinct items of the batch, D width.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pagoda.models.inputs import ItemBatch, UserBatch


def last_clicked(batch: UserBatch) -> ItemBatch:
    """Each request's last clicked item, U items.

    The newest real-time click, or without any the newest long-term one; without that the unknown
    item, which embeds to zero.
    """
    real_time, clicks = batch.real_time, batch.long_term["click"]
    count_U = real_time.mask_UT.sum(1)
    newest_U = real_time.at_UT.gather(1, (count_U - 1).clamp(min=0).unsqueeze(1)).squeeze(1)
    ends_U = clicks.starts_U + clicks.lengths
    # Place 0 of the batch's items is the unknown one; it stands before the first bag too.
    at = torch.cat([clicks.at.new_zeros(1), clicks.at])
    older_U = at[torch.where(ends_U > clicks.starts_U, ends_U, 0)]
    place_U = torch.where(count_U > 0, newest_U, older_U)
    return batch.items.take(place_U)


def stand_in(batch: UserBatch, embed: Callable[[ItemBatch], Tensor]) -> Tensor | None:
    """What stands in the place of the words' mean, [B, D]: 0 for lines that have words.

    None where all of them have, so that nothing need be computed.

    Args:
        embed: how the model embeds an item, [M, D].
    """
    wordless_X = ~(batch.texts.words_XN > 0).any(1)
    wordless_B = wordless_X.index_select(0, batch.text_B)
    if not wordless_B.any():
        return None
    last_BD = embed(last_clicked(batch)).index_select(0, batch.request_B)
    return last_BD * wordless_B.unsqueeze(1)
