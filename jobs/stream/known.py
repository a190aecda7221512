"""What is known of users' last days: the lake up to landing's position, and Kafka from there on.

Position and rows of a lake table belong to one commit (`jobs.stream.landed`), so that the two
together are every message once or twice, never less.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any, cast

import numpy as np
import pyarrow as pa
from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError
from pyiceberg.expressions import And, BooleanExpression, GreaterThanOrEqual, In, LessThan
from pyiceberg.table import Table as IcebergTable

from jobs.stream.batches import decode
from jobs.stream.landed import Position
from jobs.stream.merge import Arrivals
from jobs.stream.source import record_of
from pagoda import lake, topics
from pagoda.errors import DependencyDown
from pagoda.schemas import EVENTS, SEARCHES
from pagoda.sequences import Sequence as Behaviour
from pagoda.sequences import items, queries
from pagoda.settings import Settings
from pagoda.windows import Candidates

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_KEYS_END = 1 << 63
_ROWS_AT_ONCE = 4_000_000
_EVENT_COLUMNS = ("user_key", "ts", "event_key", "item_key")
_SEARCH_COLUMNS = ("user_key", "ts", "search_key", "query")


@dataclass(frozen=True, kw_only=True)
class KeyRange:
    """Users whose keys lie in [first, end): keys are hashes, so equal ranges hold as many."""

    first: int
    end: int

    def __contains__(self, key: int) -> bool:
        return self.first <= key < self.end


class LakePart:
    """The clicks and searches of the last days in the lake, as it is at one moment."""

    def __init__(self, settings: Settings, *, since_ms: int, click_actions: Sequence[str]) -> None:
        """Take the tables as they are now."""
        self._events = lake.open_table(settings, EVENTS)
        self._searches = lake.open_table(settings, SEARCHES)
        self._since = _EPOCH + timedelta(milliseconds=since_ms)
        self._click_actions = click_actions
        known = topics.ensure(settings)
        kafka = settings.kafka
        #: Where each topic's messages go on that the lake does not hold.
        self.landed = {
            TopicPartition(name, partition): Position.of(table, known[name]).offsets.get(
                partition, 0
            )
            for name, table in (
                (kafka.events_topic, self._events),
                (kafka.searches_topic, self._searches),
            )
            for partition in range(known[name].partitions)
        }

    def ranges(self) -> list[KeyRange]:
        """Users in portions that fit into memory."""
        rows = sum(
            task.file.record_count
            for table in (self._events, self._searches)
            for task in table.scan(self._recent()).plan_files()
        )
        bounds = [round(each) for each in np.linspace(0, _KEYS_END, 2 + rows // _ROWS_AT_ONCE)]
        return [KeyRange(first=first, end=end) for first, end in pairwise(bounds)]

    def read(self, users: KeyRange) -> dict[int, Candidates]:
        """User to what the lake holds of them."""
        clicked = self._scan(self._events, users, _EVENT_COLUMNS, clicks=True)
        asked = self._scan(self._searches, users, _SEARCH_COLUMNS)
        clicks = {user: items(*columns) for user, *columns in _by_user(clicked)}
        searches = {user: queries(*columns) for user, *columns in _by_user(asked)}
        return {user: _candidates(clicks, searches, user) for user in clicks.keys() | searches}

    def _recent(self) -> BooleanExpression:
        return _expression(GreaterThanOrEqual, "ts", self._since.isoformat())

    def _scan(
        self,
        table: IcebergTable,
        users: KeyRange,
        columns: tuple[str, ...],
        *,
        clicks: bool = False,
    ) -> pa.Table:
        wanted = self._recent()
        if users.first > 0:
            wanted = And(wanted, _expression(GreaterThanOrEqual, "user_key", users.first))
        if users.end < _KEYS_END:
            wanted = And(wanted, _expression(LessThan, "user_key", users.end))
        if clicks:
            wanted = And(wanted, _expression(In, "action", self._click_actions))
        return table.scan(wanted, selected_fields=columns).to_arrow()


class TopicsPart:
    """What Kafka holds beyond the lake; it grows as one reads on."""

    def __init__(
        self,
        settings: Settings,
        landed: Mapping[TopicPartition, int],
        *,
        since_ms: int,
        click_actions: Sequence[str],
    ) -> None:
        """Start where the lake ends. Raises: DependencyDown("kafka", ...)."""
        self._settings = settings
        self._click_actions = click_actions
        self._partitions = list(landed)
        self._arrivals: dict[int, Arrivals] = {}
        self.records = 0
        try:
            self._consumer = KafkaConsumer(
                bootstrap_servers=settings.kafka.bootstrap_servers,
                bootstrap_timeout_ms=5_000,
                enable_auto_commit=False,
                fetch_max_wait_ms=50,
                allow_auto_create_topics=False,
            )
            self._consumer.assign(self._partitions)
            oldest = self._consumer.beginning_offsets(self._partitions)
            young = self._consumer.offsets_for_times(dict.fromkeys(self._partitions, since_ms))
            for partition, at in landed.items():
                self._consumer.seek(partition, max(at, oldest[partition]))
        except KafkaError as error:
            raise _down(error) from error
        #: Partitions of which Kafka has deleted what the lake has not taken and rows may hold.
        self.lost = [
            f"{each.topic}:{each.partition}"
            for each, at in landed.items()
            if at < oldest[each] and (young[each] is None or young[each].offset <= oldest[each])
        ]

    def read_on(self) -> None:
        """Read up to where the topics end now. Raises: DependencyDown("kafka", ...)."""
        try:
            ends = self._consumer.end_offsets(self._partitions)
            while any(self._consumer.position(each) < end for each, end in ends.items()):
                self._take(self._consumer.poll(timeout_ms=500))
        except KafkaError as error:
            raise _down(error) from error

    def users(self) -> set[int]:
        """Whoever has been read of."""
        return set(self._arrivals)

    def of(self, user: int) -> Arrivals:
        """What has been read of a user."""
        return self._arrivals.get(user, Arrivals())

    def close(self) -> None:
        """Hang up."""
        self._consumer.close(autocommit=False, timeout_ms=1_000)

    def _take(self, polled: Mapping[TopicPartition, Sequence[Any]]) -> None:
        records = [record_of(each) for found in polled.values() for each in found]
        self.records += len(records)
        batch = decode(records, settings=self._settings, click_actions=self._click_actions)
        for user, new in batch.arrivals.items():
            known = self._arrivals.setdefault(user, Arrivals())
            known.clicks.extend(new.clicks)
            known.queries.extend(new.queries)


def _by_user(rows: pa.Table) -> Iterator[tuple[Any, ...]]:
    """Each user's key, and the user's part of the other columns; times as epoch milliseconds."""
    if not len(rows):
        return
    users = rows["user_key"].to_numpy()
    order = np.argsort(users, kind="stable")
    users = users[order]
    columns = [rows["ts"].cast(pa.int64()).to_numpy()[order] // 1000]
    columns += [rows[name].to_numpy()[order] for name in rows.column_names if name not in _FIXED]
    starts = np.flatnonzero(np.r_[True, users[1:] != users[:-1]])
    for start, stop in zip(starts, np.r_[starts[1:], len(users)], strict=True):
        yield int(users[start]), *(column[start:stop] for column in columns)


_FIXED = ("user_key", "ts")


def _candidates(
    clicks: Mapping[int, Behaviour], searches: Mapping[int, Behaviour], user: int
) -> Candidates:
    nothing = Candidates()
    return Candidates(
        clicks=clicks.get(user, nothing.clicks), queries=searches.get(user, nothing.queries)
    )


def _expression(make: Any, column: str, value: Any) -> BooleanExpression:
    """PyIceberg's checked signatures are those of pydantic, not its own."""
    return cast(BooleanExpression, make(column, value))


def _down(error: KafkaError) -> DependencyDown:
    return DependencyDown("kafka", f"{type(error).__name__}: {error}")
