"""ZAM: zero attention model for personalised product search (Ai et al., CIKM 2019).

Equations, departures and results: docs/models/zam.md.

Shape legend
    B lines   U requests   C blocks of L lines of a request   T bought items
    M distinct items   N words of a title   K drawn words   D width   H rows of the attention (β)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from pagoda.models.base import TwoTowers
from pagoda.models.inputs import ItemBatch, Padded, UserBatch
from pagoda.models.last_item import stand_in
from pagoda.models.parts import attention_weights, unit_mean
from pagoda.models.tables import Sizes, Table


@dataclass(frozen=True, kw_only=True)
class ZamConfig:
    """Widths and switches.

    Attributes:
        rows: β, how many inner products the attention's score is made of.
        zero: a query may attend to nothing (False: AEM, softmax without exp 0).
        recent: the windows of recent clicks are history too; where a purchase counts as a click,
            as in data of purchases only, these are the newest of the bought items.
        drawn_words: words that each title word is told from in the items' own loss; 0 leaves the
            loss out.
    """

    width: int = 100
    rows: int = 2
    zero: bool = True
    recent: bool = True
    drawn_words: int = 5

    def __post_init__(self) -> None:
        if self.rows < 1 or self.drawn_words < 0:
            raise ValueError("ZAM needs rows >= 1 and drawn_words >= 0")

    def build(self, sizes: Sizes) -> Zam:
        """The model with these tables, randomly initialised."""
        return Zam(self, sizes)


class Zam(TwoTowers):
    """`(q + u) · i`: the query, and what of the user's purchases it attends to."""

    def __init__(self, config: ZamConfig, sizes: Sizes) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.word = Table.of(sizes, "word", width)
        self.item = Table.of(sizes, "item", width)
        self.query = nn.Linear(width, width)
        self.probe = nn.Linear(width, config.rows * width)
        self.row_weight = nn.Parameter(torch.full((config.rows,), 1 / config.rows))

    def encode_item(self, items: ItemBatch) -> Tensor:
        """Item vectors, [M, D]."""
        out: Tensor = self.item(items.item_M)
        return out

    def encode_user(self, batch: UserBatch) -> Tensor:
        """`q + u`, [B, D]."""
        query_BD = self._query(batch)
        weight_CLT, history_CTD = self._attention(query_BD, batch)
        return query_BD + batch.blocks.by_line(torch.bmm(weight_CLT, history_CTD))

    def history(self, batch: UserBatch) -> Padded:
        """What is attended to, [U, T]."""
        bought = batch.long_term["buy"].padded()
        return bought.beside(batch.clicks) if self.config.recent else bought

    def zero_share(self, batch: UserBatch) -> Tensor:
        """How much of its attention each line gives to nothing, [B]."""
        weight_CLT, _ = self._attention(self._query(batch), batch)
        return 1 - batch.blocks.by_line(weight_CLT.sum(-1))

    def own_loss(self, items: ItemBatch, positive_B: Tensor, dice: torch.Generator) -> Tensor:
        """`-sum_w log P(w|i)` over the title of each line's item, by negative sampling."""
        taken_M, lines_M = torch.unique(positive_B, return_counts=True)
        title_MN = items.title_words()[taken_M]
        words, counts = torch.unique(title_MN[title_MN > 0], return_counts=True)
        if not self.config.drawn_words or not len(words):
            return torch.zeros((), device=positive_B.device)
        item_MD1 = self.item(items.item_M[taken_M]).unsqueeze(-1)
        drawn = torch.multinomial(
            counts.cpu() ** 0.75,
            title_MN.numel() * self.config.drawn_words,
            replacement=True,
            generator=dice,
        ).to(words.device)
        drawn_MK = words[drawn].view(len(title_MN), -1)
        # An item's own words are no negatives of it.
        own_MK = (drawn_MK.unsqueeze(-1) == title_MN.unsqueeze(1)).any(-1)
        there_MN = title_MN > 0
        told_MK = there_MN.repeat_interleave(self.config.drawn_words, 1) & ~own_MK
        positive_MN = torch.bmm(self.word(title_MN), item_MD1).squeeze(-1)
        negative_MK = torch.bmm(self.word(drawn_MK), item_MD1).squeeze(-1)
        log_M = (functional.logsigmoid(positive_MN) * there_MN).sum(1) + (
            functional.logsigmoid(-negative_MK) * told_MK
        ).sum(1)
        loss: Tensor = -(log_M * lines_M).sum() / len(positive_B)
        return loss

    def _query(self, batch: UserBatch) -> Tensor:
        """`q = tanh(W mean(words) + b)`, [B, D]; without words of the item clicked last."""
        words_XD = unit_mean(self.word, batch.texts.words_XN)
        last_BD = stand_in(batch, self.encode_item)
        if last_BD is None:
            return torch.tanh(self.query(words_XD)).index_select(0, batch.text_B)
        return torch.tanh(self.query(words_XD.index_select(0, batch.text_B) + last_BD))

    def _attention(self, query_BD: Tensor, batch: UserBatch) -> tuple[Tensor, Tensor]:
        """Each line's weights over its user's history, [C, L, T], and the history, [C, T, D].

        `f(q, i) = w_h · (tanh(W_f q + b_f) i)` is one inner product: the rows' weighted sum with i.
        """
        history = self.history(batch)
        rows_BHD = torch.tanh(self.probe(query_BD)).view(len(query_BD), self.config.rows, -1)
        probe_BD = torch.einsum("bhd,h->bd", rows_BHD, self.row_weight)
        blocks = batch.blocks
        at_CT, mask_CT = history.at_UT[blocks.request_C], history.mask_UT[blocks.request_C]
        history_CTD = functional.embedding(at_CT, self.encode_item(batch.items))
        score_CLT = torch.bmm(blocks.gathered(probe_BD), history_CTD.transpose(1, 2))
        weight_CLT = attention_weights(
            score_CLT, mask_CT.unsqueeze(1), zero_vector=self.config.zero
        )
        return weight_CLT, history_CTD
