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
_JOIN_S = 2.0  # how long one poll may take while the group has not answered yet
_REOPEN_S = 60.0


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
        self._settings = settings
        self._limit = settings.stream.batch_records
        self._rewind_s = settings.stream.rewind_s
        self._batch: dict[TopicPartition, tuple[int, int]] = {}
        self._recent: dict[TopicPartition, deque[tuple[float, int]]] = {}
        self._open()

    def _open(self) -> None:
        kafka = self._settings.kafka
        topics = [kafka.events_topic, kafka.searches_topic]
        self._membership = _Membership()
        try:
            self._consumer = KafkaConsumer(
                bootstrap_servers=kafka.bootstrap_servers,
                bootstrap_timeout_ms=5_000,
                group_id=kafka.stream_group,
                enable_auto_commit=False,
                auto_offset_reset="earliest",
                partition_assignment_strategy=[RangePartitionAssignor],
                session_timeout_ms=int(SESSION_TIMEOUT_S * 1000),
                heartbeat_interval_ms=3_000,
                fetch_max_wait_ms=100,
                allow_auto_create_topics=False,
            )
            self._consumer.subscribe(topics, listener=self._membership)
            # A member that joins before it knows the topics is assigned nothing and joins again.
            for topic in topics:
                self._consumer.partitions_for_topic(topic)
        except KafkaError as error:
            raise _down(error) from error

    @property
    def joined(self) -> bool:
        """Whether the group has said which partitions are this member's."""
        return self._membership.joined

    def poll(self, timeout_s: float) -> list[Record]:
        """The next records, at most a batch; none if nothing came in time.

        Raises: DependencyDown("kafka", ...).
        """
        joined = self._membership.joined
        if not joined and self._membership.waits_s > _REOPEN_S:
            log.error("joining_anew", waited_s=round(self._membership.waits_s))
            self.close()
            self._open()
        # kafka-python forgets a join that is answered between two polls and asks again: with
        # short polls on a busy machine it may never end.
        wait_s = timeout_s if joined else max(timeout_s, _JOIN_S)
        try:
            polled = self._consumer.poll(timeout_ms=int(wait_s * 1000), max_records=self._limit)
            self._batch = {
                partition: (records[0].offset, records[-1].offset + 1)
                for partition, records in polled.items()
            }
            if self._membership.fresh:
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
        fresh = self._membership.fresh
        for partition in fresh:
            committed = self._consumer.committed(partition, metadata=True)
            if committed is not None and committed.metadata.isdigit():
                starts[partition] = int(committed.metadata)
        for partition in fresh:
            self._recent.pop(partition, None)
        fresh.clear()
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


class _Membership(ConsumerRebalanceListener):  # type: ignore[misc]
    """Whether the group has given this member its partitions (it may be none of them).

    Attributes:
        fresh: partitions assigned and not yet positioned.
    """

    def __init__(self) -> None:
        self.fresh: set[TopicPartition] = set()
        self.joined = False
        self._since = time.monotonic()

    @property
    def waits_s(self) -> float:
        """For how long it has been as it is now."""
        return time.monotonic() - self._since

    def on_partitions_assigned(self, assigned: Sequence[TopicPartition]) -> None:
        self.fresh.update(assigned)
        self._become(joined=True)
        log.info("partitions_assigned", partitions=_names(assigned))

    def on_partitions_revoked(self, revoked: Sequence[TopicPartition]) -> None:
        self.fresh.difference_update(revoked)
        self._become(joined=False)
        log.info("partitions_revoked", partitions=_names(revoked))

    def _become(self, *, joined: bool) -> None:
        self.joined, self._since = joined, time.monotonic()


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
