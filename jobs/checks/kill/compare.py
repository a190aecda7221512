"""What is there against what must be there: every difference, by what it belongs to."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pyarrow as pa

from jobs.checks.kill.oracle import DAY_MS, STREAM_DAYS, Oracle, Row, midnight, since
from pagoda import lake, online_layout
from pagoda.errors import InputError, PagodaError
from pagoda.features import (
    ITEM_STATS,
    USER_DAY,
    USER_INTRADAY,
    USER_ITEMS,
    USER_STATS,
    Service,
    View,
)
from pagoda.online import OnlineReader
from pagoda.schemas import EVENTS, IDS, ITEMS, REJECTED, SEARCHES, Table
from pagoda.settings import Settings

_SHOWN = 400
_AGAIN_S = 0.5
INTRADAY = Service(name="intraday", description="", views=(USER_INTRADAY,))
Rows = Mapping[Any, Row]


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One thing that is not as it must be.

    Attributes:
        where: `online:user_intraday`, `lake:events`, ...
        key: of the row.
        expected, found: both sides, shortened; None for nothing.
    """

    where: str
    key: str
    expected: str | None
    found: str | None


def until_equal(compare: Callable[[], list[Difference]], *, within_s: float) -> list[Difference]:
    """Compare until nothing differs; the last differences if that does not come in time.

    What a server that is still coming up cannot tell yet counts as a difference until then.
    """
    give_up = time.monotonic() + within_s
    while True:
        try:
            found = compare()
        except (PagodaError, OSError) as error:
            found = [Difference(where="asking", key="", expected=None, found=str(error)[:_SHOWN])]
        if not found or time.monotonic() > give_up:
            return found
        time.sleep(_AGAIN_S)


def sequences(settings: Settings, oracle: Oracle) -> list[Difference]:
    """Every user's online row of `user_intraday`."""
    now_ms = time.time_ns() // 1_000_000
    expected = oracle.online(now_ms=now_ms)
    first_ms = midnight(now_ms) - (STREAM_DAYS - 1) * DAY_MS
    held = online(settings, INTRADAY, list(expected))
    found = {
        user: since(rows["user_intraday"], first_ms)
        for user, rows in held.items()
        if rows.get("user_intraday")
    }
    return differences("online:user_intraday", expected, found)


def online(settings: Settings, service: Service, keys: Collection[int]) -> dict[int, Row]:
    """The rows as serving reads them; a row that cannot be read is what it says of itself."""
    reader, now_ms = OnlineReader(settings, service), time.time_ns() // 1_000_000
    found: dict[int, Row] = {}
    try:
        keys = list(keys)
        return dict(zip(keys, map(_lists, reader.read_many(keys, now_ms)), strict=True))
    except InputError:
        for each in keys:
            try:
                found[each] = _lists(reader.read(each, now_ms))
            except InputError as error:
                found[each] = {view.name: {"damaged": str(error)} for view in service.views}
    return found


def _lists(rows: Mapping[str, Mapping[str, Any] | None]) -> Row:
    return {view: row and online_layout.plain(row) for view, row in rows.items()}


def tables(settings: Settings, oracle: Oracle) -> list[Difference]:
    """What landing writes: each record exactly once."""
    return [
        *_table(settings, EVENTS, oracle.events(), by=_source),
        *_table(settings, SEARCHES, oracle.searches(), by=_source),
        *_table(settings, ITEMS, oracle.items(), by=lambda row: row["item_id"]),
        *_table(settings, REJECTED, oracle.rejected(), by=_source),
        *_table(settings, IDS, oracle.ids(), by=lambda row: f"{row['kind']} {row['id']}"),
    ]


def features(settings: Settings, oracle: Oracle, days_ms: Iterable[int]) -> list[Difference]:
    """The feature tables of these UTC days: each row's newest version, no version twice."""
    found: list[Difference] = []
    for view, expects in (
        (USER_DAY, oracle.user_day),
        (USER_INTRADAY, oracle.user_intraday),
        (USER_ITEMS, oracle.user_items),
        (USER_STATS, oracle.user_stats),
        (ITEM_STATS, oracle.item_stats),
    ):
        newest, doubled = newest_versions(settings, view)
        for day_ms in days_ms:
            of_day = {key: row for key, row in newest.items() if day_ms <= key[1] < day_ms + DAY_MS}
            found += differences(f"lake:{view.name}", expects(day_ms), of_day)
        found += [
            Difference(where=f"lake:{view.name}", key=str(key), expected="once", found=f"{n} times")
            for key, n in doubled.items()
        ]
    return found


def newest_versions(settings: Settings, view: View) -> tuple[dict[Any, Row], dict[Any, int]]:
    """(entity, time) to the newest version's columns; and what stands there more than once."""
    rows = read(settings, view.table)
    seen = Counter((row[view.entity], row["event_timestamp"], row["created"]) for row in rows)
    newest: dict[Any, Row] = {}
    for row in sorted(rows, key=lambda row: row["created"]):
        key = (row[view.entity], row["event_timestamp"])
        newest[key] = {column: row[column] for column in view.columns}
    return newest, {key: count for key, count in seen.items() if count > 1}


def materialised(settings: Settings, views: Iterable[View], *, at_ms: int) -> list[Difference]:
    """Online rows of these views against the newest valid versions in their tables."""
    found: list[Difference] = []
    for view in views:
        valid_from = at_ms - view.ttl_days * DAY_MS if view.ttl_days else 0
        expected: dict[int, Row] = {}
        for (entity, moment), row in sorted(newest_versions(settings, view)[0].items()):
            if valid_from <= moment <= at_ms:
                expected[entity] = row
        service = Service(name=view.name, description="", views=(view,))
        held = online(settings, service, list(expected))
        there = {key: rows[view.name] for key, rows in held.items() if rows[view.name]}
        found += differences(f"online:{view.name}", expected, there)
    return found


def read(settings: Settings, table: Table) -> list[Row]:
    """All rows of a lake table, times as epoch milliseconds."""
    return [_plain(row) for row in _arrow(settings, table).to_pylist()]


def differences(where: str, expected: Rows, found: Rows) -> list[Difference]:
    """Keys that one side lacks, and rows that differ in a column that is expected."""
    wrong = []
    for key in expected.keys() | found.keys():
        left, right = expected.get(key), found.get(key)
        if right is not None and left is not None:
            right = {name: right.get(name) for name in left}
        if left != right:
            if left and right:
                left, right = _apart(left, right)
            wrong.append(
                Difference(where=where, key=str(key), expected=_short(left), found=_short(right))
            )
    return wrong


def _table(
    settings: Settings, table: Table, expected: Mapping[str, Row], *, by: Callable[[Row], str]
) -> list[Difference]:
    rows = read(settings, table)
    where = f"lake:{table.name}"
    twice = [
        Difference(where=where, key=key, expected="once", found=f"{count} times")
        for key, count in Counter(map(by, rows)).items()
        if count > 1
    ]
    return differences(where, expected, {by(row): row for row in rows}) + twice


def _apart(left: Row, right: Row) -> tuple[Row, Row]:
    """Of two rows the columns that differ; of lists what only one side has."""
    names = [name for name in left if left[name] != right[name]]
    pairs = {name: (left[name], right[name]) for name in names}
    for name, (ours, theirs) in pairs.items():
        if isinstance(ours, list) and isinstance(theirs, list) and set(ours) != set(theirs):
            alone = [value for value in ours if value not in theirs]
            pairs[name] = (alone, [value for value in theirs if value not in ours])
    return {name: a for name, (a, _) in pairs.items()}, {name: b for name, (_, b) in pairs.items()}


def _source(row: Row) -> str:
    return str(row["source"])


def _arrow(settings: Settings, table: Table) -> pa.Table:
    return lake.open_table(settings, table).scan().to_arrow()


def _plain(row: Row) -> Row:
    return {
        name: _ms(value) if isinstance(value, datetime) else value for name, value in row.items()
    }


def _ms(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)


def _short(row: Row | None) -> str | None:
    if row is None:
        return None
    said = str(row)
    return said if len(said) <= _SHOWN else f"{said[:_SHOWN]} …"
