"""MGDSPR: multi-grained deep semantic product retrieval (Li et al., KDD 2021).

Equations, departures and results: docs/models/mgdspr.md. Section numbers are the paper's.

Shape legend
    B lines   U requests   M distinct items   X distinct texts   D width
    Q query rows: 6, or 1 without multi-granular units
    T events of a sequence   N units of a text   H previous queries   A long-term actions
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from pagoda.models.inputs import Bags, ItemBatch, Padded, UserBatch
from pagoda.models.parts import ClsFusion, SelfAttention, TransformerLayer, attend, masked_mean
from pagoda.models.tables import ItemTower, Sizes, Tables

QUERY_ROWS = ("gram_1", "gram_2", "seg", "seg_seq", "his_seq", "mix")
_LONG_TERM_ATTRIBUTES = ("shop", "leaf", "brand")


@dataclass(frozen=True, kw_only=True)
class MgdsprConfig:
    """Widths and switches; the defaults are the paper's form at width 64.

    Attributes:
        query_history: newest previous queries that take part.
        item_side: items carry category, brand and shop (False: their id alone, as printed).
        mgs: multi-granular query units (False: the mean of the words is the only row).
        drop_rows: query rows left out of Q_mgs, by name.
        trm: fusion by self-attention (False: mean of the tokens through a linear layer).
        zero_vector: a query may attend to nothing.
        scaled_attention: divide scores by sqrt(D / heads); the paper prints none.
    """

    width: int = 64
    attribute_width: int = 32
    heads: int = 8
    dropout: float = 0.2
    max_words: int = 32
    query_history: int = 10
    item_side: bool = True
    mgs: bool = True
    drop_rows: tuple[str, ...] = ()
    trm: bool = True
    zero_vector: bool = True
    scaled_attention: bool = False

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not divisible by {self.heads} heads")
        unknown = set(self.drop_rows) - set(QUERY_ROWS)
        if unknown or len(self.drop_rows) == len(QUERY_ROWS):
            raise ValueError(f"drop_rows must be some, not all, of {QUERY_ROWS}: {self.drop_rows}")

    def build(self, sizes: Sizes) -> Mgdspr:
        """The model with these tables, randomly initialised."""
        return Mgdspr(self, sizes)


class Mgdspr(nn.Module):
    """Two towers; score = user · item, nothing is normalised."""

    def __init__(self, config: MgdsprConfig, sizes: Sizes) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.item_tower = ItemTower(
            sizes, width=width, attribute_width=config.attribute_width, side=config.item_side
        )
        self.query = QueryUnits(config)
        self.real_time = RealTime(config)
        self.short_term = SelfAttention(width, config.heads, scaled=config.scaled_attention)
        self.long_term_views = nn.ModuleDict(
            {
                "item": nn.Linear(width, width, bias=False),
                **{
                    name: nn.Linear(config.attribute_width, width, bias=False)
                    for name in _LONG_TERM_ATTRIBUTES
                },
            }
        )
        self.fusion: nn.Module = (
            ClsFusion(width, config.heads, scaled=config.scaled_attention)
            if config.trm
            else MeanFusion(width)
        )

    def encode_item(self, items: ItemBatch) -> Tensor:
        """Item vectors, [M, D] (1.4)."""
        out: Tensor = self.item_tower(items)
        return out

    def encode_user(self, batch: UserBatch) -> Tensor:
        """User vectors, [B, D].

        Behaviour is encoded once per request; each line's query then attends to its request's.
        """
        q_mgs_BQD = self.query(self.item_tower.tables, batch)
        e_MD = self.item_tower.embed(batch.items)
        zero_vector = self.config.zero_vector
        tokens = [q_mgs_BQD]
        for encoder, sequence in (
            (self.real_time, batch.real_time),
            (self.short_term, batch.short_term),
        ):
            encoded_UTD = _encode_filled(encoder, e_MD, sequence)
            tokens.append(
                attend(
                    q_mgs_BQD,
                    encoded_UTD.index_select(0, batch.request_B),
                    sequence.mask_UT.index_select(0, batch.request_B),
                    zero_vector=zero_vector,
                )
            )
        tokens.append(self._attend_long_term(q_mgs_BQD, batch))
        out: Tensor = self.fusion(torch.cat(tokens, 1))
        return out

    def _attend_long_term(self, q_mgs_BQD: Tensor, batch: UserBatch) -> Tensor:
        """`H_long = sum over views a of softmax(Q · P_a^T) P_a`, [B, Q, D] (1.3).

        `P_a = [0; mean of clicks; of buys; of collects]`; an empty action is masked.
        """
        mask_UA = torch.stack(
            [_lengths(bags) > 0 for bags in batch.long_term.values()], dim=1
        ).index_select(0, batch.request_B)
        views_M: Mapping[str, Tensor] = {
            "item": self.item_tower.tables.item(batch.items.item_M),
            **self.item_tower.attribute_embeddings(batch.items),
        }
        h_long_BQD = torch.zeros_like(q_mgs_BQD)
        for name, project in self.long_term_views.items():
            # The mean comes before the projection: both are linear, and this is U·A rows, not M.
            mean_UAV = torch.stack(
                [
                    functional.embedding_bag(bags.at, views_M[name], bags.starts_U, mode="mean")
                    for bags in batch.long_term.values()
                ],
                dim=1,
            )
            h_long_BQD = h_long_BQD + attend(
                q_mgs_BQD,
                project(mean_UAV).index_select(0, batch.request_B),
                mask_UA,
                zero_vector=self.config.zero_vector,
            )
        return h_long_BQD


class QueryUnits(nn.Module):
    """`Q_mgs`: the query at several granularities, its history, and their sum (1.2)."""

    def __init__(self, config: MgdsprConfig) -> None:
        super().__init__()
        self.config = config
        self.positions = nn.Parameter(torch.randn(config.max_words, config.width) * 0.01)
        self.transformer = TransformerLayer(
            config.width, config.heads, scaled=config.scaled_attention
        )
        self._kept = [at for at, row in enumerate(QUERY_ROWS) if row not in config.drop_rows]

    def forward(self, tables: Tables, batch: UserBatch) -> Tensor:
        """[B, Q, D]; a row without units is zero."""
        texts = batch.texts
        words_XND = tables.word(texts.words_XN)
        mask_XN = texts.words_XN > 0
        seg_XD = masked_mean(words_XND, mask_XN)
        if not self.config.mgs:
            return seg_XD.index_select(0, batch.text_B).unsqueeze(1)
        rows_X4D = torch.stack(
            [
                _bag(tables.trigram, texts.trigrams_XN),
                _bag(tables.bigram, texts.bigrams_XN),
                seg_XD,
                self._seg_seq(words_XND, mask_XN),
            ],
            dim=1,
        )
        rows_B4D = rows_X4D.index_select(0, batch.text_B)
        his_seq_B1D = self._his_seq(rows_B4D[:, 2:3], seg_XD, batch)
        rows_B5D = torch.cat([rows_B4D, his_seq_B1D], 1)
        mix_B1D = rows_B5D.sum(1, keepdim=True)
        return torch.cat([rows_B5D, mix_B1D], 1)[:, self._kept]

    def _seg_seq(self, words_XND: Tensor, mask_XN: Tensor) -> Tensor:
        length = words_XND.shape[1]
        encoded_XND = self.transformer(words_XND + self.positions[:length], mask_XN)
        return masked_mean(encoded_XND, mask_XN)

    def _his_seq(self, seg_B1D: Tensor, seg_XD: Tensor, batch: UserBatch) -> Tensor:
        """`softmax(q_seg · x^T) x` over the newest previous queries, zero without any."""
        newest = _newest(batch.queries, self.config.query_history)
        x_UHD = seg_XD[newest.at_UT]
        return attend(
            seg_B1D,
            x_UHD.index_select(0, batch.request_B),
            newest.mask_UT.index_select(0, batch.request_B),
            zero_vector=False,
        )


class RealTime(nn.Module):
    """`MultiHeadSelfAttention(LSTM(R))`: two LSTM layers, a residual between them (1.3)."""

    def __init__(self, config: MgdsprConfig) -> None:
        super().__init__()
        self.first = nn.LSTM(config.width, config.width, batch_first=True)
        self.second = nn.LSTM(config.width, config.width, batch_first=True)
        self.dropout = nn.Dropout(config.dropout)
        self.attention = SelfAttention(config.width, config.heads, scaled=config.scaled_attention)

    def forward(self, x_UTD: Tensor, mask_UT: Tensor) -> Tensor:
        """[U, T, D]. Padding is on the right and an LSTM is causal: no packing is needed."""
        first_UTD, _ = self.first(x_UTD)
        second_UTD, _ = self.second(self.dropout(first_UTD))
        out: Tensor = self.attention(first_UTD + second_UTD, mask_UT)
        return out


class MeanFusion(nn.Module):
    """The ablation without the fusion transformer: mean of the tokens, then linear."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)

    def forward(self, tokens_BTD: Tensor) -> Tensor:
        """[B, D]."""
        out: Tensor = self.linear(tokens_BTD.mean(1))
        return out


def _encode_filled(encoder: nn.Module, e_MD: Tensor, sequence: Padded) -> Tensor:
    """The encoder's output for requests that have events, zeros for the others, [U, T, D]."""
    filled_U = sequence.mask_UT[:, 0].nonzero().squeeze(1)
    x_UTD = e_MD[sequence.at_UT.index_select(0, filled_U)] if len(filled_U) else None
    all_UTD = e_MD.new_zeros(*sequence.at_UT.shape, e_MD.shape[-1])
    if x_UTD is None:
        return all_UTD
    encoded_UTD = encoder(x_UTD, sequence.mask_UT.index_select(0, filled_U))
    return all_UTD.index_copy(0, filled_U, encoded_UTD)


def _newest(sequence: Padded, limit: int) -> Padded:
    """The newest `limit` of right-padded rows, newest first; what attends has no order."""
    length_U1 = sequence.mask_UT.sum(1, keepdim=True)
    back_L = torch.arange(min(limit, sequence.at_UT.shape[1]), device=sequence.at_UT.device)
    position_UL = length_U1 - 1 - back_L
    return Padded(
        at_UT=sequence.at_UT.gather(1, position_UL.clamp(min=0)), mask_UT=position_UL >= 0
    )


def _lengths(bags: Bags) -> Tensor:
    ends_U = torch.cat([bags.starts_U[1:], bags.starts_U.new_tensor([len(bags.at)])])
    return ends_U - bags.starts_U


def _bag(table: nn.Module, numbers_XN: Tensor) -> Tensor:
    return masked_mean(table(numbers_XN), numbers_XN > 0)
