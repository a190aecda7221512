"""Two sides' windows beside each other, element by element.

An element is (ts, event or search key, item key or query text). The windows are compared
(real-time, short-term, long-term, queries): what a model sees, not how rows happen to hold it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pagoda.sequences import Sequence
from pagoda.windows import LONG_TERM_ACTIONS, Windows

Element = tuple[int, int, Any]
Side = Literal["online", "offline"]


@dataclass(frozen=True, kw_only=True)
class Lone:
    """An element of a window that only one side has."""

    window: str
    side: Side
    element: Element


def lone_elements(online: Windows, offline: Windows) -> Iterator[Lone]:
    """All that differs, window by window, oldest first; nothing if the sides are equal."""
    ours, theirs = elements(online), elements(offline)
    for window in ours:
        if ours[window] == theirs[window]:
            continue
        sides: tuple[tuple[Side, list[Element], list[Element]], ...] = (
            ("online", ours[window], theirs[window]),
            ("offline", theirs[window], ours[window]),
        )
        for side, having, other in sides:
            known = set(other)
            for element in having:
                if element not in known:
                    yield Lone(window=window, side=side, element=element)


def elements(windows: Windows) -> Mapping[str, list[Element]]:
    """Window name to its elements, oldest first."""
    return {name: _elements(window) for name, window in _named(windows)}


def _named(windows: Windows) -> Iterator[tuple[str, Sequence]]:
    yield "real_time", windows.real_time
    yield "short_term", windows.short_term
    for action in LONG_TERM_ACTIONS:
        yield f"long_term_{action}", windows.long_term[action]
    yield "queries", windows.queries


def _elements(window: Sequence) -> list[Element]:
    return list(zip(window.ts.tolist(), window.event.tolist(), window.value.tolist(), strict=True))
