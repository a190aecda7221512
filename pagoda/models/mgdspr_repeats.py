"""MGDSPR with a memory of what the user had before: our addition, not the paper's.

The paper's windows end after thirty days, and a household buys the same milk all year. Here the
query also attends to the items that the user had within a year. What comes of it must name single
items, not their like, so each item has a code of its own: the item tower puts it beside its vector,
the user tower puts the attended mean of codes beside its own, and the score stays an inner product.

    user = [fused; g sum_j a_j code_j]        item = [e_i + tanh(W_t title); code_i]
    a = softmax([0; p . k_j + b(times_j, age_j)])
    p = W_p Q_mgs        k_j = W_k (e_j + tanh(W_t title_j)) + K(times_j) + A(age_j)

Equations, steps and results: docs/models/mgdspr_repeats.md.

Shape legend
    B lines   C blocks of L lines of a request   D width   R width of codes
    U requests   J items that a user had   M distinct items   Q query rows
    P pairs of a bucket of times and one of ages
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from pagoda.models.inputs import ItemBatch, UserBatch
from pagoda.models.mgdspr import Mgdspr, MgdsprConfig
from pagoda.models.parts import attention_weights
from pagoda.models.tables import Sizes, Table

# Where the next bucket begins: how often, and how many days ago.
_TIMES = (2, 3, 5, 9, 17, 33)
_AGES = (2, 4, 8, 15, 29, 57, 113, 200)
# What each doubling of the times adds to an item's score at first: who had it often has it again.
_OFTEN = 0.5


@dataclass(frozen=True, kw_only=True)
class MgdsprRepeatsConfig(MgdsprConfig):
    """MGDSPR's, and the width of the codes; vectors are `width + code_width` wide.

    Attributes:
        code_norm: the codes' length at first.
        code_gain: `g`. At first an item that is attended to alone scores `g · code_norm²` more.
    """

    code_width: int = 64
    code_norm: float = 2.0
    code_gain: float = 4.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.code_width, self.code_norm, self.code_gain) <= 0:
            raise ValueError("code_width, code_norm and code_gain must be positive")

    def build(self, sizes: Sizes) -> MgdsprRepeats:
        """The model with these tables, randomly initialised."""
        return MgdsprRepeats(self, sizes)


class MgdsprRepeats(Mgdspr):
    """MGDSPR's towers, each with codes beside its vector."""

    def __init__(self, config: MgdsprRepeatsConfig, sizes: Sizes) -> None:
        super().__init__(config, sizes)
        self.owned = OwnedItems(config, sizes)

    def encode_item(self, items: ItemBatch) -> Tensor:
        """Item vectors, [M, D + R]."""
        return torch.cat([super().encode_item(items), self.owned.code(items.item_M)], -1)

    def encode_user(self, batch: UserBatch) -> Tensor:
        """User vectors, [B, D + R]."""
        q_mgs_BQD = self.query_rows(batch)
        e_MD = self.item_tower.embed(batch.items)
        item_MD = self.item_tower.titled(e_MD, batch.items)
        code_BR = self.owned(batch, q_mgs_BQD, item_MD)
        return torch.cat([self.fused(batch, q_mgs_BQD, e_MD), code_BR], -1)


class OwnedItems(nn.Module):
    """Attention of the query to what the user had, and the codes that it gives."""

    def __init__(self, config: MgdsprRepeatsConfig, sizes: Sizes) -> None:
        super().__init__()
        self.gain = config.code_gain
        width = config.width
        self.code = Table.of(sizes, "item", config.code_width)
        self.probe = nn.Linear(config.rows * width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        # Row 0 is padding, as in every table.
        self.times = Table(len(_TIMES) + 2, width)
        self.ages = Table(len(_AGES) + 2, width)
        self.prior = Table((len(_TIMES) + 1) * (len(_AGES) + 1) + 1, 1)
        with torch.no_grad():
            self.code.weight[1:].normal_(std=config.code_norm * config.code_width**-0.5)
            nn.init.eye_(self.key.weight)
            often = torch.arange(len(_TIMES) + 1) * _OFTEN
            self.prior.weight[1:, 0] += often.repeat_interleave(len(_AGES) + 1)

    def forward(self, batch: UserBatch, q_mgs_BQD: Tensor, item_MD: Tensor) -> Tensor:
        """`g` times the attended mean of codes, [B, R]; zero for who had nothing."""
        owned, blocks = batch.owned, batch.blocks
        times_UJ = _bucket(batch.owned_times_UJ, _TIMES)
        ages_UJ = _bucket(batch.owned_age_days_UJ, _AGES)
        # There are few pairs of the two and many items: each pair is looked up once.
        ages = len(_AGES) + 1
        pair_UJ = times_UJ * ages + ages_UJ
        pair_P = torch.arange((len(_TIMES) + 1) * ages, device=pair_UJ.device)
        when_PD = self.times(1 + pair_P // ages) + self.ages(1 + pair_P % ages)
        key_UJD = functional.embedding(owned.at_UT, self.key(item_MD)) + functional.embedding(
            pair_UJ, when_PD
        )
        prior_UJ = functional.embedding(pair_UJ, self.prior(1 + pair_P)).squeeze(-1)
        code_UJR = functional.embedding(owned.at_UT, self.code(batch.items.item_M))
        probe_CLD = blocks.gathered(self.probe(q_mgs_BQD.flatten(1)))
        request_C = blocks.request_C
        score_CLJ = torch.bmm(probe_CLD, key_UJD.index_select(0, request_C).transpose(1, 2))
        weight_CLJ = attention_weights(
            score_CLJ + prior_UJ.index_select(0, request_C).unsqueeze(1),
            owned.mask_UT.index_select(0, request_C).unsqueeze(1),
            zero_vector=True,
        )
        code_CLR = self.gain * torch.bmm(weight_CLJ, code_UJR.index_select(0, request_C))
        return blocks.by_line(code_CLR)


def _bucket(values: Tensor, edges: tuple[int, ...]) -> Tensor:
    """The number of each value's bucket, from 0."""
    return torch.bucketize(values, torch.tensor(edges).to(values.device), right=True)
