"""SASRec: self-attentive sequential recommendation (Kang & McAuley, ICDM 2018).

Equations, departures and results: docs/models/sasrec.md. Section numbers are the paper's.

Shape legend
    B lines   U requests   G requests of about equally many clicks   T clicks of a request
    M distinct items   D width
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from pagoda.models.base import TwoTowers
from pagoda.models.inputs import ItemBatch, Padded, UserBatch
from pagoda.models.parts import SelfAttention
from pagoda.models.tables import ItemEmbedding, Sizes


@dataclass(frozen=True, kw_only=True)
class SasrecConfig:
    """Widths and switches.

    Attributes:
        query: what the towers look for is said by the clicks alone, the last of which asks.
        length: n, how many clicks are looked at, at most; the newest.
        blocks: of self-attention and FFN, above each other.
        dropout: of embedded clicks, of what attention and FFN add, and within the FFN.
        causal: a click sees those before it (False: those after it too, but for the last one).
        item_side: items carry category, brand and shop (False: their id alone, as printed).
    """

    width: int = 64
    attribute_width: int = 32
    query: Literal["last_item"] = "last_item"
    length: int = 50
    blocks: int = 2
    heads: int = 1
    dropout: float = 0.5
    causal: bool = True
    item_side: bool = False

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not divisible by {self.heads} heads")
        if min(self.length, self.blocks) < 1:
            raise ValueError("length and blocks must be at least 1")

    def build(self, sizes: Sizes) -> Sasrec:
        """The model with these tables, randomly initialised."""
        return Sasrec(self, sizes)


class Sasrec(TwoTowers):
    """What the last click has become after attention over those before it; score = user · item."""

    def __init__(self, config: SasrecConfig, sizes: Sizes) -> None:
        super().__init__()
        self.config = config
        self.item = ItemEmbedding(
            sizes, width=config.width, attribute_width=config.attribute_width, side=config.item_side
        )
        self.positions = nn.Parameter(torch.randn(config.length, config.width) * 0.01)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.blocks))
        self.norm = nn.LayerNorm(config.width)

    def encode_item(self, items: ItemBatch) -> Tensor:
        """Item vectors, [M, D]; the same as in a sequence (3.4)."""
        return self.item.embed(items)

    def encode_user(self, batch: UserBatch) -> Tensor:
        """User vectors, [B, D]; without clicks the last norm's bias."""
        e_MD = self.encode_item(batch.items)
        clicks = batch.long_term["click"].padded().beside(batch.clicks).newest(self.config.length)
        last_UD = self.positions.new_zeros(len(clicks.mask_UT), self.config.width)
        for request_G, some in clicks.by_length():
            last_GD = self._last(some, e_MD)
            last_UD = last_UD.index_copy(0, request_G, last_GD.to(last_UD.dtype))
        out: Tensor = self.norm(last_UD).index_select(0, batch.request_B)
        return out

    def _last(self, clicks: Padded, e_MD: Tensor) -> Tensor:
        """What each row's last click has become, [G, D]."""
        last_G1 = clicks.mask_UT.sum(1, keepdim=True) - 1
        # A position says how many clicks have come since.
        row_G, at_T = (torch.arange(n, device=last_G1.device) for n in clicks.mask_UT.shape)
        since_GT = (last_G1 - at_T).clamp(min=0)
        x_GTD = functional.embedding(clicks.at_UT, e_MD)
        x_GTD = self.dropout(x_GTD + functional.embedding(since_GT, self.positions))
        for block in self.blocks:
            x_GTD = block(x_GTD, clicks.mask_UT)
        last_GD: Tensor = x_GTD[row_G, last_G1.squeeze(1)]
        return last_GD


class Block(nn.Module):
    """`x + drop(attention(LN(x)))`, then `x + drop(FFN(LN(x)))` (3.2, 3.3)."""

    def __init__(self, config: SasrecConfig) -> None:
        super().__init__()
        width = config.width
        self.norm_attention = nn.LayerNorm(width)
        self.attention = SelfAttention(width, config.heads, scaled=True, causal=config.causal)
        self.norm_ffn = nn.LayerNorm(width)
        self.ffn = nn.Sequential(
            nn.Linear(width, width), nn.ReLU(), nn.Dropout(config.dropout), nn.Linear(width, width)
        )
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x_GTD: Tensor, mask_GT: Tensor) -> Tensor:
        """[G, T, D]; masked positions are finite and mean nothing."""
        x_GTD = x_GTD + self.dropout(self.attention(self.norm_attention(x_GTD), mask_GT))
        out: Tensor = x_GTD + self.dropout(self.ffn(self.norm_ffn(x_GTD)))
        return out
