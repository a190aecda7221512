"""The user side of models that know a user by the mean of recent clicks.

Shape legend: B lines, U requests, M distinct items, D width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from pagoda.models.inputs import UserBatch
from pagoda.models.last_item import stand_in
from pagoda.models.parts import mlp, sequence_mean
from pagoda.models.tables import TEXT_UNITS, ItemEmbedding


class QueryDnn(nn.Module):
    """`DNN([text units of the query; mean e_i of the clicks])`.

    Without a query `e_i` of the item clicked last stands in the place of the words' mean.

    Args:
        width: of the embeddings. layers: widths of the DNN, the last that of the vector.
    """

    def __init__(self, width: int, layers: Sequence[int]) -> None:
        super().__init__()
        self.deep = mlp([(TEXT_UNITS + 1) * width, *layers])

    def forward(self, items: ItemEmbedding, batch: UserBatch) -> Tensor:
        """[B, last width]; `items` are shared with the item tower and stay its own."""
        text_XD = items.tables.units(batch.texts)
        clicks_UD = sequence_mean(items.embed(batch.items), batch.clicks)
        text_BD = text_XD.index_select(0, batch.text_B)
        if (last_BD := stand_in(batch, items.embed)) is not None:
            text_BD = text_BD + functional.pad(last_BD, (0, text_BD.shape[1] - last_BD.shape[1]))
        seen_BD = [text_BD, clicks_UD.index_select(0, batch.request_B)]
        out: Tensor = self.deep(torch.cat(seen_BD, -1))
        return out
