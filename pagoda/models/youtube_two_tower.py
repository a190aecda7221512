"""YouTube's two-tower model with sampling-bias correction (Yi et al., RecSys 2019).

Equations, departures and results: docs/models/youtube_two_tower.md. The correction is the loop's:
`training/frequency.py`.

Shape legend: B lines, M items, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pagoda.models.base import TwoTowers
from pagoda.models.inputs import ItemBatch, UserBatch
from pagoda.models.parts import mlp, scaled
from pagoda.models.query import QueryDnn
from pagoda.models.tables import ItemEmbedding, Sizes


@dataclass(frozen=True, kw_only=True)
class YoutubeTwoTowerConfig:
    """Widths and switches.

    Attributes:
        width: of the vectors, the last layer of both DNNs. hidden: the layers before it.
        embedding_width: of ids and text units.
        item_side: items carry category, brand and shop.
        unit_length: vectors are L2-normalised; scores are then cosines.
    """

    width: int = 128
    hidden: tuple[int, ...] = (512, 256)
    embedding_width: int = 64
    attribute_width: int = 32
    item_side: bool = True
    unit_length: bool = True

    def build(self, sizes: Sizes) -> YoutubeTwoTower:
        """The model with these tables, randomly initialised."""
        return YoutubeTwoTower(self, sizes)


class YoutubeTwoTower(TwoTowers):
    """Two DNNs over one id table; score = cos(user, item)."""

    def __init__(self, config: YoutubeTwoTowerConfig, sizes: Sizes) -> None:
        super().__init__()
        self.config = config
        width = config.embedding_width
        self.items = ItemEmbedding(
            sizes, width=width, attribute_width=config.attribute_width, side=config.item_side
        )
        self.query_dnn = QueryDnn(width, [*config.hidden, config.width])
        self.item_dnn = mlp([2 * width, *config.hidden, config.width])

    def encode_user(self, batch: UserBatch) -> Tensor:
        """User vectors, [B, D]."""
        return scaled(self.query_dnn(self.items, batch), unit_length=self.config.unit_length)

    def encode_item(self, items: ItemBatch) -> Tensor:
        """`DNN([e_i; mean(title)])`, [M, D]."""
        known_MD = torch.cat([self.items.embed(items), self.items.tables.title(items)], -1)
        return scaled(self.item_dnn(known_MD), unit_length=self.config.unit_length)
