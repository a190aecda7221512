"""The online row of a user by the words of law 2, from the messages themselves; slow and plain."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

DAY_MS = 24 * 60 * 60 * 1000


def online_rows(
    messages: Iterable[Mapping[str, Any]],
    *,
    now_ms: int,
    click_actions: Iterable[str] = ("click",),
    clicks: int = 150,
    queries: int = 20,
    days: int = 4,
) -> dict[str, dict[str, list[Any]]]:
    """User id to the row of `user_intraday`, for users that have one.

    `messages` are fields as they travel: those with a query are searches, the others events.
    """
    first_ms = (now_ms // DAY_MS - (days - 1)) * DAY_MS
    clicked: dict[str, set[tuple[int, int, int]]] = {}
    asked: dict[str, set[tuple[int, int, str]]] = {}
    for message in messages:
        user, ts = message["user_id"], message["ts"]
        if ts < first_ms:
            continue
        if "query" in message:
            search = key("search", message["search_id"])
            asked.setdefault(user, set()).add((ts, search, message["query"]))
        elif message["action"] in click_actions:
            event, item = key("event", message["event_id"]), key("item", message["item_id"])
            clicked.setdefault(user, set()).add((ts, event, item))
    rows = {}
    for user in clicked.keys() | asked.keys():
        of_user = _newest(clicked.get(user, set()), clicks, now_ms)
        queries_of_user = _newest(asked.get(user, set()), queries, now_ms)
        rows[user] = {
            "click_ts": [each[0] for each in of_user],
            "click_events": [each[1] for each in of_user],
            "click_items": [each[2] for each in of_user],
            "query_ts": [each[0] for each in queries_of_user],
            "query_events": [each[1] for each in queries_of_user],
            "query_texts": [each[2] for each in queries_of_user],
        }
    return rows


def key(kind: str, identifier: str) -> int:
    """63 bits of BLAKE2b-64 over kind, NUL and id."""
    data = kind.encode() + b"\x00" + identifier.encode()
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big") % 2**63


def _newest(events: set[Any], limit: int, now_ms: int) -> list[Any]:
    """Oldest first; those still ahead of the clock do not count against the limit."""
    largest: dict[tuple[int, int], Any] = {}
    for event in events:  # two values under one (ts, event): the larger stays
        known = largest.get(event[:2])
        largest[event[:2]] = event if known is None else max(known, event)
    ordered = sorted(largest.values())
    past = [event for event in ordered if event[0] <= now_ms]
    ahead = [event for event in ordered if event[0] > now_ms]
    return past[-limit:] + ahead
