"""BST: behaviour sequence transformer (Chen et al., DLP-KDD 2019), a ranking model.

It looks at user and item together, so nothing can be searched by it: it orders what was found.
Equations, departures and results: docs/models/bst.md.

Shape legend
    P pairs of a line and a target item   B lines   U requests   M distinct items
    E events looked at   T = 1 + E places: the target, then events, the newest first   D width
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from pagoda.models.inputs import ItemBatch, UserBatch
from pagoda.models.parts import SelfAttention, mlp, unit_mean
from pagoda.models.tables import Sizes, Table

# Rows of the table of times: 0 is padding, then the target's own, then ages.
_NOW = 1
_TIMES = 28  # the last one is for 388 days and more


@dataclass(frozen=True, kw_only=True)
class BstConfig:
    """Widths and switches.

    Attributes:
        item_width, attribute_width, time_width: of a place's parts: id, leaf category and time.
        text_width: of query and title words.
        events: how many real-time events are looked at, at most; the newest.
        hidden: the layers behind the places.
        transformer: places see each other (False: they stay as they were embedded).
        time: places say how long ago they were (False: nothing does but their order).
    """

    item_width: int = 32
    attribute_width: int = 16
    time_width: int = 16
    text_width: int = 32
    heads: int = 8
    events: int = 20
    hidden: tuple[int, ...] = (1024, 512, 256)
    dropout: float = 0.2
    transformer: bool = True
    time: bool = True

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not divisible by {self.heads} heads")
        if self.events < 1:
            raise ValueError("BST needs events >= 1")

    @property
    def width(self) -> int:
        """D: the parts behind each other."""
        return self.item_width + self.attribute_width + self.time_width

    def build(self, sizes: Sizes) -> Bst:
        """The model with these tables, randomly initialised."""
        return Bst(self, sizes)


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """P pairs of a line and a target item.

    Attributes:
        user: the lines and their requests. targets: the M distinct items.
        line_P, target_P: each pair's line in `user`, and its item's place among the targets.
    """

    user: UserBatch
    targets: ItemBatch
    line_P: Tensor
    target_P: Tensor


class Bst(nn.Module):
    """How likely a line's user takes an item."""

    def __init__(self, config: BstConfig, sizes: Sizes) -> None:
        super().__init__()
        self.config = config
        self.item = Table.of(sizes, "item", config.item_width)
        self.leaf = Table.of(sizes, "leaf", config.attribute_width)
        self.word = Table.of(sizes, "word", config.text_width)
        if config.time:
            self.time = Table(_TIMES, config.time_width)
        if config.transformer:
            self.block = Block(config)
        places = (1 + config.events) * config.width
        others = 3 * config.text_width + sizes.stats
        self.head = mlp([places + others, *config.hidden, 1], nn.LeakyReLU)

    def forward(self, pairs: Pairs) -> Tensor:
        """Log odds that the item is taken, [P]."""
        batch, targets = pairs.user, pairs.targets
        request_P = batch.request_B.index_select(0, pairs.line_P)
        event_UED, mask_UE = self._events(batch)
        target_MD = self._places(self._embed(targets), torch.full_like(targets.item_M, _NOW))
        x_PTD = torch.cat(
            [target_MD[pairs.target_P].unsqueeze(1), event_UED.index_select(0, request_P)], 1
        )
        mask_PT = functional.pad(mask_UE.index_select(0, request_P), (1, 0), value=True)
        if self.config.transformer:
            x_PTD = self.block(x_PTD, mask_PT)
        places_P = (x_PTD * mask_PT.unsqueeze(-1)).flatten(1)
        logit_P1: Tensor = self.head(torch.cat([places_P, self._others(pairs, request_P)], -1))
        return logit_P1.squeeze(-1)

    def _events(self, batch: UserBatch) -> tuple[Tensor, Tensor]:
        """The newest events as places, [U, E, D], and which there are, [U, E]."""
        length_U1 = batch.real_time.mask_UT.sum(1, keepdim=True)
        back_UE = length_U1 - 1 - torch.arange(self.config.events)
        at_UE = back_UE.clamp(min=0)
        item_UED = functional.embedding(
            batch.real_time.at_UT.gather(1, at_UE), self._embed(batch.items)
        )
        age_UE = batch.real_time_age_s_UT.gather(1, at_UE)
        return self._places(item_UED, time_number(age_UE)), back_UE >= 0

    def _embed(self, items: ItemBatch) -> Tensor:
        """`id ⧺ category`, [M, width of both]."""
        return torch.cat([self.item(items.item_M), self.leaf(items.attributes["leaf"])], -1)

    def _places(self, item: Tensor, time: Tensor) -> Tensor:
        """`id ⧺ category ⧺ time`, [..., D]."""
        if self.config.time:
            return torch.cat([item, self.time(time)], -1)
        return functional.pad(item, (0, self.config.time_width))

    def _others(self, pairs: Pairs, request_P: Tensor) -> Tensor:
        """Query, title, what they share, and the user's statistics, [P, 3 · text width + F]."""
        query_XD = unit_mean(self.word, pairs.user.texts.words_XN)
        query_PD = query_XD[pairs.user.text_B[pairs.line_P]]
        title_PD = unit_mean(self.word, pairs.targets.title_words())[pairs.target_P]
        stats_PF = pairs.user.stats_UF.index_select(0, request_P)
        return torch.cat([query_PD, title_PD, query_PD * title_PD, stats_PF], -1)


class Block(nn.Module):
    """`S' = LN(S + drop(MHA(S)))`, `F = LN(S' + drop(LeakyReLU(S' W1) W2))`."""

    def __init__(self, config: BstConfig) -> None:
        super().__init__()
        width = config.width
        self.attention = SelfAttention(width, config.heads, scaled=True)
        self.norm_attention = nn.LayerNorm(width)
        self.ffn = mlp([width, 4 * width, width], nn.LeakyReLU)
        self.norm_ffn = nn.LayerNorm(width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x_PTD: Tensor, mask_PT: Tensor) -> Tensor:
        """[P, T, D]; masked positions are finite and mean nothing."""
        x_PTD = self.norm_attention(x_PTD + self.dropout(self.attention(x_PTD, mask_PT)))
        out: Tensor = self.norm_ffn(x_PTD + self.dropout(self.ffn(x_PTD)))
        return out


def time_number(age_s: Tensor) -> Tensor:
    """The time table's row of an age in whole seconds: one for each doubling of 1 + age."""
    bits = torch.frexp((1 + age_s).double()).exponent  # as Python's `bit_length`
    return (_NOW + bits.long()).clamp(max=_TIMES - 1)
