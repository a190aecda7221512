"""Play recorded days through Kafka again, and send single messages.

As recorded: the same ids and times, so the lake's readers and the online state end where they were
(law 2), which makes replay a repair too. As of now (`shift_to_now`): the same users, items and
queries happen again while we send, under new ids.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import polars as pl
from kafka import KafkaProducer
from kafka.errors import KafkaError

from pagoda import lake
from pagoda.errors import DependencyDown, InputError, NothingToDo
from pagoda.messages import Event, ItemUpdate, Search, encode, record_key
from pagoda.schemas import EVENTS, SEARCHES, Table
from pagoda.settings import Settings

_FLUSH_S = 30


@dataclass(frozen=True, kw_only=True)
class Replay:
    """What to play, and how fast.

    Attributes:
        first, last: UTC days, inclusive.
        speed: 60 plays an hour in a minute; 0 is as fast as Kafka takes it.
        users: how many users, chosen by key and so always the same; None for all.
        shift_to_now: messages happen when they are sent, under new ids.
    """

    first: date
    last: date
    speed: float
    users: int | None = None
    shift_to_now: bool = False

    def __post_init__(self) -> None:
        problems = []
        if self.last < self.first:
            problems.append(f"--to {self.last} lies before --from {self.first}")
        if self.speed < 0:
            problems.append(f"--speed {self.speed} is negative")
        if self.users is not None and self.users < 1:
            problems.append(f"--users {self.users} is less than 1")
        if problems:
            raise InputError("cannot replay", problems=problems)


@dataclass(frozen=True, kw_only=True)
class Replayed:
    """What was sent."""

    events: int
    searches: int
    seconds: float


def recorded(settings: Settings, replay: Replay) -> list[Event | Search]:
    """The chosen messages, oldest first, each once. Raises: NothingToDo if there are none."""
    events = _read(settings, EVENTS, "event_key", replay)
    searches = _read(settings, SEARCHES, "search_key", replay)
    if replay.users is not None:
        users = pl.concat([events["user_key"], searches["user_key"]]).unique().sort()
        chosen = users.head(replay.users).implode()
        events = events.filter(pl.col("user_key").is_in(chosen))
        searches = searches.filter(pl.col("user_key").is_in(chosen))
    messages = [*map(_event, events.iter_rows(named=True))]
    found: list[Event | Search] = [*messages, *map(_search, searches.iter_rows(named=True))]
    if not found:
        raise NothingToDo(
            "no events or searches to replay",
            where=f"lake, {replay.first} to {replay.last}",
            next_step="See `pagoda import`, or choose other days.",
        )
    # At one time the search comes first: it led to the event.
    return sorted(found, key=lambda message: (message.ts, isinstance(message, Event)))


def play(
    messages: list[Event | Search],
    replay: Replay,
    *,
    settings: Settings,
    producer: KafkaProducer,
    advance: Callable[[int], None],
) -> Replayed:
    """Send the messages at the chosen speed and wait until Kafka has them all.

    Args:
        advance: told how many were sent since it was last told.
    Raises: DependencyDown("kafka", ...) if any was not acknowledged.
    """
    started = time.time()
    failed: list[BaseException] = []
    recorded_ms = now_ms = 0
    for message in _paced(messages, replay, started):
        # What happened at one moment, a basket, happens at one moment again.
        if message.ts != recorded_ms:
            recorded_ms, now_ms = message.ts, time.time_ns() // 1_000_000
        sent = _as_of(now_ms, message, started) if replay.shift_to_now else message
        _send(producer, settings, sent).add_errback(failed.append)
        advance(1)
        if failed:
            break
    try:
        producer.flush(timeout=_FLUSH_S)
    except KafkaError as error:
        failed.append(error)
    if failed:
        raise DependencyDown("kafka", f"{failed[0]!r}; replay again, it repeats nothing")
    events = sum(isinstance(message, Event) for message in messages)
    return Replayed(
        events=events,
        searches=len(messages) - events,
        seconds=round(time.time() - started, 2),
    )


def send(
    settings: Settings, producer: KafkaProducer, message: Event | Search | ItemUpdate
) -> tuple[int, int]:
    """Send one message; returns its partition and offset. Raises: DependencyDown."""
    try:
        sent = _send(producer, settings, message).get(timeout=_FLUSH_S)
    except KafkaError as error:
        raise DependencyDown("kafka", repr(error)) from error
    return sent.partition, sent.offset


def _send(producer: KafkaProducer, settings: Settings, message: Event | Search | ItemUpdate) -> Any:
    kafka = settings.kafka
    topic_of = {
        Event: kafka.events_topic,
        Search: kafka.searches_topic,
        ItemUpdate: kafka.items_topic,
    }
    try:
        return producer.send(
            topic_of[type(message)], key=record_key(message), value=encode(message)
        )
    except KafkaError as error:
        raise DependencyDown("kafka", repr(error)) from error


def _paced(
    messages: list[Event | Search], replay: Replay, started: float
) -> Iterator[Event | Search]:
    first_ms = messages[0].ts
    for message in messages:
        if replay.speed:
            due = started + (message.ts - first_ms) / 1000 / replay.speed
            if (ahead := due - time.time()) > 0:
                time.sleep(ahead)
        yield message


def _as_of(now_ms: int, message: Event | Search, started: float) -> Event | Search:
    suffix = f"~{int(started)}"
    if isinstance(message, Search):
        return replace(message, search_id=message.search_id + suffix, ts=now_ms)
    search_id = message.search_id + suffix if message.search_id else None
    return replace(message, event_id=message.event_id + suffix, search_id=search_id, ts=now_ms)


def _read(settings: Settings, table: Table, key: str, replay: Replay) -> pl.DataFrame:
    """Rows of the chosen days, a resent message once."""
    start = datetime.combine(replay.first, datetime.min.time(), UTC)
    end = datetime.combine(replay.last, datetime.min.time(), UTC) + timedelta(days=1)
    rows = (
        lake.open_table(settings, table)
        .scan(f"ts >= '{start.isoformat()}' and ts < '{end.isoformat()}'")
        .to_arrow()
    )
    frame = pl.DataFrame(rows)
    return frame.unique([key, "ts"], keep="first", maintain_order=True).sort("ts", key)


def _event(row: dict[str, Any]) -> Event:
    return Event(**_fields(Event, row))


def _search(row: dict[str, Any]) -> Search:
    return Search(**_fields(Search, row))


def _fields(kind: type[Event | Search], row: dict[str, Any]) -> dict[str, Any]:
    """What a message of that kind has of a row of its table."""
    return {each.name: row[each.name] for each in fields(kind)} | {"ts": _ms(row["ts"])}


def _ms(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(milliseconds=1)


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
