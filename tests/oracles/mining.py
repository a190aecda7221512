"""Ranks by sorting all scores."""

from __future__ import annotations

from collections.abc import Sequence


def ranked(
    user: Sequence[float],
    items: Sequence[Sequence[float]],
    taken: set[int],
    *,
    first: int,
    last: int,
) -> list[int]:
    """Numbers, from 1, of the items at these ranks by inner product, those taken left out."""
    scores = {
        number: sum(a * b for a, b in zip(user, item, strict=True))
        for number, item in enumerate(items, 1)
        if number not in taken
    }
    return sorted(scores, key=lambda number: -scores[number])[first - 1 : last]
