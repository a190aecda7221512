"""Kafka as the sequences consumer sees it: batches that are committed or given back.

Both topics are keyed by user and have equally many partitions; the range assignor gives the same
partition numbers of both to one consumer, so no two consumers ever write one user's row.

A store may acknowledge a write and lose it (Redis syncs its log once a second). So a commit says
in its metadata from where on the last seconds' records would have to be read again; a consumer
starts there, and goes back there when the store was away. Merging them twice changes nothing.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import structlog
from kafka import ConsumerRebalanceListener, KafkaConsumer, TopicPartition
from kafka.coordinator.assignors.range import RangePartitionAssignor
from kafka.errors import KafkaError
from kafka.structs import OffsetAndMetadata

from pagoda.errors import DependencyDown
from pagoda.settings import Settings

log = structlog.get_logger(__name__)
SESSION_TIMEOUT_S = 30.0
_CLOSE_MS = 2_000


@dataclass(frozen=True, kw_only=True)
class Record:
    """A Kafka record; `taken_ms` is its LogAppendTime."""

    topic: str
    partition: int
    offset: int
    taken_ms: int
    value: bytes | None


class Source:
    """A member of the consumer group over the events and searches topics."""

    def __init__(self, settings: Settings) -> None:
        """Join the group. Raises: DependencyDown("kafka", ...) if no broker answers."""
        self._limit = settings.stream.batch_records
        self._rewind_s = settings.stream.rewind_s
        try:
            self._consumer = KafkaConsumer(
                bootstrap_servers=settings.kafka.bootstrap_servers,
                bootstrap_timeout_ms=5_000,
                group_id=settings.kafka.stream_group,
                enable_auto_commit=False,
                auto_offset_reset="earliest",
                partition_assignment_strategy=[RangePartitionAssignor],
                session_timeout_ms=int(SESSION_TIMEOUT_S * 1000),
                heartbeat_interval_ms=3_000,
                fetch_max_wait_ms=100,
                allow_auto_create_topics=False,
            )
        except KafkaError as error:
            raise _down(error) from error
        self._batch: dict[TopicPartition, tuple[int, int]] = {}
        self._recent: dict[TopicPartition, deque[tuple[float, int]]] = {}
        self._fresh: set[TopicPartition] = set()
        topics = [settings.kafka.events_topic, settings.kafka.searches_topic]
        self._consumer.subscribe(topics, listener=_Assigned(self._fresh))

    def poll(self, timeout_s: float) -> list[Record]:
        """The next records, at most a batch; none if nothing came in time."""
        try:
            polled = self._consumer.poll(timeout_ms=int(timeout_s * 1000), max_records=self._limit)
            self._batch = {
                partition: (records[0].offset, records[-1].offset + 1)
                for partition, records in polled.items()
            }
            if self._fresh:
                self._start_at_last_words()
                return []
        except KafkaError as error:
            raise _down(error) from error
        return [_record(each) for records in polled.values() for each in records]

    def commit(self) -> None:
        """The last batch is written. Raises: DependencyDown if Kafka does not take that."""
        now = time.monotonic()
        offsets = {}
        for partition, (start, end) in self._batch.items():
            recent = self._recent.setdefault(partition, deque())
            recent.append((now, start))
            while recent[0][0] < now - self._rewind_s:
                recent.popleft()
            offsets[partition] = OffsetAndMetadata(end, str(recent[0][1]), -1)
        try:
            self._consumer.commit(offsets)
        except KafkaError as error:
            raise _down(error) from error
        self._batch = {}

    def give_back(self) -> None:
        """The last batch is not written: read it again (unless another consumer now does)."""
        self._seek({partition: start for partition, (start, _) in self._batch.items()})
        self._batch = {}

    def rewind(self) -> None:
        """Read again what was committed in the last seconds: the store may have lost it."""
        self._seek({partition: recent[0][1] for partition, recent in self._recent.items()})

    def rewind_to(self, since_ms: int) -> None:
        """Read again what Kafka took since then. Raises: DependencyDown."""
        try:
            wanted = dict.fromkeys(self._consumer.assignment(), since_ms)
            found = self._consumer.offsets_for_times(wanted) if wanted else {}
        except KafkaError as error:
            raise _down(error) from error
        self._seek({partition: at.offset for partition, at in found.items() if at is not None})

    def positions(self) -> dict[str, dict[int, int]]:
        """Topic, partition, offset of the next record to read, of the assigned partitions."""
        positions: dict[str, dict[int, int]] = {}
        for partition in self._consumer.assignment():
            if (at := self._position(partition)) is not None:
                positions.setdefault(partition.topic, {})[partition.partition] = at
        return positions

    def lags(self) -> dict[tuple[str, int], int]:
        """(topic, partition) to the records that wait, where known."""
        lags = {}
        for partition in self._consumer.assignment():
            at, end = self._position(partition), self._consumer.highwater(partition)
            if at is not None and end is not None:
                lags[partition.topic, partition.partition] = max(end - at, 0)
        return lags

    def close(self) -> None:
        """Leave the group, so that another takes over at once."""
        self._consumer.close(autocommit=False, timeout_ms=_CLOSE_MS)

    def _start_at_last_words(self) -> None:
        """Newly assigned partitions start where their last commit says that it is safe to."""
        self.give_back()
        starts = {}
        for partition in self._fresh:
            committed = self._consumer.committed(partition, metadata=True)
            if committed is not None and committed.metadata.isdigit():
                starts[partition] = int(committed.metadata)
        for partition in self._fresh:
            self._recent.pop(partition, None)
        self._fresh.clear()
        self._seek(starts)

    def _seek(self, offsets: Mapping[TopicPartition, int]) -> None:
        again = 0
        for partition in self._consumer.assignment() & offsets.keys():
            again += max((self._position(partition) or 0) - offsets[partition], 0)
            self._consumer.seek(partition, offsets[partition])
        if again:
            log.info("reading_again", records=again)

    def _position(self, partition: TopicPartition) -> int | None:
        try:
            at: int | None = self._consumer.position(partition, timeout_ms=1_000)
        except KafkaError:
            return None  # not known while Kafka is away
        return at


class _Assigned(ConsumerRebalanceListener):  # type: ignore[misc]
    def __init__(self, fresh: set[TopicPartition]) -> None:
        self._fresh = fresh

    def on_partitions_assigned(self, assigned: Sequence[TopicPartition]) -> None:
        self._fresh.update(assigned)
        log.info("partitions_assigned", partitions=_names(assigned))

    def on_partitions_revoked(self, revoked: Sequence[TopicPartition]) -> None:
        self._fresh.difference_update(revoked)
        log.info("partitions_revoked", partitions=_names(revoked))


def _names(partitions: Sequence[TopicPartition]) -> str:
    return " ".join(sorted(f"{each.topic}:{each.partition}" for each in partitions))


def _record(record: Any) -> Record:
    return Record(
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        taken_ms=record.timestamp,
        value=record.value,
    )


def _down(error: KafkaError) -> DependencyDown:
    return DependencyDown("kafka", f"{type(error).__name__}: {error}")
