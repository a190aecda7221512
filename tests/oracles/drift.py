"""Quantiles and the population stability index by their definitions, over plain lists."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

Value = float | None


def quantile(values: Sequence[Value], percent: int) -> float:
    """The smallest value such that `percent` of 100 of all filled ones are at most that."""
    filled = sorted(value for value in values if value is not None)
    rank = -(-percent * len(filled) // 100)
    return filled[max(rank, 1) - 1]


def psi(reference: Sequence[Value], current: Sequence[Value], *, kinds: bool = False) -> float:
    """Over the reference's deciles, or over each value, and one bin of nulls."""
    filled = [value for value in reference if value is not None]
    if kinds:
        edges = {value for value in [*reference, *current] if value is not None}
    else:
        edges = {quantile(filled, 10 * n) for n in range(1, 10)} if filled else set()
    bins = [*sorted(edges), math.inf, None]

    def share(values: Sequence[Value], wanted: Value) -> float:
        counted = Counter(_bin(value, bins) for value in values)
        return (counted[wanted] + 0.5) / (len(values) + 0.5 * len(bins))

    return sum(
        (share(current, each) - share(reference, each))
        * math.log(share(current, each) / share(reference, each))
        for each in bins
    )


def _bin(value: Value, bins: Sequence[Value]) -> Value:
    if value is None:
        return None
    return next(edge for edge in bins if edge is not None and value <= edge)
