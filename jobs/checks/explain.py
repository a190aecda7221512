"""Why two sides differ: each element that only one has, beside the lake's record of it.

    online windows, offline windows -> lone elements -> the lake's records -> differences, explained

The reason is one word, found from the record's times and from where it came; `REASONS` says what
each word means.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from jobs.checks import known
from jobs.checks.compare import Element, Lone, Side, elements, lone_elements
from jobs.checks.online_side import Observation
from pagoda.settings import Settings
from pagoda.windows import DAY_MS, Windows, WindowSpec, start_of_day

REASONS = {
    "damaged_row": "the online row cannot be decoded",
    "other_value": "both sides have the event, with different values",
    "other_window": "the other side has it too, in another window",
    "pushed_out": "the other side's window is full of newer ones",
    "not_in_lake": "the lake has no such event of this user",
    "other_time": "the lake has the event, at another time",
    "other_action": "the lake has it with an action that does not belong here",
    "known_later": "the lake knew it only at this moment or later",
    "not_built": "the lake knew it in time, the feature tables lack it",
    "late": "it came after the stream's days: the next batch brings it online",
    "not_streamed": "Kafka took it in time, the online row lacks it",
    "expired": "the online batch row is past its TTL",
    "not_materialised": "no stream brought it, and the online batch row is of before it",
    "not_in_batch_row": "the online batch row is of after it, and lacks it",
}


@dataclass(frozen=True, kw_only=True)
class Difference:
    """An element that only one side has, and what the lake knows of it.

    Attributes:
        request: the search that was served, None for a user read now.
        window: real_time, short_term, long_term_<action>, queries, or all for a damaged row.
        side: who has it.
        ts, key, value: the element; value is an item's key or a query.
        why: one of `REASONS`.
        id, action, what, ingested_at, source: of the lake's record, None without one; what is the
            item's id or the query, source the import or Kafka's topic, partition and offset.
    """

    user: str
    t: str
    request: str | None
    window: str
    side: Side
    ts: str | None
    key: int | None
    value: int | str | None
    why: str
    id: str | None = None
    action: str | None = None
    what: str | None = None
    ingested_at: str | None = None
    source: str | None = None

    def without_texts(self) -> Difference:
        """The same for logs, where no query may stand beside a user."""
        if self.window != "queries":
            return self
        return replace(self, value=None, what=None)


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One user at one moment, as both sides see it."""

    seen: Observation
    offline: Windows


def explain(
    settings: Settings, pairs: Sequence[Pair], *, click_actions: Collection[str], spec: WindowSpec
) -> list[Difference]:
    """Every difference of every pair; reads the lake only for users who have one."""
    lone = {id(pair): list(_lone(pair)) for pair in pairs}
    different = [pair for pair in pairs if lone[id(pair)] or pair.seen.windows is None]
    if not different:
        return []
    reach_days = spec.recent_days + spec.long_term_days
    records = known.records(
        settings,
        {pair.seen.user_key for pair in different},
        from_ms=start_of_day(min(pair.seen.t_ms for pair in different)) - reach_days * DAY_MS,
        actions={*click_actions, "buy", "collect"},
        columns=known.WHOLE,
    )
    by_user = {
        user: rows.to_dicts()
        for (user,), rows in records.partition_by("user_key", as_dict=True).items()
    }
    return [
        difference
        for pair in different
        for difference in _Case(
            pair, by_user.get(pair.seen.user_key, []), click_actions, spec
        ).differences(lone[id(pair)])
    ]


def _lone(pair: Pair) -> Sequence[Lone]:
    return list(lone_elements(pair.seen.windows, pair.offline)) if pair.seen.windows else []


class _Case:
    """One pair that differs, and the lake's records of its user, first known first."""

    def __init__(
        self,
        pair: Pair,
        records: Sequence[Mapping[str, Any]],
        click_actions: Collection[str],
        spec: WindowSpec,
    ) -> None:
        self._seen = pair.seen
        self._spec = spec
        self._clicks = click_actions
        self._records: dict[int, list[Mapping[str, Any]]] = {}
        for record in records:
            self._records.setdefault(record["key"], []).append(record)
        self._user = str(records[0]["user_id"] if records else pair.seen.user_key)
        self._held: dict[Side, dict[str, dict[tuple[int, int], Any]]] = {
            "online": _by_group(pair.seen.windows) if pair.seen.windows else {},
            "offline": _by_group(pair.offline),
        }

    def differences(self, lone: Sequence[Lone]) -> list[Difference]:
        """Each lone element, explained; a row that cannot be decoded is one difference."""
        if self._seen.windows is None:
            return [self._difference("all", "online", None, "damaged_row", self._seen.damage)]
        return [
            self._difference(each.window, each.side, each.element, self._why(each)) for each in lone
        ]

    def _difference(
        self, window: str, side: Side, element: Element | None, why: str, damage: str | None = None
    ) -> Difference:
        ts, key, value = element or (None, None, damage)
        record = self._record(ts, key)
        return Difference(
            user=self._user,
            t=shown(self._seen.t_ms),
            request=self._seen.request,
            window=window,
            side=side,
            ts=None if ts is None else shown(ts),
            key=key,
            value=value,
            why=why,
            **{name: record[name] for name in ("id", "action", "what", "source") if record},
            ingested_at=shown(record["ingested"]) if record else None,
        )

    def _record(self, ts: int | None, key: int | None) -> Mapping[str, Any] | None:
        """That of the key and, if there is one, of this very time."""
        found = self._records.get(key, []) if key is not None else []
        return next((each for each in found if each["ts"] == ts), found[0] if found else None)

    def _why(self, lone: Lone) -> str:
        ts, key, value = lone.element
        other = self._held["offline" if lone.side == "online" else "online"][_group(lone.window)]
        if (ts, key) in other:
            return "other_window" if other[ts, key] == value else "other_value"
        if len(other) >= self._limit(lone.window) and (ts, key) < min(other):
            return "pushed_out"
        record = self._record(ts, key)
        if record is None:
            return "not_in_lake"
        if record["ts"] != ts:
            return "other_time"
        if lone.side == "offline":
            return self._why_not_online(record)
        if not self._belongs(record["action"], lone.window):
            return "other_action"
        return "known_later" if record["ingested"] >= self._seen.t_ms else "not_built"

    def _why_not_online(self, record: Mapping[str, Any]) -> str:
        ts, t_ms, day_ms = record["ts"], self._seen.t_ms, self._seen.day_from_ms
        kept_ms = self._spec.batch_delay_days * DAY_MS
        refused = ts < start_of_day(record["ingested"]) - kept_ms
        if record["streamed"] and refused and record["ingested"] >= (day_ms or 0):
            return "late"
        if record["streamed"] and ts >= start_of_day(t_ms) - kept_ms:
            return "not_streamed"
        if day_ms is not None and day_ms < t_ms - self._spec.stream_days * DAY_MS:
            return "expired"
        return "not_materialised" if ts >= (day_ms or 0) else "not_in_batch_row"

    def _belongs(self, action: str, window: str) -> bool:
        if window == "queries":
            return action == known.SEARCH
        if window in ("long_term_buy", "long_term_collect"):
            return action == window.removeprefix("long_term_")
        return action in self._clicks

    def _limit(self, window: str) -> int:
        limits = {"clicks": self._spec.clicks, "queries": self._spec.queries}
        return limits.get(_group(window), self._spec.long_term)


def _by_group(windows: Windows) -> dict[str, dict[tuple[int, int], Any]]:
    """(ts, key) to value: real-time and short-term together, as the cut takes them."""
    groups: dict[str, dict[tuple[int, int], Any]] = {}
    for window, held in elements(windows).items():
        groups.setdefault(_group(window), {}).update({(ts, key): value for ts, key, value in held})
    return groups


def _group(window: str) -> str:
    return "clicks" if window in ("real_time", "short_term") else window


def shown(ms: int) -> str:
    """Epoch milliseconds for people."""
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds")
