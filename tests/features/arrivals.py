"""Many users' histories at once, as untidy as streams are, and the lake that holds them.

Seeded, not drawn by Hypothesis: one Spark job judges all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime

import numpy as np
import pyarrow as pa

from pagoda import dataset, lake, schemas
from pagoda.ids import key_of
from pagoda.settings import Settings
from tests.oracles.features import Arrival
from tests.oracles.windows import Happening

DAY = 86_400_000
FIRST, LAST = date(2024, 2, 26), date(2024, 3, 3)  # the days that are built: a leap day inside
CLICK_ACTIONS = ("click", "buy")
ITEMS = {f"i{number}": None if number % 4 == 0 else 1.5 * number for number in range(12)}
PRICES = {key_of("item", item): price for item, price in ITEMS.items()}
_ACTIONS = ("click", "click", "click", "buy", "collect", "cart", "impression", "search", "search")
_TIMES = (0, 1, 43_200_000, DAY - 1)


def midnight(day: date) -> int:
    """Epoch milliseconds."""
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp() * 1000)


def of_user(user: str, rng: np.random.Generator) -> list[Arrival]:
    """A user's arrivals: few or very many, mostly on time or mostly late, in any order."""
    end = midnight(LAST) + DAY
    span = int(rng.choice([2, 8, 40])) * DAY
    count = int(rng.choice([0, 3, 30, 120, 260], p=[0.05, 0.25, 0.4, 0.2, 0.1]))
    lateness = float(rng.choice([0.0, 0.1, 0.6]))
    found: list[Arrival] = []
    for number in range(count):
        ts = end - int(rng.integers(1, span))
        if rng.random() < 0.4:  # many events at few moments: midnights and ties
            ts = ts - ts % DAY + int(rng.choice(_TIMES))
        action = str(rng.choice(_ACTIONS))
        ingested = ts + _delay(rng, lateness)
        happening = _happening(user, number, ts, action, rng)
        found.append(Arrival(user=user, ingested=ingested, happening=happening))
        if rng.random() < 0.2:  # resent, sometimes contradicting itself
            again = _happening(user, number, ts, action, rng) if number % 3 == 0 else happening
            later = ingested + int(rng.integers(1, 3 * DAY))
            found.append(Arrival(user=user, ingested=later, happening=again))
    return [found[position] for position in rng.permutation(len(found))]


def moments(arrivals: Sequence[Arrival], rng: np.random.Generator, count: int) -> list[int]:
    """Moments of the built days to look at: any, midnights, and edges of what happened."""
    begin, end = midnight(FIRST) + DAY, midnight(LAST) + DAY
    edges = [
        edge + step
        for each in arrivals
        for edge in (each.happening.ts, each.ingested)
        for step in (0, 1)
        if begin <= edge + step < end
    ]
    chosen = set(rng.integers(begin, end, count).tolist())
    chosen |= {begin + DAY, begin + DAY + 1, end - 1}
    if edges:
        chosen |= set(rng.choice(edges, min(count, len(edges)), replace=False).tolist())
    return sorted(chosen)


def fill_lake(settings: Settings, arrivals: Sequence[Arrival]) -> None:
    """Write items, events, searches and the data set's record."""
    _append(
        settings,
        schemas.ITEMS,
        [
            {
                "item_id": item,
                "item_key": key_of("item", item),
                "updated_at": midnight(FIRST) - 50 * DAY,
                "title": f"title of {item}",
                "price": price,
            }
            for item, price in ITEMS.items()
        ],
    )
    append_behaviour(settings, arrivals)
    dataset.save(
        settings,
        dataset.Dataset(
            name="generated",
            click_actions=CLICK_ACTIONS,
            first_day=date(2024, 1, 1),
            last_day=LAST,
            validation_from=FIRST,
            test_from=FIRST,
            query_protocol="generated",
            fingerprint="generated",
        ),
    )


def append_behaviour(settings: Settings, arrivals: Sequence[Arrival]) -> None:
    """Write events and searches, as they came."""
    searches = [each for each in arrivals if each.happening.action == "search"]
    events = [each for each in arrivals if each.happening.action != "search"]
    _append(
        settings,
        schemas.EVENTS,
        [
            _row(each)
            | {
                "event_id": str(each.happening.key),
                "event_key": each.happening.key,
                "item_id": "not read",
                "item_key": each.happening.what,
                "action": each.happening.action,
            }
            for each in events
        ],
    )
    _append(
        settings,
        schemas.SEARCHES,
        [
            _row(each)
            | {
                "search_id": str(each.happening.key),
                "search_key": each.happening.key,
                "query": each.happening.what,
            }
            for each in searches
        ],
    )


def _delay(rng: np.random.Generator, lateness: float) -> int:
    if rng.random() >= lateness:
        return int(rng.choice([-60_000, 0, 0, 1, 300]))  # clocks of phones run ahead, too
    return int(rng.choice([5_000, DAY, int(rng.integers(1, 4 * DAY))]))


def _happening(user: str, number: int, ts: int, action: str, rng: np.random.Generator) -> Happening:
    if action == "search":
        what: int | str = f"words {rng.integers(100)}"
        return Happening(ts=ts, key=key_of("search", f"{user}-{number}"), what=what, action=action)
    what = key_of("item", f"i{rng.integers(len(ITEMS))}")
    return Happening(ts=ts, key=key_of("event", f"{user}-{number}"), what=what, action=action)


def _row(arrival: Arrival) -> dict[str, object]:
    return {
        "user_id": arrival.user,
        "user_key": key_of("user", arrival.user),
        "ts": arrival.happening.ts,
        "ingested_at": arrival.ingested,
    }


def _append(settings: Settings, table: schemas.Table, rows: Sequence[dict[str, object]]) -> None:
    times = {"ts", "ingested_at", "updated_at"}
    full = [
        {
            name: (row[name] * 1000 if name in times else row[name]) if name in row else None
            for name in table.schema.names
        }
        | {"source": "generated"}
        for row in rows
    ]
    if full:
        lake.open_table(settings, table).append(pa.Table.from_pylist(full, schema=table.schema))
