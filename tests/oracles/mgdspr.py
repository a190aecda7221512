"""MGDSPR's towers by the paper's equations, a vector at a time (Li et al., KDD 2021, section 3).

Weights are those of the model, by their names; numbers are float64.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float64]
Weights = Mapping[str, Vector]


@dataclass(frozen=True, kw_only=True)
class Item:
    """Numbers of one item."""

    number: int
    leaf: int
    first: int
    brand: int
    shop: int
    title: Sequence[int]


@dataclass(frozen=True, kw_only=True)
class Search:
    """What is known when somebody searches; sequences are oldest first."""

    words: Sequence[int]
    bigrams: Sequence[int]
    trigrams: Sequence[int]
    past_queries: Sequence[Sequence[int]]
    real_time: Sequence[Item]
    short_term: Sequence[Item]
    long_term: Sequence[Sequence[Item]]  # clicked, bought, collected


def item(one: Item, w: Weights) -> Vector:
    """`e_i + tanh(W_t mean(title))`."""
    title = _mean(one.title, w["item_tower.tables.word.weight"])
    return _embedded(one, w) + np.tanh(w["item_tower.title.weight"] @ title)


def user(search: Search, w: Weights, *, heads: int) -> Vector:
    """The fusion transformer's output at CLS."""
    rows = _query(search, w, heads)
    real = [_embedded(each, w) for each in search.real_time]
    real = _self_attention(_residual_lstm(real, w), w, "real_time.attention", heads)
    short = [_embedded(each, w) for each in search.short_term]
    short = _self_attention(short, w, "short_term", heads)
    tokens = list(rows)
    tokens += [_attend(row, real) for row in rows]
    tokens += [_attend(row, short) for row in rows]
    tokens += [_long_term(row, search, w) for row in rows]
    return _at_cls(tokens, w, heads)


def _embedded(one: Item, w: Weights) -> Vector:
    table = "item_tower.tables.attributes.{}.weight".format
    parts = [
        w["item_tower.tables.item.weight"][one.number],
        w[table("leaf")][one.leaf],
        w[table("first")][one.first],
        w[table("brand")][one.brand],
        w[table("shop")][one.shop],
    ]
    return np.asarray(w["item_tower.project.weight"] @ np.concatenate(parts))


def _query(search: Search, w: Weights, heads: int) -> list[Vector]:
    words = w["item_tower.tables.word.weight"]
    seg = _mean(search.words, words)
    past = [_mean(each, words) for each in search.past_queries]
    placed = [
        words[word] + w["query.in_order.positions"][at] for at, word in enumerate(search.words)
    ]
    in_order = _transformer(placed, w, "query.in_order.layers.0", heads)
    units = [
        _mean(search.trigrams, w["item_tower.tables.trigram.weight"]),
        _mean(search.bigrams, w["item_tower.tables.bigram.weight"]),
        seg,
        sum(in_order, np.zeros_like(seg)) / max(len(in_order), 1),
        _weighted(_softmax([seg @ each for each in past]), past, seg),
    ]
    return [*units, sum(units, np.zeros_like(seg))]


def _long_term(row: Vector, search: Search, w: Weights) -> Vector:
    """`H_item + H_shop + H_leaf + H_brand`; an action without events is not in `P_a`."""
    out = np.zeros_like(row)
    for view in ("item", "shop", "leaf", "brand"):
        table = "item_tower.tables.item.weight"
        if view != "item":
            table = f"item_tower.tables.attributes.{view}.weight"
        numbers = [
            [each.number if view == "item" else getattr(each, view) for each in events]
            for events in search.long_term
            if events
        ]
        projection = w[f"long_term_views.{view}.weight"]
        out = out + _attend(row, [projection @ _mean(each, w[table]) for each in numbers])
    return out


def _attend(row: Vector, memory: Sequence[Vector]) -> Vector:
    """`softmax(q · [0; X]^T) [0; X]`."""
    weights = _softmax([0.0, *(row @ each for each in memory)])
    return _weighted(weights[1:], memory, row)


def _at_cls(tokens: Sequence[Vector], w: Weights, heads: int) -> Vector:
    cls = w["fusion.cls"]
    seen = [cls, *tokens]
    query = w["fusion.query.weight"] @ cls + w["fusion.query.bias"]
    keys = [w["fusion.key.weight"] @ each for each in seen]
    values = [w["fusion.value.weight"] @ each + w["fusion.value.bias"] for each in seen]
    mixed = _heads(query, keys, values, heads)
    return np.asarray(w["fusion.out.weight"] @ mixed + w["fusion.out.bias"])


def _self_attention(xs: Sequence[Vector], w: Weights, name: str, heads: int) -> list[Vector]:
    weight, bias = w[f"{name}.query_key_value.weight"], w[f"{name}.query_key_value.bias"]
    width = len(weight) // 3
    q, k, v = ([(weight @ x + bias)[n * width : (n + 1) * width] for x in xs] for n in range(3))
    out, shift = w[f"{name}.out.weight"], w[f"{name}.out.bias"]
    return [out @ _heads(each, k, v, heads) + shift for each in q]


def _heads(query: Vector, keys: Sequence[Vector], values: Sequence[Vector], heads: int) -> Vector:
    """Unscaled, as printed; each head has its share of the width."""
    share = len(query) // heads
    parts = []
    for head in range(heads):
        of = slice(head * share, (head + 1) * share)
        weights = _softmax([query[of] @ each[of] for each in keys])
        parts.append(_weighted(weights, [each[of] for each in values], query[of]))
    return np.concatenate(parts)


def _transformer(xs: Sequence[Vector], w: Weights, name: str, heads: int) -> list[Vector]:
    attended = _self_attention(xs, w, f"{name}.attention", heads)
    out = []
    for x, each in zip(xs, attended, strict=True):
        middle = _normed(x + each, w, f"{name}.norm_attention")
        inner = np.maximum(w[f"{name}.ffn.0.weight"] @ middle + w[f"{name}.ffn.0.bias"], 0)
        outer = w[f"{name}.ffn.2.weight"] @ inner + w[f"{name}.ffn.2.bias"]
        out.append(_normed(middle + outer, w, f"{name}.norm_ffn"))
    return out


def _normed(x: Vector, w: Weights, name: str) -> Vector:
    even = (x - x.mean()) / np.sqrt(x.var() + 1e-5)
    return np.asarray(even * w[f"{name}.weight"] + w[f"{name}.bias"])


def _residual_lstm(xs: Sequence[Vector], w: Weights) -> list[Vector]:
    """Two layers, the first's output added to the second's."""
    first = _lstm(xs, w, "real_time.first")
    second = _lstm(first, w, "real_time.second")
    return [one + two for one, two in zip(first, second, strict=True)]


def _lstm(xs: Sequence[Vector], w: Weights, name: str) -> list[Vector]:
    """Hochreiter & Schmidhuber with a forget gate; gates stand in the order i, f, g, o."""
    out: list[Vector] = []
    h = c = np.zeros(w[f"{name}.weight_hh_l0"].shape[1])
    for x in xs:
        gates = w[f"{name}.weight_ih_l0"] @ x + w[f"{name}.bias_ih_l0"]
        gates = gates + w[f"{name}.weight_hh_l0"] @ h + w[f"{name}.bias_hh_l0"]
        i, f, g, o = np.split(gates, 4)
        c = _sigmoid(f) * c + _sigmoid(i) * np.tanh(g)
        h = _sigmoid(o) * np.tanh(c)
        out.append(h)
    return out


def _sigmoid(x: Vector) -> Vector:
    return np.asarray(1 / (1 + np.exp(-x)))


def _softmax(scores: Sequence[float]) -> list[float]:
    powers = [np.exp(each - max(scores)) for each in scores]
    return [each / sum(powers) for each in powers]


def _weighted(weights: Sequence[float], xs: Sequence[Vector], like: Vector) -> Vector:
    total = np.zeros_like(like)
    for weight, x in zip(weights, xs, strict=True):
        total = total + weight * x
    return total


def _mean(numbers: Sequence[int], table: Vector) -> Vector:
    total = np.zeros(table.shape[1])
    for number in numbers:
        total = total + table[number]
    return total / max(len(numbers), 1)
