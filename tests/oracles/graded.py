"""The share of a ranking that is good, by walking down it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def _share(labels: Sequence[bool]) -> float | None:
    return sum(labels) / len(labels) if labels else None


def p_good(ranking: Sequence[int], good: Mapping[int, bool], k: int) -> float | None:
    """Share of the judged among the first k that is good; None where none is judged."""
    return _share([good[each] for each in ranking[:k] if each in good])


def condensed(ranking: Sequence[int], good: Mapping[int, bool], k: int) -> float | None:
    """The same of the first k of the list that has only judged candidates."""
    return _share([good[each] for each in [each for each in ranking if each in good][:k]])


def judged(ranking: Sequence[int], good: Mapping[int, bool], k: int) -> float:
    """Share of the first k that is judged."""
    return sum(each in good for each in ranking[:k]) / len(ranking[:k])
