"""Kafka as the sequences consumer sees it: batches that are committed or given back.

Both topics are keyed by user and have equally many partitions; the range assignor gives the same
partition numbers of both to one consumer, so that no two work on one user's row at a time.

A commit says more than an offset, in its metadata: from where on the last seconds' records would
have to be read again, for a store may acknowledge a write and lose it (Redis syncs its log once a
second), and what the records were read as. Whoever takes a partition over starts there, or where
the stream's days begin if records are read as something else now. Merging twice changes nothing.
"""

from __future__ import annotations

import hashlib
import socket
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson
import structlog
from kafka import ConsumerRebalanceListener, KafkaConsumer, TopicPartition
from kafka.admin import MemberToRemove
from kafka.coordinator.assignors.range import RangePartitionAssignor
from kafka.errors import (
    CommitFailedError,
    FencedInstanceIdError,
    IllegalGenerationError,
    KafkaError,
    RebalanceInProgressError,
    UnknownMemberIdError,
)
from kafka.structs import OffsetAndMetadata

from pagoda import topics
from pagoda.errors import Conflict, DependencyDown, PagodaError, SettingsError
from pagoda.features import CANDIDATES
from pagoda.settings import Settings
from pagoda.windows import DAY_MS

log = structlog.get_logger(__name__)
_REQUEST_MS = 4_000  # SIGTERM must not wait for a broker that is away
_CLOSE_MS = 1_000
_JOIN_S = 2.0  # how long one poll may take while the group has not answered yet
_REOPEN_S = 60.0
_REBALANCED = (
    CommitFailedError,
    IllegalGenerationError,
    RebalanceInProgressError,
    UnknownMemberIdError,
)


class Record(NamedTuple):
    """A Kafka record; `taken_ms` is its LogAppendTime."""

    topic: str
    partition: int
    offset: int
    taken_ms: int
    value: bytes | None


@dataclass(frozen=True, kw_only=True)
class LastWords:
    """What a commit says beside its offset.

    Attributes:
        start: from where the last seconds' records would have to be read again.
        read_as: what the records before were read as.
    """

    start: int
    read_as: str

    def encode(self) -> str:
        """As the commit's metadata."""
        return orjson.dumps({"start": self.start, "read_as": self.read_as}).decode()

    @classmethod
    def decode(cls, said: str) -> LastWords | None:
        """None for what an earlier version said: then the records are read anew."""
        try:
            fields = orjson.loads(said)
            return cls(start=int(fields["start"]), read_as=str(fields["read_as"]))
        except (orjson.JSONDecodeError, KeyError, TypeError):
            return None


class Source:
    """A member of the consumer group over the events and searches topics."""

    def __init__(self, settings: Settings, *, read_as: str = "", instance: int = 1) -> None:
        """Join the group.

        Args:
            read_as: see `LastWords`.
            instance: which of several on this PAGODA_HOME. Each has a name in the group: started
                again after a kill it takes its place at once, where a stranger would wait until the
                dead one's session ends.
        Raises: DependencyDown("kafka", ...) if no broker answers.
        """
        self._settings = settings
        self._limit = settings.stream.batch_records
        self._rewind_s = settings.stream.rewind_s
        self._read_as = read_as
        self._name = member_name(settings, instance)
        self._batch: dict[TopicPartition, tuple[int, int]] = {}
        self._recent: dict[TopicPartition, deque[tuple[float, int]]] = {}
        self._open()

    def _open(self) -> None:
        kafka = self._settings.kafka
        names = [kafka.events_topic, kafka.searches_topic]
        self._membership = _Membership()
        try:
            self._consumer = KafkaConsumer(
                bootstrap_servers=kafka.bootstrap_servers,
                bootstrap_timeout_ms=5_000,
                group_id=kafka.stream_group,
                group_instance_id=self._name,
                enable_auto_commit=False,
                auto_offset_reset="earliest",
                partition_assignment_strategy=[RangePartitionAssignor],
                session_timeout_ms=int(self._settings.stream.session_s * 1000),
                heartbeat_interval_ms=int(self._settings.stream.session_s * 200),
                fetch_max_wait_ms=100,
                allow_auto_create_topics=False,
            )
            self._consumer.subscribe(names, listener=self._membership)
            # A member that joins before it knows the topics is assigned nothing and joins again.
            for topic in names:
                self._consumer.partitions_for_topic(topic)
        except KafkaError as error:
            raise _failure(error) from error

    @property
    def joined(self) -> bool:
        """Whether the group has said which partitions are this member's."""
        return self._membership.joined

    @property
    def rebalances(self) -> int:
        """How often the group has given this member its partitions."""
        return self._membership.rebalances

    def poll(self, timeout_s: float) -> list[Record]:
        """The next records, at most a batch; none if nothing came in time.

        Raises: DependencyDown("kafka", ...), Conflict if the group is being rebalanced,
        SettingsError if another consumer has taken this one's name.
        """
        joined = self._membership.joined
        if not joined and self._membership.waits_s > _REOPEN_S:
            log.error("joining_anew", waited_s=round(self._membership.waits_s))
            self._consumer.close(autocommit=False, timeout_ms=_CLOSE_MS)
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
            raise _failure(error) from error
        return [record_of(each) for records in polled.values() for each in records]

    def commit(self) -> None:
        """The last batch is written. Raises: as `poll`."""
        now = time.monotonic()
        offsets = {}
        for partition, (start, end) in self._batch.items():
            recent = self._recent.setdefault(partition, deque())
            recent.append((now, start))
            while recent[0][0] < now - self._rewind_s:
                recent.popleft()
            words = LastWords(start=min(at for _, at in recent), read_as=self._read_as)
            offsets[partition] = OffsetAndMetadata(end, words.encode(), -1)
        try:
            self._consumer.commit(offsets, timeout_ms=_REQUEST_MS)
        except KafkaError as error:
            raise _failure(error) from error
        self._batch = {}

    def give_back(self) -> None:
        """The last batch is not written: read it again (unless another consumer now does)."""
        self._seek({partition: start for partition, (start, _) in self._batch.items()})
        self._batch = {}

    def rewind(self) -> None:
        """Read again what was committed in the last seconds: the store may have lost it."""
        now = time.monotonic()
        starts = {each: min(at for _, at in recent) for each, recent in self._recent.items()}
        self._recent = {each: deque([(now, start)]) for each, start in starts.items()}
        self._seek(starts)

    def reread_as(self, read_as: str) -> None:
        """From now on records are read as this: those of the stream's days are read again."""
        self._read_as = read_as
        self._membership.fresh.update(self._consumer.assignment())

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
        # A named member keeps its place when it closes; this one does not mean to come back.
        with suppress(PagodaError, KafkaError), topics.admin(self._settings) as admin:
            admin.remove_group_members(
                self._settings.kafka.stream_group, [MemberToRemove(group_instance_id=self._name)]
            )

    def _start_at_last_words(self) -> None:
        """Newly assigned partitions start where their last commit says that it is safe to."""
        self.give_back()
        fresh = self._membership.fresh
        starts, anew = {}, []
        for partition in fresh:
            committed = self._consumer.committed(partition, metadata=True, timeout_ms=_REQUEST_MS)
            if committed is None:
                continue
            words = LastWords.decode(committed.metadata)
            if words is None or words.read_as != self._read_as:
                anew.append(partition)
            starts[partition] = words.start if words else committed.offset
        starts |= self._stream_days_start(anew)
        for partition in fresh:
            self._recent.pop(partition, None)
        fresh.clear()
        self._seek(starts)

    def _stream_days_start(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        """Where the records begin that rows may hold; nothing for a partition without any."""
        if not partitions:
            return {}
        since_ms = time.time_ns() // 1_000_000 - CANDIDATES.stream_days * DAY_MS
        found = self._consumer.offsets_for_times(dict.fromkeys(partitions, since_ms))
        return {partition: at.offset for partition, at in found.items() if at is not None}

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
        self.rebalances = 0
        self._since = time.monotonic()

    @property
    def waits_s(self) -> float:
        """For how long it has been as it is now."""
        return time.monotonic() - self._since

    def on_partitions_assigned(self, assigned: Sequence[TopicPartition]) -> None:
        self.fresh.update(assigned)
        self.rebalances += 1
        self._become(joined=True)
        log.info("partitions_assigned", partitions=_names(assigned))

    def on_partitions_revoked(self, revoked: Sequence[TopicPartition]) -> None:
        self.fresh.difference_update(revoked)
        self._become(joined=False)
        log.info("partitions_revoked", partitions=_names(revoked))

    def _become(self, *, joined: bool) -> None:
        self.joined, self._since = joined, time.monotonic()


def member_name(settings: Settings, instance: int) -> str:
    """This consumer's name in the group: of the machine, the home and the instance."""
    home = hashlib.blake2b(str(settings.home.resolve()).encode(), digest_size=4).hexdigest()
    return f"{socket.gethostname()}-{home}-{instance}"


def _names(partitions: Sequence[TopicPartition]) -> str:
    return " ".join(sorted(f"{each.topic}:{each.partition}" for each in partitions))


def record_of(record: Any) -> Record:
    """A record as kafka-python gives it."""
    return Record(
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        taken_ms=record.timestamp,
        value=record.value,
    )


def _failure(error: KafkaError) -> PagodaError:
    said = f"{type(error).__name__}: {error}"
    if isinstance(error, FencedInstanceIdError):
        return SettingsError(
            "another consumer has taken this one's name in the group",
            found=said,
            next_step="Two on one PAGODA_HOME need different numbers: `--instance`.",
        )
    if isinstance(error, _REBALANCED):
        return Conflict(f"the group was rebalanced meanwhile: {said}")
    return DependencyDown("kafka", said)
