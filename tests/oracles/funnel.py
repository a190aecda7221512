"""What comes through the stages behind retrieval, with lists and one look at each item."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def passed(
    channels: Mapping[str, Sequence[int]],
    passing: Sequence[bool],
    scores: Sequence[float],
    *,
    k: int,
    ranked: int,
) -> dict[str, tuple[int, int]]:
    """Of each channel's first k, how many survive, and how many of these enter ranking."""
    left = {name: [each for each in order[:k] if passing[each]] for name, order in channels.items()}
    together = {each for survivors in left.values() for each in survivors}
    entering = sorted(together, key=lambda each: (-scores[each], each))[:ranked]
    return {
        name: (len(survivors), len([each for each in survivors if each in entering]))
        for name, survivors in left.items()
    }


def satisfies(item: Mapping[str, str | None], asked: Sequence[Mapping[str, Sequence[str]]]) -> bool:
    """Whether each thing asked for is named by one of the item's fields."""
    return all(any(item[field] in values for field, values in one.items()) for one in asked)
