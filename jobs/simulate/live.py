"""A simulation to Kafka, at a chosen rate, happening now: load that behaves like shoppers.

In each round as many shoppers are in the shop as the rate needs, each makes one visit, and what
they do is sent in the order of its simulated times, evenly paced. So at any rate, given enough
users, everybody acts at a person's pace and only robots do not. Messages carry the moment they are
sent at; which messages in which order follows from seed, catalogue and options alone.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from confluent_kafka import KafkaError, Message, Producer

from jobs.simulate import tables, visits
from jobs.simulate.behaviour import Simulation
from jobs.simulate.catalogue import Catalogue
from jobs.simulate.tables import Made
from pagoda.errors import DependencyDown, InputError
from pagoda.messages import SCHEMA
from pagoda.settings import Settings

ROUND_S = 400.0  # how long the visits of a round last at a person's pace, nearly all of them
MOST_AT_ONCE = 32_768  # shoppers of a round: what bounds memory
_PILOT = 2_000  # shoppers whose visits tell how many messages a visit makes
_BATCH = 2_000  # most messages between two looks at the clock
_TICK_S = 0.02
_FLUSH_S = 30.0
_Made = TypeVar("_Made")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to send.

    Attributes:
        rate: messages a second; 0 is as fast as the broker takes them.
        seconds, messages: when to stop; None is never.
        impressions: whether to send them.
    """

    rate: float
    seconds: float | None = None
    messages: int | None = None
    impressions: bool = True

    def __post_init__(self) -> None:
        negative = [name for name, value in vars(self).items() if value is not None and value < 0]
        if negative:
            raise InputError(
                "cannot send that", problems=[f"--{name} is negative" for name in negative]
            )


@dataclass(kw_only=True)
class Sent:
    """What was sent and acknowledged; `pace` is how fast shoppers acted, 1 is a person's."""

    simulated: bool = True
    events: int = 0
    searches: int = 0
    seconds: float = 0.0
    rate: float = 0.0
    pace: float | None = None


@dataclass(frozen=True, kw_only=True)
class Crowd:
    """How many shoppers are in the shop at once, of how many that the rate would need."""

    at_once: int
    needed: int | None

    @classmethod
    def of(cls, simulation: Simulation, catalogue: Catalogue, plan: Plan) -> Crowd:
        """As many as the rate needs, if there are so many."""
        most = min(simulation.users, MOST_AT_ONCE)
        if not plan.rate:
            return cls(at_once=most, needed=None)
        pilot = np.arange(min(_PILOT, simulation.users))
        made = _round(simulation, catalogue, pilot, 0)
        messages = (len(_events(made, plan)) + len(made.searches)) / len(pilot)
        needed = max(round(plan.rate * ROUND_S / max(messages, 1e-9)), 1)
        return cls(at_once=min(needed, most), needed=needed)

    @property
    def pace(self) -> float | None:
        """How fast they act, 1 is a person's pace; None: as fast as the broker takes it."""
        return round(self.needed / self.at_once, 2) if self.needed else None


def send(
    simulation: Simulation,
    catalogue: Catalogue,
    plan: Plan,
    *,
    crowd: Crowd,
    settings: Settings,
    truth: Path | None = None,
    advance: Callable[[int], None] = lambda _: None,
) -> Sent:
    """Send until the plan is done or the person at the keyboard has had enough (Ctrl-C).

    Args:
        truth: a folder for what was simulated, a file a round; it may hold the rest of a round
            that was not sent to its end.
        advance: told how many were sent since it was last told.
    Raises: DependencyDown("kafka", ...) if a message was not taken.
    """
    outlet = Outlet(settings)
    sent = Sent(pace=crowd.pace)
    clock = Clock(plan)
    try:
        for number, made in enumerate(_ahead(rounds(simulation, catalogue, crowd.at_once))):
            if truth:
                pq.write_table(made.impressions, truth / f"{number:06}.parquet", compression="zstd")
            for batch in batches(made, clock):
                outlet.send(batch)
                sent.searches += batch.searches
                sent.events += len(batch.values) - batch.searches
                advance(len(batch.values))
            if not clock.next_size():
                break
    except KeyboardInterrupt:
        pass  # what was handed over still counts
    outlet.flush()
    sent.seconds = round(clock.passed_s, 2)
    sent.rate = round((sent.events + sent.searches) / max(clock.passed_s, 1e-9), 1)
    return sent


class Clock:
    """When the next messages are due, and how many of them."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.taken = 0
        self._began = time.monotonic()

    @property
    def passed_s(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self._began

    def next_size(self) -> int:
        """How many messages may go next; none if the plan is done."""
        plan = self.plan
        if plan.seconds is not None and self.passed_s >= plan.seconds:
            return 0
        size = min(_BATCH, max(int(plan.rate * _TICK_S), 1)) if plan.rate else _BATCH
        return size if plan.messages is None else min(size, plan.messages - self.taken)

    def take(self, count: int) -> None:
        """Wait until that many more are due."""
        if self.plan.rate:
            time.sleep(max(self.taken / self.plan.rate - self.passed_s, 0))
        self.taken += count


# Rounds ------------------------------------------------------------------------------------------


def rounds(simulation: Simulation, catalogue: Catalogue, at_once: int) -> Iterator[Made]:
    """Visits for ever, `at_once` users at a time: everybody's first, then everybody's second."""
    come = 0
    while True:
        parts, missing = [], at_once
        while missing:  # the last ones of a visit and the first ones of the next are together
            number, first = divmod(come, simulation.users)
            last = min(first + missing, simulation.users)
            parts.append(_round(simulation, catalogue, np.arange(first, last), number))
            come += last - first
            missing -= last - first
        yield Made.together(parts)


def _round(
    simulation: Simulation, catalogue: Catalogue, user: npt.NDArray[np.int64], number: int
) -> Made:
    searches = visits.streamed(simulation, catalogue, user, number)
    return tables.of_searches(simulation, catalogue, searches, number, begin_ms=0)


def _events(made: Made, plan: Plan) -> pa.Table:
    return made.events if plan.impressions else tables.without_impressions(made.events)


def _ahead(made: Iterator[_Made]) -> Iterator[_Made]:
    """The same, the next one being made while one is used."""
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, made)
        while True:
            now = coming.result()
            coming = thread.submit(next, made)
            yield now


# Messages ----------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Messages in order: whether each is a search, its key and its value."""

    is_search: list[bool]
    keys: list[str]
    values: list[str]

    @property
    def searches(self) -> int:
        """How many searches."""
        return sum(self.is_search)


def batches(made: Made, clock: Clock) -> Iterator[Batch]:
    """A round's messages in the order of their times, each batch when it is due."""
    events, searches = _events(made, clock.plan), made.searches
    times = np.concatenate([each["ts"].to_numpy() for each in (searches, events)])
    order = np.argsort(times, kind="stable")
    while len(order) and (size := clock.next_size()):
        rows, order = order[:size], order[size:]
        clock.take(len(rows))
        yield _encoded(events, searches, rows)


def _encoded(events: pa.Table, searches: pa.Table, rows: npt.NDArray[np.int64]) -> Batch:
    """The messages of these rows (of searches, then of events), as of now."""
    now_ms = time.time_ns() // 1_000_000
    is_search = rows < len(searches)
    keys, values = np.empty(len(rows), object), np.empty(len(rows), object)
    for of, table, first in ((is_search, searches, 0), (~is_search, events, len(searches))):
        frame = pl.DataFrame(table.take(rows[of] - first))
        message = frame.with_columns(pl.lit(now_ms).alias("ts")).select(
            pl.struct(pl.lit(SCHEMA).alias("schema"), pl.all()).struct.json_encode()
        )
        keys[of], values[of] = frame["user_id"].to_list(), message.to_series().to_list()
    return Batch(is_search=is_search.tolist(), keys=keys.tolist(), values=values.tolist())


class Outlet:
    """A Kafka producer of events and searches; librdkafka, for a sixth of kafka-python's CPU."""

    def __init__(self, settings: Settings) -> None:
        self._topics = (settings.kafka.events_topic, settings.kafka.searches_topic)
        self._failed: list[KafkaError] = []
        self._producer = Producer(
            {
                "bootstrap.servers": settings.kafka.bootstrap_servers,
                "enable.idempotence": True,
                "acks": "all",
                "compression.type": "lz4",
                "linger.ms": 5,
                # As all other clients here: a user's messages share a partition with those that
                # kafka-python sends.
                "partitioner": "murmur2_random",
                "delivery.report.only.error": True,
                "on_delivery": self._note,
                "allow.auto.create.topics": False,
            },
            logger=logging.getLogger("kafka"),
        )

    def send(self, batch: Batch) -> None:
        """Hand a batch over; waits while the broker is behind. Raises: DependencyDown."""
        produce, topics = self._producer.produce, self._topics
        for is_search, key, value in zip(batch.is_search, batch.keys, batch.values, strict=True):
            while True:
                try:
                    produce(topics[is_search], value, key)
                    break
                except BufferError:
                    self._producer.poll(0.05)
                    self._check()
        self._producer.poll(0)
        self._check()

    def flush(self) -> None:
        """Wait until Kafka has them all. Raises: DependencyDown."""
        left = self._producer.flush(_FLUSH_S)
        self._check()
        if left:
            raise DependencyDown("kafka", f"{left:,} messages were not acknowledged in time")

    def _note(self, error: KafkaError | None, _: Message) -> None:
        if error is not None:
            self._failed.append(error)

    def _check(self) -> None:
        if self._failed:
            raise DependencyDown("kafka", f"{len(self._failed)} messages: {self._failed[0].str()}")
