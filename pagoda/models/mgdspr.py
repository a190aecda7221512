"""MGDSPR: multi-grained deep semantic product retrieval (Li et al., KDD 2021).

Equations, departures and results: docs/models/mgdspr.md. Section numbers are the paper's.

Shape legend
    B lines   U requests   C blocks of L lines of a request   D width
    Q query rows: 6, or 1 without multi-granular units or a query   E = L · Q rows of a block
    G requests and F blocks whose sequences are about equally long   T events of a sequence
    M distinct items   K of them in R or S   N units of a text
    X distinct queries   Y distinct previous queries
    V long-term views   A long-term actions   P = V · A
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from pagoda.models.base import TwoTowers
from pagoda.models.catalogue import MAX_TITLE_WORDS
from pagoda.models.inputs import Bags, Blocks, ItemBatch, Padded, UserBatch
from pagoda.models.last_item import last_clicked
from pagoda.models.parts import (
    ClsFusion,
    SelfAttention,
    TransformerLayer,
    attend,
    attention_weights,
    masked_mean,
    mlp,
    unit_mean,
)
from pagoda.models.tables import ItemTower, Sizes, Tables

_UNITS = ("gram_1", "gram_2", "seg", "seg_seq", "his_seq")
QUERY_ROWS = (*_UNITS, "mix")
_LONG_TERM_ATTRIBUTES = ("shop", "leaf", "brand")


@dataclass(frozen=True, kw_only=True)
class MgdsprConfig:
    """Widths and switches; the defaults are the paper's form at width 64.

    Attributes:
        query: what Q_mgs is made of: the query's text, or, for recommendation without queries, the
            vector of the item clicked last as the only row; then `mgs` and `drop_rows` say nothing.
        dropout: between the two LSTM layers.
        embedding_dropout: of the clicked items' vectors, in R and S and as last item (Kang &
            McAuley, ICDM 2018); the paper has none.
        item_side: items carry category, brand and shop (False: their id alone, as printed).
        mgs: multi-granular query units (False: the mean of the words is the only row).
        drop_rows: query rows left out of Q_mgs, and of the sum of the others, by name.
        fusion: of the tokens into one vector: by self-attention, whose output at CLS is read;
            `others`: CLS attends to all but itself; `concat`: behind each other through a DNN;
            `mean`: their mean through a linear layer.
        stats: the user's statistics are one more token.
        title: what is averaged of a title: its words as they are, or after an LSTM or Transformer.
        max_words: of a query, the first so many are read.
        word_layers: of the Transformer over the query's words, and over a title's where it has one.
        ffn: how many times the width that Transformer's inner layer is.
        causal: real- and short-term self-attention looks back only.
        zero_vector: a query may attend to nothing.
        mask_empty_actions: a long-term action without events is no part of P_a (False: its mean, 0,
            is one more zero vector).
        scaled_attention: divide scores by sqrt(D / heads); the paper prints none.
    """

    width: int = 64
    attribute_width: int = 32
    heads: int = 8
    dropout: float = 0.2
    embedding_dropout: float = 0.0
    max_words: int = 32
    query: Literal["text", "last_item"] = "text"
    item_side: bool = True
    mgs: bool = True
    drop_rows: tuple[str, ...] = ()
    fusion: Literal["self_attention", "others", "concat", "mean"] = "self_attention"
    stats: bool = False
    title: Literal["words", "lstm", "transformer"] = "words"
    word_layers: int = 1
    ffn: int = 4
    causal: bool = False
    zero_vector: bool = True
    mask_empty_actions: bool = True
    scaled_attention: bool = False

    def __post_init__(self) -> None:
        if self.heads < 1 or self.width < 1 or self.width % self.heads:
            raise ValueError(f"width {self.width} is not divisible by {self.heads} heads")
        if min(self.word_layers, self.ffn, self.max_words) < 1:
            raise ValueError("word_layers, ffn and max_words must be at least 1")
        unknown = set(self.drop_rows) - set(QUERY_ROWS)
        if unknown or not set(_UNITS) - set(self.drop_rows):
            raise ValueError(
                f"drop_rows must be of {QUERY_ROWS} and leave another than mix: {self.drop_rows}"
            )

    @property
    def needs_queries(self) -> bool:
        """Whether it knows nothing without a query's text."""
        return self.query == "text"

    @property
    def rows(self) -> int:
        """Q, how many rows `Q_mgs` has."""
        if self.query == "last_item" or not self.mgs:
            return 1
        return len(QUERY_ROWS) - len(self.drop_rows)

    def build(self, sizes: Sizes) -> Mgdspr:
        """The model with these tables, randomly initialised."""
        return Mgdspr(self, sizes)


class Mgdspr(TwoTowers):
    """Two towers; score = user · item, nothing is normalised."""

    def __init__(self, config: MgdsprConfig, sizes: Sizes) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.item_tower = ItemTower(
            sizes,
            width=width,
            attribute_width=config.attribute_width,
            side=config.item_side,
            reader=_title_reader(config),
        )
        if config.query == "text":
            self.query = QueryUnits(config)
        self.item_dropout = nn.Dropout(config.embedding_dropout)
        self.real_time = RealTime(config)
        self.short_term = _self_attention(config)
        self.long_term_views = nn.ModuleDict(
            {
                "item": nn.Linear(width, width, bias=False),
                **{
                    name: nn.Linear(config.attribute_width, width, bias=False)
                    for name in _LONG_TERM_ATTRIBUTES
                },
            }
        )
        self.fusion = _fusion(config)
        if config.stats:
            self.stats = nn.Linear(sizes.stats, width)

    def encode_item(self, items: ItemBatch) -> Tensor:
        """Item vectors, [M, D] (3.3)."""
        out: Tensor = self.item_tower(items)
        return out

    def encode_user(self, batch: UserBatch) -> Tensor:
        """User vectors, [B, D].

        Behaviour is encoded once per request; each line's query attends to its request's.
        """
        # Most of the batch's items stand in long-term bags alone, whose means are projected.
        held = [each.at_UT.flatten() for each in (batch.real_time, batch.short_term)]
        item_K: Tensor = torch.unique(torch.cat(held))
        e_KD = self.item_tower.embed(batch.items.take(item_K))
        e_MD = e_KD.new_zeros(len(batch.items.item_M), e_KD.shape[1]).index_copy(0, item_K, e_KD)
        return self.fused(batch, self.query_rows(batch), e_MD)

    def fused(self, batch: UserBatch, q_mgs_BQD: Tensor, e_MD: Tensor) -> Tensor:
        """The same from `Q_mgs` and the embeddings of the batch's items that sequences hold."""
        blocks = batch.blocks
        _, Q, D = q_mgs_BQD.shape
        # A block's lines stand side by side as the queries of one attention, E = L · Q.
        q_mgs_CED = blocks.gathered(q_mgs_BQD).flatten(1, 2)
        hidden_CED = [
            self._attend_sequence(q_mgs_CED, self.real_time, e_MD, batch.real_time, blocks),
            self._attend_sequence(q_mgs_CED, self.short_term, e_MD, batch.short_term, blocks),
            self._attend_long_term(q_mgs_CED, batch),
        ]
        tokens = [q_mgs_BQD]
        tokens += [blocks.by_line(each.view(len(each), -1, Q, D)) for each in hidden_CED]
        if self.config.stats:
            stats_UD = self.stats(batch.stats_UF)
            tokens.append(stats_UD.index_select(0, batch.request_B).unsqueeze(1))
        out: Tensor = self.fusion(torch.cat(tokens, 1))
        return out

    def query_rows(self, batch: UserBatch) -> Tensor:
        """`Q_mgs`, [B, Q, D]; without a query the item clicked last stands in."""
        if self.config.query == "text":
            rows_BQD: Tensor = self.query(self.item_tower.tables, batch)
            return rows_BQD
        item_UD: Tensor = self.item_dropout(self.item_tower(last_clicked(batch)))
        return item_UD.index_select(0, batch.request_B).unsqueeze(1)

    def _attend_sequence(
        self, q_mgs_CED: Tensor, encoder: nn.Module, e_MD: Tensor, sequence: Padded, blocks: Blocks
    ) -> Tensor:
        """`softmax(Q · [0; X']^T) [0; X']`, [C, E, D]; zero without events (3.2.2)."""
        h_CED = torch.zeros_like(q_mgs_CED)
        for request_G, some in sequence.by_length():
            x_GTD = self.item_dropout(functional.embedding(some.at_UT, e_MD))
            encoded_GTD = encoder(x_GTD, some.mask_UT)
            block_F, place_F = (blocks.request_C.unsqueeze(1) == request_G).nonzero(as_tuple=True)
            h_FED = attend(
                q_mgs_CED.index_select(0, block_F),
                encoded_GTD.index_select(0, place_F),
                some.mask_UT.index_select(0, place_F),
                zero_vector=self.config.zero_vector,
            )
            h_CED = h_CED.index_copy(0, block_F, h_FED.to(h_CED.dtype))
        return h_CED

    def attended_actions(self, filled_UA: Tensor) -> Tensor:
        """Which long-term actions are part of `P_a`, [U, A], of those that have events."""
        return filled_UA if self.config.mask_empty_actions else torch.ones_like(filled_UA)

    def _attend_long_term(self, q_mgs_CED: Tensor, batch: UserBatch) -> Tensor:
        """`H_long = sum over views a of softmax(Q · [0; P_a]^T) [0; P_a]`, [C, E, D] (3.2.2).

        `P_a`: the means of clicked, bought and collected. One product scores all views, each has
        its own softmax, and another product sums them.
        """
        views_M: Mapping[str, Tensor] = {
            "item": self.item_tower.tables.item(batch.items.item_M),
            **self.item_tower.attribute_embeddings(batch.items),
        }
        # The mean comes before the projection: both are linear, and this is U·A rows, not M.
        p_UVAD = torch.stack(
            [
                project(
                    torch.stack(
                        [_means(views_M[name], bags) for bags in batch.long_term.values()], dim=1
                    )
                )
                for name, project in self.long_term_views.items()
            ],
            dim=1,
        )
        filled_UA = torch.stack([bags.lengths > 0 for bags in batch.long_term.values()], dim=1)
        mask_UA = self.attended_actions(filled_UA)
        request_C = batch.blocks.request_C
        p_CVAD = p_UVAD.index_select(0, request_C)
        C, V, A, D = p_CVAD.shape
        p_CPD = p_CVAD.reshape(C, V * A, D)
        score_CEVA = torch.bmm(q_mgs_CED, p_CPD.transpose(1, 2)).view(C, -1, V, A)
        weight_CEVA = attention_weights(
            score_CEVA,
            mask_UA.index_select(0, request_C)[:, None, None, :],
            zero_vector=self.config.zero_vector,
        )
        return torch.bmm(weight_CEVA.reshape(C, -1, V * A), p_CPD)


class QueryUnits(nn.Module):
    """`Q_mgs`: the query at several granularities, its history, and their sum (3.2.1)."""

    def __init__(self, config: MgdsprConfig) -> None:
        super().__init__()
        self.config = config
        self.in_order = WordTransformer(config, most=config.max_words)
        self._kept = [at for at, row in enumerate(_UNITS) if row not in config.drop_rows]

    def forward(self, tables: Tables, batch: UserBatch) -> Tensor:
        """[B, Q, D]; a row without units is zero."""
        texts = batch.texts
        words_XN = texts.words_XN[:, : self.config.max_words]
        words_XND = tables.word(words_XN)
        mask_XN = words_XN > 0
        seg_XD = masked_mean(words_XND, mask_XN)
        if not self.config.mgs:
            return seg_XD.index_select(0, batch.text_B).unsqueeze(1)
        rows_X4D = torch.stack(
            [
                unit_mean(tables.trigram, texts.trigrams_XN),
                unit_mean(tables.bigram, texts.bigrams_XN),
                seg_XD,
                masked_mean(self.in_order(words_XND, mask_XN), mask_XN),
            ],
            dim=1,
        )
        rows_B4D = rows_X4D.index_select(0, batch.text_B)
        his_seq_B1D = self._his_seq(tables, rows_B4D[:, 2:3], batch)
        # Not by a list of places: each would be copied to the card at every step.
        of_row = torch.cat([rows_B4D, his_seq_B1D], 1).unbind(1)
        kept_BQD = torch.stack([of_row[at] for at in self._kept], 1)
        if "mix" in self.config.drop_rows:
            return kept_BQD
        return torch.cat([kept_BQD, kept_BQD.sum(1, keepdim=True)], 1)

    def _his_seq(self, tables: Tables, seg_B1D: Tensor, batch: UserBatch) -> Tensor:
        """`softmax(q_seg · x^T) x` over the previous queries, zero without any."""
        x_YD = unit_mean(tables.word, batch.past_words_YN)
        return attend(
            seg_B1D,
            functional.embedding(batch.queries.at_UT.index_select(0, batch.request_B), x_YD),
            batch.queries.mask_UT.index_select(0, batch.request_B),
            zero_vector=False,
        )


class WordTransformer(nn.Module):
    """Words in their order: learned positions and a transformer (3.2.1)."""

    def __init__(self, config: MgdsprConfig, *, most: int) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.randn(most, config.width) * 0.01)
        self.layers = nn.ModuleList(
            TransformerLayer(
                config.width, config.heads, scaled=config.scaled_attention, ffn=config.ffn
            )
            for _ in range(config.word_layers)
        )

    def forward(self, words_XND: Tensor, mask_XN: Tensor) -> Tensor:
        """[X, N, D]."""
        out_XND = words_XND + self.positions[: words_XND.shape[1]]
        for layer in self.layers:
            out_XND = layer(out_XND, mask_XN)
        return out_XND


class WordLstm(nn.Module):
    """Words in their order, by an LSTM; padding is on the right and it is causal."""

    def __init__(self, config: MgdsprConfig) -> None:
        super().__init__()
        self.lstm = nn.LSTM(config.width, config.width, batch_first=True)

    def forward(self, words_XND: Tensor, mask_XN: Tensor) -> Tensor:  # noqa: ARG002
        """[X, N, D]."""
        out: Tensor = self.lstm(words_XND)[0]
        return out


class RealTime(nn.Module):
    """`MultiHeadSelfAttention(LSTM(R))`: two LSTM layers, a residual between them (3.2.2)."""

    def __init__(self, config: MgdsprConfig) -> None:
        super().__init__()
        self.first = nn.LSTM(config.width, config.width, batch_first=True)
        self.second = nn.LSTM(config.width, config.width, batch_first=True)
        self.dropout = nn.Dropout(config.dropout)
        self.attention = _self_attention(config)

    def forward(self, x_UTD: Tensor, mask_UT: Tensor) -> Tensor:
        """[U, T, D]. Padding is on the right and an LSTM is causal: no packing is needed."""
        first_UTD, _ = self.first(x_UTD)
        second_UTD, _ = self.second(self.dropout(first_UTD))
        out: Tensor = self.attention(first_UTD + second_UTD, mask_UT)
        return out


class ConcatFusion(nn.Module):
    """In the fusion's place: the tokens behind each other through a DNN."""

    def __init__(self, width: int, tokens: int) -> None:
        super().__init__()
        self.dnn = mlp([tokens * width, 4 * width, width])

    def forward(self, tokens_BTD: Tensor) -> Tensor:
        """[B, D]."""
        out: Tensor = self.dnn(tokens_BTD.flatten(1))
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


def _self_attention(config: MgdsprConfig) -> SelfAttention:
    """Of the real- and the short-term sequence, each its own."""
    return SelfAttention(
        config.width, config.heads, scaled=config.scaled_attention, causal=config.causal
    )


def _fusion(config: MgdsprConfig) -> nn.Module:
    match config.fusion:
        case "concat":
            return ConcatFusion(config.width, 4 * config.rows + config.stats)
        case "mean":
            return MeanFusion(config.width)
    return ClsFusion(
        config.width,
        config.heads,
        scaled=config.scaled_attention,
        itself=config.fusion == "self_attention",
    )


def _title_reader(config: MgdsprConfig) -> nn.Module | None:
    match config.title:
        case "lstm":
            return WordLstm(config)
        case "transformer":
            return WordTransformer(config, most=MAX_TITLE_WORDS)
    return None


def _means(values_M: Tensor, bags: Bags) -> Tensor:
    """The mean of each bag, [U, width]; zero for an empty one."""
    return functional.embedding_bag(bags.at, values_M, bags.starts_U, mode="mean")
