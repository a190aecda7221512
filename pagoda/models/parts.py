"""Parts that several towers share.

Shape legend: B batch, U requests, M items, X texts, Q queries, T sequence, N units of a text,
W distinct units, D width, H heads, K = D / H.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from pagoda.models.inputs import Padded


def masked_mean(x_BTD: Tensor, mask_BT: Tensor) -> Tensor:
    """Mean over the unmasked positions, [B, D]; zero where there are none."""
    weight_BT1 = mask_BT.to(x_BTD.dtype).unsqueeze(-1)
    return (x_BTD * weight_BT1).sum(1) / weight_BT1.sum(1).clamp(min=1.0)


def unit_mean(table: nn.Embedding, numbers_XN: Tensor) -> Tensor:
    """Mean of the units' rows of a table, [X, D]; zero for a text without any.

    Texts share their words: each row is fetched once, and no [X, N, D] is ever built.

    Args:
        table: whose numbers share no rows.
    """
    number_W, place_XN = _distinct(numbers_XN, table.num_embeddings)
    return functional.embedding_bag(place_XN, table(number_W), mode="mean", padding_idx=0)


def _distinct(numbers_XN: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """The distinct numbers, 0 always the first, and the place of each among them."""
    if numbers_XN.numel() < rows:  # a request's few words in a large table: sort them
        with_none = torch.cat([numbers_XN.new_zeros(1), numbers_XN.flatten()])
        number_W, place = torch.unique(with_none, return_inverse=True)
        return number_W, place[1:].view(numbers_XN.shape)
    there = torch.zeros(rows, dtype=torch.bool, device=numbers_XN.device)
    there[0] = True
    there[numbers_XN] = True
    return there.nonzero().squeeze(1), (there.cumsum(0) - 1)[numbers_XN]


def sequence_mean(values_MD: Tensor, sequence: Padded) -> Tensor:
    """Mean of each row's values, [U, D]; zero for an empty row."""
    return masked_mean(functional.embedding(sequence.at_UT, values_MD), sequence.mask_UT)


def scaled(vectors: Tensor, *, unit_length: bool) -> Tensor:
    """Rows of unit length if asked for: inner products are then cosines."""
    return functional.normalize(vectors, dim=-1) if unit_length else vectors


def attention_weights(score: Tensor, mask: Tensor, *, zero_vector: bool) -> Tensor:
    """`softmax([0; score])` without the zero vector's own weight, over the last dimension.

    The zero vector has score 0 and lets a query attend to nothing. Masked positions get exactly
    zero, and with every position masked so does each, with or without the zero vector.

    Args:
        mask: True where memory holds something; broadcasts to `score`.
    """
    if zero_vector:
        score = score.masked_fill(~mask, -torch.inf)
        zero = score.new_zeros(*score.shape[:-1], 1)
        return torch.cat([zero, score], -1).softmax(-1)[..., 1:]
    return score.masked_fill(~mask, torch.finfo(score.dtype).min).softmax(-1) * mask


def attend(
    query_BQD: Tensor, memory_BTD: Tensor, mask_BT: Tensor, *, zero_vector: bool = True
) -> Tensor:
    """`softmax(Q · [0; X]^T) [0; X]`, unscaled, [B, Q, D] (MGDSPR 3.2.2).

    Exactly zero where all memory is masked. Masked memory must be finite.
    """
    score_BQT = torch.bmm(query_BQD, memory_BTD.transpose(1, 2))
    weight_BQT = attention_weights(score_BQT, mask_BT.unsqueeze(1), zero_vector=zero_vector)
    return torch.bmm(weight_BQT, memory_BTD)


class SelfAttention(nn.Module):
    """Multi-head self-attention with an output projection; no FFN or residual.

    Args:
        causal: a position sees itself and what stands before it; padding must stand on the right.
    """

    def __init__(self, width: int, heads: int, *, scaled: bool, causal: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.causal = causal
        self.scale = (width // heads) ** -0.5 if scaled else 1.0
        self.query_key_value = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x_BTD: Tensor, mask_BT: Tensor) -> Tensor:
        """[B, T, D]; rows of masked positions are finite and mean nothing."""
        B, T, D = x_BTD.shape
        q_BHTK, k_BHTK, v_BHTK = (
            self.query_key_value(x_BTD).view(B, T, 3, self.heads, D // self.heads)
        ).permute(2, 0, 3, 1, 4)
        bias_B11T = None if self.causal else _bias(mask_BT, q_BHTK.dtype)[:, None, None, :]
        mixed_BHTK = functional.scaled_dot_product_attention(
            q_BHTK, k_BHTK, v_BHTK, attn_mask=bias_B11T, is_causal=self.causal, scale=self.scale
        )
        out: Tensor = self.out(mixed_BHTK.transpose(1, 2).reshape(B, T, D))
        return out


def _bias(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """What is added to scores: 0, and the least number there is where nothing is."""
    return torch.zeros_like(mask, dtype=dtype).masked_fill(~mask, torch.finfo(dtype).min)


class TransformerLayer(nn.Module):
    """Self-attention and FFN, each with a residual and a layer norm after it.

    Args:
        ffn: how many times the width the inner layer is.
    """

    def __init__(self, width: int, heads: int, *, scaled: bool, ffn: int = 4) -> None:
        super().__init__()
        self.attention = SelfAttention(width, heads, scaled=scaled)
        self.norm_attention = nn.LayerNorm(width)
        self.ffn = mlp([width, ffn * width, width])
        self.norm_ffn = nn.LayerNorm(width)

    def forward(self, x_BTD: Tensor, mask_BT: Tensor) -> Tensor:
        """[B, T, D]."""
        x_BTD = self.norm_attention(x_BTD + self.attention(x_BTD, mask_BT))
        out: Tensor = self.norm_ffn(x_BTD + self.ffn(x_BTD))
        return out


class ClsFusion(nn.Module):
    """`SelfAttention([CLS; tokens])[CLS]`, computed for the one position that is read.

    CLS is learned and the same for every row, so each head's query is one vector, and

        q · (W_k x) = (W_k^T q) · x        sum_t a_t (W_v x_t) = W_v (sum_t a_t x_t)

    moves both projections out of the tokens: the same numbers for 1/25 of the work. The key's
    bias adds the same to every score of a head and drops out of the softmax.

    Args:
        itself: CLS attends to itself too.
    """

    def __init__(self, width: int, heads: int, *, scaled: bool, itself: bool = True) -> None:
        super().__init__()
        self.heads = heads
        self.scale = (width // heads) ** -0.5 if scaled else 1.0
        self.itself = itself
        self.cls = nn.Parameter(torch.randn(width) * 0.02)
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(self, tokens_BTD: Tensor) -> Tensor:
        """[B, D]."""
        B, _, D = tokens_BTD.shape
        x_BTD = torch.cat([self.cls.expand(B, 1, D), tokens_BTD], 1) if self.itself else tokens_BTD
        query_H1K = self.query(self.cls).view(self.heads, 1, -1)
        probe_HD = torch.bmm(query_H1K, self.key.weight.view(self.heads, -1, D)).squeeze(1)
        weight_BTH = (x_BTD @ probe_HD.T * self.scale).softmax(1)
        mixed_BHD = torch.bmm(weight_BTH.transpose(1, 2), x_BTD)
        value_HKD = self.value.weight.view(self.heads, -1, D)
        value_BHK = torch.einsum("bhd,hkd->bhk", mixed_BHD, value_HKD)
        out: Tensor = self.out(value_BHK.reshape(B, D) + self.value.bias)
        return out


def mlp(widths: Sequence[int], activation: Callable[[], nn.Module] = nn.ReLU) -> nn.Sequential:
    """Linear layers with an activation between them, none after the last."""
    layers: list[nn.Module] = []
    for inner, outer in pairwise(widths):
        layers += [nn.Linear(inner, outer), activation()]
    return nn.Sequential(*layers[:-1])
