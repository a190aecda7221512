"""Generated histories: events at few moments, so that ties and full windows are common."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import strategies as st

from jobs.batch.history import BUY, CLICK, COLLECT, QUERY, History
from tests.oracles.features import Arrival
from tests.oracles.windows import Happening

DAY = 86_400_000
# A leap day, the month's end of a year without one, new year, and any day.
DAYS = [
    int(datetime(*day, tzinfo=UTC).timestamp() * 1000)
    for day in ((2024, 3, 1), (2023, 3, 2), (2025, 1, 1), (2026, 11, 22))
]
TIMES_OF_DAY = (0, 1, DAY // 2, DAY - 1)
ACTIONS = ("click", "click", "click", "buy", "collect", "search", "search")

days = st.sampled_from(DAYS)
times_of_day = st.sampled_from(TIMES_OF_DAY) | st.integers(0, DAY - 1)


@st.composite
def happenings(draw: st.DrawFn, around: int, *, back: int, size: int = 60) -> list[Happening]:
    """Happenings from `back` days before the day `around` to one day after, keys unique.

    Many share a millisecond: there are fewer moments than happenings.
    """
    moment = st.tuples(st.integers(-back, 1), times_of_day)
    shared = st.sampled_from(draw(st.lists(moment, min_size=1, max_size=6)))
    drawn = st.lists(st.tuples(shared | moment, st.sampled_from(ACTIONS)), max_size=size)
    return [
        Happening(
            ts=around + days_off * DAY + time,
            key=key,
            what=f"words {key}" if action == "search" else key % 3,
            action=action,
        )
        for key, ((days_off, time), action) in enumerate(draw(drawn))
    ]


@st.composite
def arrivals(draw: st.DrawFn, around: int, *, back: int, size: int = 40) -> list[Arrival]:
    """The same as they came in: at once, late, out of order, several times, in any order."""
    found = []
    for each in draw(happenings(around, back=back, size=size)):
        delays = draw(
            st.lists(
                st.sampled_from((-1000, 0, 1, 5000))
                | st.integers(0, 3 * DAY)
                | st.integers(1, 12).map(lambda late_days: late_days * DAY),
                min_size=1,
                max_size=2,
            )
        )
        found += [Arrival(user="u", ingested=each.ts + delay, happening=each) for delay in delays]
    return draw(st.permutations(found))


def history_of(
    arrived: list[Arrival],
    *,
    click_actions: tuple[str, ...] = ("click",),
    prices: Mapping[int, float] = MappingProxyType({}),
) -> History:
    """The history of one user whose arrivals these are."""
    rows = history_rows(arrived, click_actions=click_actions, prices=prices)
    return History.of(pa.Table.from_pylist(rows, schema=SCHEMA).to_batches())[1]


def history_rows(
    arrived: list[Arrival],
    *,
    user_key: int = 1,
    click_actions: tuple[str, ...] = ("click",),
    prices: Mapping[int, float] = MappingProxyType({}),
) -> list[dict[str, Any]]:
    """What `history.read` makes of the arrivals of one user."""
    first: dict[tuple[int, int], Arrival] = {}
    for each in sorted(arrived, key=lambda arrival: arrival.ingested):
        first.setdefault((each.happening.key, each.happening.ts), each)
    return [
        {
            "user_key": user_key,
            "role": _role(each.happening.action, click_actions),
            "ts": each.happening.ts,
            "ingested": each.ingested,
            "key": each.happening.key,
            "item_key": None if each.happening.action == "search" else each.happening.what,
            "query": each.happening.what if each.happening.action == "search" else None,
            "price": prices.get(each.happening.what),
        }
        for each in first.values()
    ]


def _role(action: str, click_actions: tuple[str, ...]) -> int:
    roles = {"buy": BUY, "collect": COLLECT, "search": QUERY}
    return (CLICK if action in click_actions else 0) | roles.get(action, 0)


def midnights(first: int, count: int) -> np.ndarray:
    """`count` midnights from `first` on."""
    return first + np.arange(count) * DAY


SCHEMA = pa.schema(
    [
        ("user_key", pa.int64()),
        ("role", pa.int8()),
        ("ts", pa.int64()),
        ("ingested", pa.int64()),
        ("key", pa.int64()),
        ("item_key", pa.int64()),
        ("query", pa.string()),
        ("price", pa.float64()),
    ]
)
