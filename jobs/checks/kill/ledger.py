"""The harness's own knowledge of what was sent: every record that Kafka acknowledged.

Appended to a file when a round's messages have all been acknowledged. Of a run that was cut short
in mid-round the topics themselves say what of it they took; nobody else writes there.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

import orjson
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.errors import KafkaError

from jobs.checks.kill.oracle import Oracle, Record
from jobs.checks.kill.shop import RUBBISH, Kind, Message
from pagoda.errors import DependencyDown
from pagoda.publisher import open_producer
from pagoda.settings import Settings

_ACKNOWLEDGED_S = 120.0
_PORTION = 6
T = TypeVar("T")


class Ledger:
    """All records so far; the file is read at start and appended to."""

    def __init__(self, path: Path) -> None:
        """Take up what an earlier run wrote."""
        self._path = path
        self.records: list[Record] = []
        if path.exists():
            self.records = [Record(**orjson.loads(line)) for line in path.read_bytes().splitlines()]

    def add(self, records: Sequence[Record]) -> None:
        """Keep these too."""
        with self._path.open("ab") as file:
            for record in records:
                file.write(orjson.dumps(asdict(record)) + b"\n")
        self.records += records

    def catch_up(self, settings: Settings) -> int:
        """Add what the topics hold and the ledger does not; returns how many records that were."""
        known: dict[TopicPartition, int] = {}
        for record in self.records:
            partition = TopicPartition(record.topic, record.partition)
            known[partition] = max(known.get(partition, 0), record.offset + 1)
        unknown = _read(settings, known)
        self.add(unknown)
        return len(unknown)

    def oracle(self, settings: Settings) -> Oracle:
        """What follows from all records."""
        kafka = settings.kafka
        return Oracle(
            self.records,
            events=kafka.events_topic,
            searches=kafka.searches_topic,
            items=kafka.items_topic,
            rubbish=RUBBISH,
        )


class Load:
    """Sends a round's messages from a thread of its own, evenly over some seconds."""

    def __init__(self, settings: Settings, messages: Sequence[Message], *, seconds: float) -> None:
        """Nothing is sent before `start`."""
        self._settings = settings
        self._messages = messages
        self._seconds = seconds
        self._records: list[Record] = []
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="load", daemon=True)

    def start(self) -> None:
        """Begin; returns at once."""
        self._thread.start()

    def finish(self) -> list[Record]:
        """Wait until all is acknowledged. Raises: DependencyDown if something is not in time."""
        self._thread.join()
        if self._error:
            raise DependencyDown("kafka", f"not acknowledged: {self._error!r}") from self._error
        return self._records

    def _run(self) -> None:
        producer = None
        try:
            producer = _patiently(lambda: open_producer(self._settings))
            self._send(producer)
        except KafkaError as error:
            self._error = error
        finally:
            if producer is not None:
                producer.close(timeout=1)

    def _send(self, producer: KafkaProducer) -> None:
        topics = topics_of(self._settings)
        sent = []
        pause_s = self._seconds * _PORTION / max(len(self._messages), 1)
        for start in range(0, len(self._messages), _PORTION):
            for each in self._messages[start : start + _PORTION]:
                key, value = each.key.encode(), each.value.encode()
                topic = topics[each.topic]
                future = _patiently(
                    lambda topic=topic, key=key, value=value: producer.send(  # type: ignore[misc]
                        topic, key=key, value=value
                    )
                )
                sent.append((each, future))
            time.sleep(pause_s)
        for each, future in sent:
            done = future.get(timeout=_ACKNOWLEDGED_S)
            self._records.append(
                Record(
                    topic=done.topic,
                    partition=done.partition,
                    offset=done.offset,
                    taken_ms=done.timestamp,
                    value=each.value,
                )
            )


def topics_of(settings: Settings) -> Mapping[Kind, str]:
    """The topics by what they carry."""
    kafka = settings.kafka
    return {
        "events": kafka.events_topic,
        "searches": kafka.searches_topic,
        "items": kafka.items_topic,
    }


def _patiently(attempt: Callable[[], T]) -> T:
    """A broker may be away for as long as it takes to start again."""
    give_up = time.monotonic() + _ACKNOWLEDGED_S
    while True:
        try:
            return attempt()
        except KafkaError:
            if time.monotonic() > give_up:
                raise
            time.sleep(0.2)


def _read(settings: Settings, known: Mapping[TopicPartition, int]) -> list[Record]:
    """All records beyond what is known."""
    consumer = KafkaConsumer(
        bootstrap_servers=settings.kafka.bootstrap_servers,
        enable_auto_commit=False,
        allow_auto_create_topics=False,
    )
    try:
        partitions = [
            TopicPartition(topic, number)
            for topic in topics_of(settings).values()
            for number in consumer.partitions_for_topic(topic) or ()
        ]
        consumer.assign(partitions)
        for partition in partitions:
            consumer.seek(partition, known.get(partition, 0))
        ends = consumer.end_offsets(partitions)
        found: list[Record] = []
        while any(consumer.position(each) < end for each, end in ends.items()):
            for partition, records in consumer.poll(timeout_ms=500).items():
                found += [
                    Record(
                        topic=partition.topic,
                        partition=partition.partition,
                        offset=each.offset,
                        taken_ms=each.timestamp,
                        value=each.value.decode(),
                    )
                    for each in records
                ]
        return found
    except KafkaError as error:
        raise DependencyDown("kafka", f"{type(error).__name__}: {error}") from error
    finally:
        consumer.close(autocommit=False)
