"""The sets that one line is in, by looking at every event."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Event:
    """Somebody took something."""

    user: str
    item: str
    t_ms: int


@dataclass(frozen=True, kw_only=True)
class Line(Event):
    """Somebody searched for words and took something."""

    words: Sequence[str]


def sets_of(
    line: Line,
    events: Sequence[Event],
    texts: Mapping[str, Sequence[str]],
    *,
    starts_ms: int,
    narrow: int,
    broad: int,
) -> set[str]:
    """Names of the sets.

    Args:
        texts: the words of every item, in the order that breaks ties of popularity.
    """
    past = [event for event in events if event.t_ms < line.t_ms and event.user == line.user]
    known = bool(past)
    repeat = any(event.item == line.item for event in past)
    counts = Counter(event.item for event in events if event.t_ms < starts_ms)
    candidates = [item for item in texts if counts[item]]
    matching = sum(1 for item in candidates if all(word in texts[item] for word in line.words))
    names = {
        "all",
        "repeats" if repeat else "non-repeats",
        "with history" if known else "without history",
        "narrow queries"
        if matching <= narrow
        else "middle queries"
        if matching <= broad
        else "broad queries",
    }
    if line.item in candidates:
        before = 0
        for item in sorted(candidates, key=lambda each: -counts[each]):
            if item == line.item:
                break
            before += counts[item]
        third = before * 3 // sum(counts[item] for item in candidates)
        names.add(("head items", "middle items", "tail items")[third])
    return names
