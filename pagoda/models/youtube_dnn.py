"""YouTube DNN (Covington et al., RecSys 2016): the user encoder of CBNS too.

Equations, departures and results: docs/models/youtube_dnn.md.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from pagoda.models.base import TwoTowers
from pagoda.models.inputs import ItemBatch, UserBatch
from pagoda.models.parts import scaled
from pagoda.models.query import QueryDnn
from pagoda.models.tables import ItemTower, Sizes


@dataclass(frozen=True, kw_only=True)
class YoutubeDnnConfig:
    """Widths.

    Attributes:
        width: of embeddings and vectors. hidden: the DNN's layers before the last.
        item_side: items carry category, brand and shop.
        unit_length: vectors are L2-normalised; the softmax wants a temperature of about .05 then.
    """

    width: int = 64
    attribute_width: int = 32
    hidden: tuple[int, ...] = (256, 128)
    item_side: bool = True
    unit_length: bool = False

    def build(self, sizes: Sizes) -> YoutubeDnn:
        """The model with these tables, randomly initialised."""
        return YoutubeDnn(self, sizes)


class YoutubeDnn(TwoTowers):
    """A DNN over query and mean history against the item table; score = user · item."""

    def __init__(self, config: YoutubeDnnConfig, sizes: Sizes) -> None:
        super().__init__()
        self.config = config
        self.item_tower = ItemTower(
            sizes, width=config.width, attribute_width=config.attribute_width, side=config.item_side
        )
        self.query_dnn = QueryDnn(config.width, [*config.hidden, config.width])

    def encode_user(self, batch: UserBatch) -> Tensor:
        """User vectors, [B, D]."""
        return scaled(self.query_dnn(self.item_tower, batch), unit_length=self.config.unit_length)

    def encode_item(self, items: ItemBatch) -> Tensor:
        """Item vectors, [M, D]."""
        return scaled(self.item_tower(items), unit_length=self.config.unit_length)
