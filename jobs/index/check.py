"""Is an index right? Searches under filters of many selectivities beside an exact numpy search.

An approximate index fails where few items pass a filter, silently: with too few clusters read it
returns too few and wrong (recall .48 at 0.05 %). So every collection is judged before it goes
live, by selectivity, against the plain definition: the mask computed on the table of items,
the scores as one matrix product. Nothing of this shares code with the index or the expressions.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from jobs.index.collection import Progress
from pagoda.ann import Hits, Searcher
from pagoda.filters import MAX_VALUE_LENGTH, TEXT_FIELDS, Filters, PriceRange, expression
from pagoda.index import Collection
from pagoda.index_report import Case, IndexReport

SHARES = (0.5, 0.1, 0.01, 0.001, 0.0005)
K = 100
_MAX_VALUES = 200
_PRICE_TRIES = 20
_SCORE_TOLERANCE = 1e-6  # of the largest score: Milvus and numpy add up in another order

Mask = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, eq=False)
class Probe:
    """A filter, and as `mask` the items that satisfy it, bool [N]."""

    filters: Filters
    mask: Mask


def check(
    searcher: Searcher,
    collection: Collection,
    *,
    bundle: str,
    live_name: str,
    items: pa.Table,
    vectors_ND: Floats,
    queries_QD: Floats,
    min_recall: float,
    progress: Progress,
) -> IndexReport:
    """Search every probe with every query; the report says whether all is as it must be.

    Args:
        collection: what to search; still a draft perhaps.
        live_name: what the collection is, or will be, called once live.
        items: what the collection must hold, row i beside vector i.
        queries_QD: vectors to search with, like those of requests.
    """
    keys_N = items["item_key"].to_numpy()
    scores_QN = queries_QD @ vectors_ND.T
    searcher.search(
        collection.name, queries_QD[:1], k=1, strong=True
    )  # nothing is still on its way
    cases = []
    chosen = probes(items)
    for at, probe in enumerate(chosen):
        progress("check", at, len(chosen))
        cases.append(_judge(searcher, collection, probe, keys_N, queries_QD, scores_QN))
    progress("check", len(chosen), len(chosen))
    return IndexReport(
        bundle=bundle,
        collection=live_name,
        checked_at=datetime.now(UTC),
        rows=items.num_rows,
        index_type=collection.index_type,
        index_params=collection.index_params,
        k=K,
        queries=len(queries_QD),
        min_recall=min_recall,
        passed=all(case.recall >= min_recall and case.violations == 0 for case in cases),
        cases=tuple(cases),
    )


def probes(items: pa.Table, *, seed: int = 0) -> list[Probe]:
    """Filters that this catalogue's items satisfy to about each of SHARES; first none at all."""
    rng = np.random.default_rng(seed)
    found = [Probe(filters=Filters(), mask=np.ones(items.num_rows, bool))]
    prices_N = items["price"].to_numpy(zero_copy_only=False).astype(np.float64)
    for share in (share for share in SHARES if share * items.num_rows >= 1):
        text = _text_probe(items, share, rng)
        price = _price_probe(prices_N, share, rng)
        both = _price_probe(prices_N, (share / 0.5), rng) if share < 0.5 else None
        half = _text_probe(items, 0.5, rng)
        found += [probe for probe in (text, price) if probe]
        if both and half:
            found.append(
                Probe(
                    filters=half.filters.model_copy(update={"price": both.filters.price}),
                    mask=half.mask & both.mask,
                )
            )
    if items["in_stock"].null_count < items.num_rows:
        out_N = np.array([known is False for known in items["in_stock"].to_pylist()])
        found += [
            Probe(filters=Filters(in_stock=True), mask=~out_N),
            Probe(filters=Filters(in_stock=False), mask=out_N),
        ]
    return [probe for probe in found if probe.mask.any()]


def query_vectors(vectors_ND: Floats, request_vectors_RD: Floats) -> Floats:
    """Requests' vectors and, as many again, blends of two items: far from every request."""
    rng = np.random.default_rng(1)
    left, right = rng.integers(len(vectors_ND), size=(2, len(request_vectors_RD)))
    blends = (vectors_ND[left] + vectors_ND[right]) / 2
    return np.concatenate([request_vectors_RD, blends]).astype(np.float32)


def _judge(
    searcher: Searcher,
    collection: Collection,
    probe: Probe,
    keys_N: npt.NDArray[np.int64],
    queries_QD: Floats,
    scores_QN: Floats,
) -> Case:
    recalls, took_ms, violations = [], [], 0
    row_of = {int(key): row for row, key in enumerate(keys_N)}
    for query_D, scores_N in zip(queries_QD, scores_QN, strict=True):
        started = time.perf_counter()
        (hits,) = searcher.search(
            collection.name, query_D[None], k=K, expression=expression(probe.filters)
        )
        took_ms.append((time.perf_counter() - started) * 1000)
        rows = np.array([row_of.get(int(key), -1) for key in hits.keys], np.int64)
        satisfied = (rows >= 0) & probe.mask[rows]
        violations += int((~satisfied).sum()) + _repeated(hits)
        recalls.append(_recall(scores_N, probe.mask, np.unique(rows[satisfied])))
    return Case(
        filter=_described(probe.filters),
        share=float(probe.mask.mean()),
        matches=int(probe.mask.sum()),
        recall=float(np.mean(recalls)),
        violations=violations,
        p50_ms=float(np.percentile(took_ms, 50)),
        p98_ms=float(np.percentile(took_ms, 98)),
    )


def _recall(scores_N: Floats, mask_N: Mask, found_rows: npt.NDArray[np.int64]) -> float:
    """Share of the exact top k that was found; any item that ties with its last one counts."""
    allowed = scores_N[mask_N]
    size = min(K, len(allowed))
    last = np.partition(allowed, len(allowed) - size)[len(allowed) - size]
    tolerance = _SCORE_TOLERANCE * float(np.abs(scores_N).max())
    good = (scores_N[found_rows] >= last - tolerance).sum()
    return min(float(good) / size, 1.0)


def _repeated(hits: Hits) -> int:
    return len(hits.keys) - len(np.unique(hits.keys))


def _text_probe(items: pa.Table, share: float, rng: np.random.Generator) -> Probe | None:
    """Values of one text field, the field chosen at random, that cover about `share`."""
    for name in rng.permutation(TEXT_FIELDS):
        texts: list[str | None] = items[name].to_pylist()
        values = _values_covering(texts, share * len(texts))
        if values:
            return Probe(
                filters=Filters.model_validate({name: values}),
                mask=np.array([text in values for text in texts]),
            )
    return None


def _values_covering(texts: Sequence[str | None], wanted: float) -> frozenset[str]:
    """The most frequent values that still fit, if they cover half of `wanted` at least."""
    chosen: list[str] = []
    covered = 0
    usable = (text for text in texts if text and len(text) <= MAX_VALUE_LENGTH)
    for value, count in Counter(usable).most_common():
        if covered + count <= wanted * 1.25 and len(chosen) < _MAX_VALUES:
            chosen.append(value)
            covered += count
    return frozenset(chosen) if covered >= wanted / 2 else frozenset()


def _price_probe(
    prices_N: npt.NDArray[np.float64], share: float, rng: np.random.Generator
) -> Probe | None:
    """A range of prices, anywhere on the scale, that covers about `share`."""
    known = np.sort(prices_N[np.isfinite(prices_N)])
    width = round(share * len(prices_N))
    if not 1 <= width <= len(known):
        return None
    starts = rng.integers(len(known) - width + 1, size=_PRICE_TRIES)
    ranges = zip(known[starts], known[starts + width - 1], strict=True)
    # Many items share a price: of some ranges the one that covers least.
    low, high = min(ranges, key=lambda ends: _between(prices_N, *ends).sum())
    return Probe(
        filters=Filters(price=PriceRange(min=float(low), max=float(high))),
        mask=_between(prices_N, low, high),
    )


def _between(prices_N: npt.NDArray[np.float64], low: float, high: float) -> Mask:
    return (prices_N >= low) & (prices_N <= high)


def _described(filters: Filters) -> str:
    """Short enough for a table."""
    parts = [
        f"{name} in {len(values)} values" if len(values) > 1 else f"{name} = {values[0]}"
        for name, values in filters.texts().items()
    ]
    if filters.price:
        parts.append(f"price {filters.price.min:g} to {filters.price.max:g}")
    if filters.in_stock is not None:
        parts.append("in stock" if filters.in_stock else "out of stock")
    return ", ".join(parts) or "none"
