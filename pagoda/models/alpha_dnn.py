"""alpha-DNN: the baseline of MGDSPR's paper.

An MLP over mean-pooled query units, mean-pooled sequences and user statistics; the item tower and
the loss are MGDSPR's. Without a query `e_i` of the item clicked last stands in the place of the
words' mean. Docs: docs/models/alpha_dnn.md.

Shape legend: B lines, U requests, M distinct items, X distinct texts, D width, F statistics.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from pagoda.models.base import TwoTowers
from pagoda.models.inputs import ItemBatch, UserBatch
from pagoda.models.last_item import stand_in
from pagoda.models.parts import mlp, sequence_mean, unit_mean
from pagoda.models.tables import TEXT_UNITS, ItemTower, Sizes
from pagoda.windows import LONG_TERM_ACTIONS

_SEQUENCE_FEATURES = 3 + len(LONG_TERM_ACTIONS)


@dataclass(frozen=True, kw_only=True)
class AlphaDnnConfig:
    """Widths.

    Attributes:
        hidden: widths of the hidden layers.
        item_side: items carry category, brand and shop.
        stats: user statistics take part.
    """

    width: int = 64
    attribute_width: int = 32
    hidden: tuple[int, ...] = (256, 128)
    item_side: bool = True
    stats: bool = True

    def __post_init__(self) -> None:
        if not self.hidden:
            raise ValueError("alpha-DNN needs at least one hidden layer")

    def build(self, sizes: Sizes) -> AlphaDnn:
        """The model with these tables, randomly initialised."""
        return AlphaDnn(self, sizes)


class AlphaDnn(TwoTowers):
    """Two towers; score = user · item."""

    def __init__(self, config: AlphaDnnConfig, sizes: Sizes) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.item_tower = ItemTower(
            sizes, width=width, attribute_width=config.attribute_width, side=config.item_side
        )
        # The first layer over [text; behaviour] is the sum of one over each: the text's share is
        # computed once a distinct text, the behaviour's once a request.
        self.text_layer = nn.Linear(TEXT_UNITS * width, config.hidden[0])
        self.behaviour_layer = nn.Linear(
            _SEQUENCE_FEATURES * width + (sizes.stats if config.stats else 0),
            config.hidden[0],
            bias=False,
        )
        self.deep = mlp([*config.hidden, width])

    def encode_item(self, items: ItemBatch) -> Tensor:
        """Item vectors, [M, D]."""
        out: Tensor = self.item_tower(items)
        return out

    def encode_user(self, batch: UserBatch) -> Tensor:
        """User vectors, [B, D]."""
        tables = self.item_tower.tables
        e_MD = self.item_tower.embed(batch.items)
        behaviour_U = [
            sequence_mean(e_MD, batch.real_time),
            sequence_mean(e_MD, batch.short_term),
            *(
                functional.embedding_bag(bags.at, e_MD, bags.starts_U, mode="mean")
                for bags in batch.long_term.values()
            ),
            sequence_mean(unit_mean(tables.word, batch.past_words_YN), batch.queries),
        ]
        if self.config.stats:
            behaviour_U.append(batch.stats_UF)
        hidden_XD = self.text_layer(tables.units(batch.texts))
        hidden_UD = self.behaviour_layer(torch.cat(behaviour_U, -1))
        hidden_BD = hidden_XD.index_select(0, batch.text_B) + hidden_UD.index_select(
            0, batch.request_B
        )
        if (last_BD := stand_in(batch, self.item_tower.embed)) is not None:
            of_words = self.text_layer.weight[:, : self.config.width]
            hidden_BD = hidden_BD + functional.linear(last_BD, of_words)
        out: Tensor = self.deep(functional.relu(hidden_BD))
        return out
