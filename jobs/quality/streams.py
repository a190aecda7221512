"""How far the two readers of Kafka are behind, in records and in seconds."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError

from jobs.checks.positions import Ends, Positions
from pagoda import topics
from pagoda.errors import DependencyDown
from pagoda.settings import Settings

_READ_S = 10.0


@dataclass(frozen=True, kw_only=True)
class Backlog:
    """What of a topic waits for one of its readers.

    Attributes:
        reader: `sequences`, which brings records online, or `landing`, which brings them to the
            lake.
        records: how many wait; waited_s: how long the oldest of them does, 0 without one.
    """

    reader: str
    topic: str
    records: int
    waited_s: float


def backlogs(settings: Settings, *, now_ms: int) -> list[Backlog]:
    """Of every topic that carries behaviour and each reader. Raises: DependencyDown("kafka")."""
    with topics.admin(settings) as admin:
        positions = Positions(settings, admin)
        reached = {"sequences": positions.consumed(), "landing": positions.landed()}
        ends = positions.ends()  # after the positions: what came meanwhile waits, nothing is ahead
    return [
        backlog
        for reader, at in reached.items()
        for backlog in _of_reader(settings, reader, at, ends, now_ms)
    ]


def _of_reader(settings: Settings, reader: str, at: Ends, ends: Ends, now_ms: int) -> list[Backlog]:
    waiting = {each: at.get(each, 0) for each, end in ends.items() if at.get(each, 0) < end}
    taken_ms = _taken_ms(settings, waiting)
    return [
        Backlog(
            reader=reader,
            topic=topic,
            records=sum(ends[each] - offset for each, offset in of_topic.items()),
            # Kafka's clock may be ahead of ours.
            waited_s=max([(now_ms - taken_ms[each]) / 1000 for each in of_topic] + [0.0]),
        )
        for topic in sorted({each.topic for each in ends})
        for of_topic in [{k: v for k, v in waiting.items() if k.topic == topic}]
    ]


def _taken_ms(
    settings: Settings, offsets: Mapping[TopicPartition, int]
) -> dict[TopicPartition, int]:
    """When Kafka took the record at each offset, or the first after it that is still there."""
    if not offsets:
        return {}
    try:
        consumer = KafkaConsumer(
            bootstrap_servers=settings.kafka.bootstrap_servers,
            auto_offset_reset="earliest",
            enable_auto_commit=False,
            max_partition_fetch_bytes=1,  # a record of each is enough
        )
        try:
            consumer.assign(list(offsets))
            for partition, offset in offsets.items():
                consumer.seek(partition, offset)
            return _first_of_each(consumer, offsets)
        finally:
            consumer.close()
    except KafkaError as error:
        raise DependencyDown("kafka", repr(error)) from error


def _first_of_each(
    consumer: KafkaConsumer, offsets: Mapping[TopicPartition, int]
) -> dict[TopicPartition, int]:
    found: dict[TopicPartition, int] = {}
    give_up = time.monotonic() + _READ_S
    while len(found) < len(offsets):
        for partition, records in consumer.poll(timeout_ms=500, max_records=1).items():
            found.setdefault(partition, records[0].timestamp)
            consumer.pause(partition)
        if time.monotonic() > give_up:
            raise DependencyDown("kafka", f"no record of {offsets.keys() - found.keys()} came")
    return found
