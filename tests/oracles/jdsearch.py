"""What a line of JDsearch tells of, by walking back from its last search."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

LAST = datetime(2022, 10, 17, tzinfo=UTC)
ACTIONS = {"CLICK": "click", "CART": "cart", "ORD": "buy", "FLW": "collect"}
GRADES = {"1.0": "click", "2.0": "cart", "3.0": "buy"}

Told = tuple[str, str, datetime, str | None]  # item, action, when, the words that it was found with


def done(
    queries: Sequence[str], items: Sequence[str], types: Sequence[str], gaps_s: Sequence[int]
) -> list[Told]:
    """Everything before the last search, the latest first."""
    moment, told = LAST, []
    for at in reversed(range(len(items))):
        moment -= timedelta(seconds=gaps_s[at + 1])
        words = None if queries[at] == "-1" else queries[at].replace("\x18", " ")
        told.append((items[at], ACTIONS[types[at]], moment, words))
    return told


def displayed(items: Sequence[str], labels: Sequence[str]) -> list[tuple[str, str, int]]:
    """Item, action and place of all that the last search displayed, and of what came of it."""
    told = [(item, "impression", place) for place, item in enumerate(items)]
    for place, (item, label) in enumerate(zip(items, labels, strict=True)):
        if label in GRADES:
            told.append((item, GRADES[label], place))
    return told


def searches(queries: Sequence[str], gaps_s: Sequence[int]) -> list[list[int]]:
    """Which of the things done belong to one search, search by search."""
    found: list[list[int]] = []
    for at, query in enumerate(queries):
        if query == "-1":
            continue
        follows = at > 0 and queries[at - 1] == query and gaps_s[at] <= 30 * 60
        if follows:
            found[-1].append(at)
        else:
            found.append([at])
    return found
