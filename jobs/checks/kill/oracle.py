"""What must be there by the words of the laws, from what was sent; slow and plain.

Imports nothing of what it judges (import-linter holds it): keys, windows and caps are written here
a second time.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any

DAY_MS = 24 * 60 * 60 * 1000
STREAM_DAYS, RECENT_DAYS, LONG_DAYS = 4, 10, 20
CLICKS, QUERIES, LONG = 150, 20, 100
OWNED_DAYS, OWNED = 365, 500
Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Record:
    """A record that Kafka acknowledged, with its place and the time it was given."""

    topic: str
    partition: int
    offset: int
    taken_ms: int
    value: str

    @property
    def place(self) -> str:
        """Where it lies."""
        return f"{self.topic}:{self.partition}:{self.offset}"


class Oracle:
    """What follows from all records. `rubbish` marks those that nobody can read."""

    def __init__(
        self, records: Iterable[Record], *, events: str, searches: str, items: str, rubbish: str
    ) -> None:
        self._records: dict[str, list[tuple[Record, Row]]] = {events: [], searches: [], items: []}
        self._rejected: list[Record] = []
        for record in records:
            if rubbish in record.value:
                self._rejected.append(record)
            else:
                self._records[record.topic].append((record, json.loads(record.value)))
        self._events, self._searches, self._items = events, searches, items

    # Online --------------------------------------------------------------------------------------

    def online(self, *, now_ms: int) -> dict[int, Row]:
        """User key to the row of user_intraday."""
        first_ms = midnight(now_ms) - (STREAM_DAYS - 1) * DAY_MS
        clicked: dict[str, set[tuple[int, int, int]]] = {}
        asked: dict[str, set[tuple[int, int, str]]] = {}
        for _, fields in self._records[self._events]:
            if fields["action"] == "click" and fields["ts"] >= first_ms:
                clicked.setdefault(fields["user_id"], set()).add(_event(fields))
        for _, fields in self._records[self._searches]:
            if fields["ts"] >= first_ms:
                asked.setdefault(fields["user_id"], set()).add(_search(fields))
        return {
            key("user", user): {
                **_lists("click", sorted(clicked.get(user, ()))[-CLICKS:]),
                **_query_lists(sorted(asked.get(user, ()))[-QUERIES:]),
            }
            for user in clicked.keys() | asked.keys()
        }

    # The lake ------------------------------------------------------------------------------------

    def events(self) -> dict[str, Row]:
        """Source to the row of `events`."""
        return {
            f"kafka:{record.place}": {
                **{
                    name: fields[name]
                    for name in ("event_id", "user_id", "item_id", "action", "ts")
                },
                **{name: fields.get(name) for name in ("search_id", "position", "shop")},
                "event_key": key("event", fields["event_id"]),
                "user_key": key("user", fields["user_id"]),
                "item_key": key("item", fields["item_id"]),
                "ingested_at": record.taken_ms,
            }
            for record, fields in self._records[self._events]
        }

    def searches(self) -> dict[str, Row]:
        """Source to the row of `searches`."""
        return {
            f"kafka:{record.place}": {
                **{name: fields[name] for name in ("search_id", "user_id", "query", "ts")},
                "search_key": key("search", fields["search_id"]),
                "user_key": key("user", fields["user_id"]),
                "ingested_at": record.taken_ms,
            }
            for record, fields in self._records[self._searches]
        }

    def items(self) -> dict[str, Row]:
        """Item id to the row of `items`: the newest, of equal times the last that came."""
        newest: dict[str, tuple[int, int, Record, Row]] = {}
        for record, fields in self._records[self._items]:
            candidate = (fields["updated_at"], record.offset, record, fields)
            if candidate[:2] >= newest.get(fields["item_id"], (0, 0))[:2]:
                newest[fields["item_id"]] = candidate
        return {
            item: {
                **{
                    name: fields[name]
                    for name in ("item_id", "title", "price", "in_stock", "updated_at")
                },
                "item_key": key("item", item),
                "source": f"kafka:{record.place}",
            }
            for item, (_, _, record, fields) in newest.items()
        }

    def rejected(self) -> dict[str, Row]:
        """Source to the row of `rejected`."""
        return {
            f"kafka:{record.place}": {"place": record.place, "raw": record.value.encode()}
            for record in self._rejected
        }

    def ids(self) -> dict[str, Row]:
        """Kind and id to the row of `ids`."""
        named = [("user", fields["user_id"]) for _, fields in self._records[self._events]]
        named += [("user", fields["user_id"]) for _, fields in self._records[self._searches]]
        named += [("item", fields["item_id"]) for _, fields in self._records[self._events]]
        named += [("item", fields["item_id"]) for _, fields in self._records[self._items]]
        return {f"{kind} {name}": {"key": key(kind, name)} for kind, name in set(named)}

    # Feature tables, each row's newest version ---------------------------------------------------

    def user_day(self, day_ms: int) -> dict[tuple[int, int], Row]:
        """(user key, time) to the row of user_day of that UTC day."""
        rows = {}
        for user, history in self._histories().items():
            recent = [
                each for each in history if day_ms - RECENT_DAYS * DAY_MS <= each["ts"] < day_ms
            ]
            row = {
                **_lists("click", sorted(map(_event, _of(recent, "click")))[-CLICKS:]),
                **_query_lists(sorted(map(_search, _of(recent, "search")))[-QUERIES:]),
            }
            for action in ("click", "buy", "collect"):
                seen: set[tuple[int, int, int]] = set()
                for later in range(STREAM_DAYS):
                    end = day_ms + (later - RECENT_DAYS) * DAY_MS
                    inside = [
                        _event(each)
                        for each in _of(history, action)
                        if end - LONG_DAYS * DAY_MS <= each["ts"] < end
                    ]
                    seen |= set(sorted(inside)[-LONG:])
                row |= _lists(f"long_{action}", sorted(seen))
            if any(row.values()):
                rows[key("user", user), day_ms] = row
        return rows

    def user_intraday(self, day_ms: int) -> dict[tuple[int, int], Row]:
        """(user key, time) to the row of user_intraday at each moment of that UTC day."""
        rows = {}
        for user, history in self._histories().items():
            today = [each for each in history if day_ms <= each["ts"] < day_ms + DAY_MS]
            today = _of(today, "click") + _of(today, "search")
            for moment in {each["ts"] for each in today}:
                upto = [each for each in today if each["ts"] <= moment]
                rows[key("user", user), moment] = {
                    **_lists("click", sorted(map(_event, _of(upto, "click")))[-CLICKS:]),
                    **_query_lists(sorted(map(_search, _of(upto, "search")))[-QUERIES:]),
                }
        return rows

    def user_stats(self, day_ms: int) -> dict[tuple[int, int], Row]:
        """(user key, time) to the row of user_stats of that UTC day."""
        prices = {item: row["price"] for item, row in self.items().items()}
        rows = {}
        for user, history in self._histories().items():
            month = [each for each in history if day_ms - 30 * DAY_MS <= each["ts"] < day_ms]
            clicks, buys = _of(month, "click"), _of(month, "buy")
            searches = _of(month, "search")
            if not (clicks or buys or searches):
                continue
            touched = clicks + buys
            paid = [prices[each["item_id"]] for each in touched if each["item_id"] in prices]
            rows[key("user", user), day_ms] = {
                "clicks_7d": len([c for c in clicks if c["ts"] >= day_ms - 7 * DAY_MS]),
                "clicks_30d": len(clicks),
                "buys_30d": len(buys),
                "searches_30d": len(searches),
                "distinct_items_30d": len({each["item_id"] for each in touched}),
                "active_days_30d": len({midnight(each["ts"]) for each in touched + searches}),
                "mean_price_30d": fmean(paid) if paid else None,
            }
        return rows

    def user_items(self, day_ms: int) -> dict[tuple[int, int], Row]:
        """(user key, time) to the row of user_items of that UTC day."""
        rows = {}
        for user, history in self._histories().items():
            had: dict[int, list[int]] = {}
            for each in history:
                inside = day_ms - OWNED_DAYS * DAY_MS <= each["ts"] < day_ms
                if inside and each["action"] in ("click", "buy"):
                    had.setdefault(key("item", each["item_id"]), []).append(each["ts"])
            kept = sorted(had, key=lambda item: (-len(had[item]), -max(had[item]), item))[:OWNED]
            if kept:
                rows[key("user", user), day_ms] = {
                    "owned_items": kept,
                    "owned_times": [len(had[item]) for item in kept],
                    "owned_last_ts": [max(had[item]) for item in kept],
                }
        return rows

    def item_stats(self, day_ms: int) -> dict[tuple[int, int], Row]:
        """(item key, time) to the row of item_stats of that UTC day."""
        month: dict[str, list[Row]] = {}
        for history in self._histories().values():
            for each in history:
                if day_ms - 30 * DAY_MS <= each["ts"] < day_ms and each["action"] != "search":
                    month.setdefault(each["item_id"], []).append(each)
        rows = {}
        for item, seen in month.items():
            clicks, buys = _of(seen, "click"), _of(seen, "buy")
            if not (clicks or buys):
                continue
            week_ms = day_ms - 7 * DAY_MS
            rows[key("item", item), day_ms] = {
                "clicks_7d": len([each for each in clicks if each["ts"] >= week_ms]),
                "clicks_30d": len(clicks),
                "buys_7d": len([each for each in buys if each["ts"] >= week_ms]),
                "buys_30d": len(buys),
                "users_30d": len({each["user_id"] for each in clicks + buys}),
            }
        return rows

    def _histories(self) -> dict[str, list[Row]]:
        """User to what they did, each event once."""
        once: dict[tuple[str, int], Row] = {}
        for _, fields in self._records[self._events]:
            once["e" + fields["event_id"], fields["ts"]] = fields
        for _, fields in self._records[self._searches]:
            once["s" + fields["search_id"], fields["ts"]] = {**fields, "action": "search"}
        histories: dict[str, list[Row]] = {}
        for fields in once.values():
            histories.setdefault(fields["user_id"], []).append(fields)
        return histories


def key(kind: str, identifier: str) -> int:
    """63 bits of BLAKE2b-64 over kind, NUL and id."""
    data = kind.encode() + b"\x00" + identifier.encode()
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big") % 2**63


def midnight(ms: int) -> int:
    """The beginning of that moment's UTC day."""
    return ms - ms % DAY_MS


def since(row: Mapping[str, Any], first_ms: int) -> Row:
    """A row without what happened before: a row is cut when it is written, not when it is read."""
    kept = {}
    for name, values in row.items():
        times = row["query_ts" if name.startswith("query") else "click_ts"]
        kept[name] = [value for value, ts in zip(values, times, strict=True) if ts >= first_ms]
    return kept


def _of(happened: Collection[Row], action: str) -> list[Row]:
    return [each for each in happened if each["action"] == action]


def _event(fields: Row) -> tuple[int, int, int]:
    return fields["ts"], key("event", fields["event_id"]), key("item", fields["item_id"])


def _search(fields: Row) -> tuple[int, int, str]:
    return fields["ts"], key("search", fields["search_id"]), fields["query"]


def _lists(prefix: str, events: list[tuple[int, int, int]]) -> Row:
    return {
        f"{prefix}_ts": [each[0] for each in events],
        f"{prefix}_events": [each[1] for each in events],
        f"{prefix}_items": [each[2] for each in events],
    }


def _query_lists(searches: list[tuple[int, int, str]]) -> Row:
    return {
        "query_ts": [each[0] for each in searches],
        "query_events": [each[1] for each in searches],
        "query_texts": [each[2] for each in searches],
    }
