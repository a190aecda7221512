"""How well two sorts are told apart, by asking of every two; which share of a ranking is good."""

from __future__ import annotations

from collections.abc import Sequence


def auc(good: Sequence[float], bad: Sequence[float]) -> float:
    """Share of (good, bad) of which the good one has more; equal ones are half a win."""
    wins = [1.0 if g > b else 0.5 if g == b else 0.0 for g in good for b in bad]
    return sum(wins) / len(wins)


def p_good(ranking: Sequence[int], good: Sequence[bool], k: int) -> float:
    """Share of the first k that is good; of all, if they are fewer."""
    first = [good[each] for each in ranking[:k]]
    return sum(first) / len(first)
