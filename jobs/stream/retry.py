"""Send again what was rejected and can be read now: a producer was upgraded before the platform.

    lake.rejected -> decode with today's code -> the record's own topic -> lake.retried

A record is judged as of the moment Kafka took it, so one that was wrong then is wrong still. Each
is sent once: what was sent stands in `retried`, and what a killed run sent without noting it is
found in the topics by its header, from where they ended when that run began.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
from filelock import FileLock, Timeout
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.errors import KafkaError
from pyiceberg.expressions import StartsWith

from jobs.stream.routes import Route, routes
from pagoda import lake, whole
from pagoda.errors import Conflict, DependencyDown
from pagoda.messages import Rejected, record_key
from pagoda.schemas import REJECTED, RETRIED
from pagoda.settings import Settings

HEADER = "pagoda-retry"
_BATCH = 500  # sent before they are noted together
_ACK_S = 30.0
_IDLE_S = 30.0
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)
Offsets = dict[TopicPartition, int]


@dataclass(frozen=True, kw_only=True)
class Record:
    """A rejected record that can be read now, ready to be sent."""

    source: str
    sha256: str
    topic: str
    key: bytes
    raw: bytes

    @property
    def mark(self) -> bytes:
        """Names it in the header."""
        return f"{self.source} {self.sha256}".encode()


@dataclass(kw_only=True)
class Found:
    """What the table `rejected` holds of one topic, by what is to be done with it.

    Attributes:
        unreadable: reason to the number of records that today's code still rejects for it.
    """

    readable: int = 0
    sent: int = 0
    retried_before: int = 0
    unreadable: Counter[str] = field(default_factory=Counter)


def retry(settings: Settings, producer: KafkaProducer | None) -> dict[str, Found]:
    """Send what can be read now, unless `producer` is None; topic to what was found.

    Raises: DependencyDown if Kafka does not take a record (those before it are noted), Conflict if
    another run is at work.
    """
    found = {topic: Found() for topic in settings.kafka.topics}
    with _alone(settings):
        if producer is None:
            for record in _readable(settings, found):
                found[record.topic].readable += 1
            return found
        _recover(settings)
        records = _readable(settings, found)
        while batch := list(islice(records, _BATCH)):
            _send(settings, producer, batch)
            for record in batch:
                found[record.topic].readable += 1
                found[record.topic].sent += 1
        _begun(settings).unlink(missing_ok=True)
    return found


def _readable(settings: Settings, found: dict[str, Found]) -> Iterator[Record]:
    """What of `rejected` can be read and was not sent; the rest is counted."""
    known = _marks(settings)
    by_topic = {route.topic: route for route in routes(settings.kafka)}
    of_kafka: Any = StartsWith
    scan = lake.open_table(settings, REJECTED).scan(
        of_kafka("source", "kafka:"),
        selected_fields=("source", "place", "raw", "rejected_at", "taken_at"),
    )
    for batch in scan.to_arrow_batch_reader():
        for row in batch.to_pylist():
            route = by_topic.get(row["place"].rsplit(":", 2)[0])
            if route is None:  # of another installation, or no record at all
                continue
            sha256 = hashlib.sha256(row["raw"]).hexdigest()
            if f"{row['source']} {sha256}".encode() in known:
                found[route.topic].retried_before += 1
                continue
            record = _record(route, row, sha256)
            if isinstance(record, Rejected):
                found[route.topic].unreadable[record.reason] += 1
            else:
                yield record


def _record(route: Route, row: dict[str, Any], sha256: str) -> Record | Rejected:
    taken_ms = ((row["taken_at"] or row["rejected_at"]) - _EPOCH) // _MS
    message = route.decode(row["raw"], now_ms=taken_ms)
    if isinstance(message, Rejected):
        return message
    return Record(
        source=row["source"],
        sha256=sha256,
        topic=route.topic,
        key=record_key(message),
        raw=row["raw"],
    )


def _send(settings: Settings, producer: KafkaProducer, records: list[Record]) -> None:
    begun = _begun(settings)
    if not begun.exists():
        _write(begun, _ends(settings))
    try:
        sent = [
            producer.send(each.topic, key=each.key, value=each.raw, headers=[(HEADER, each.mark)])
            for each in records
        ]
        for future in sent:
            future.get(timeout=_ACK_S)
    except KafkaError as error:
        raise DependencyDown("kafka", f"{error!r}; run it again, it repeats nothing") from error
    _note(settings, [each.mark for each in records])


def _recover(settings: Settings) -> None:
    """Note what a run that did not end has sent."""
    begun = _begun(settings)
    if not begun.exists():
        return
    marks = _marks(settings)
    if sent := [mark for mark in _sent_since(settings, _read(begun)) if mark not in marks]:
        _note(settings, sent)
    begun.unlink()


def _marks(settings: Settings) -> set[bytes]:
    rows = lake.open_table(settings, RETRIED).scan(selected_fields=("source", "sha256")).to_arrow()
    pairs = zip(rows["source"].to_pylist(), rows["sha256"].to_pylist(), strict=True)
    return {f"{source} {sha256}".encode() for source, sha256 in pairs}


def _note(settings: Settings, marks: Iterable[bytes]) -> None:
    now = datetime.now(UTC)
    pairs = [mark.decode().rsplit(" ", 1) for mark in marks]
    rows = [{"source": s, "sha256": sha256, "retried_at": now} for s, sha256 in pairs]
    table = lake.open_table(settings, RETRIED)
    table.append(pa.Table.from_pylist(rows, schema=RETRIED.schema))


# Where the topics ended when a run began ---------------------------------------------------------


def _begun(settings: Settings) -> Path:
    return settings.run / "retry-rejected.json"


def _ends(settings: Settings) -> Offsets:
    with _consumer(settings) as consumer:
        partitions = [
            TopicPartition(topic, number)
            for topic in settings.kafka.topics
            for number in consumer.partitions_for_topic(topic) or ()
        ]
        ends: Offsets = consumer.end_offsets(partitions)
    return ends


def _sent_since(settings: Settings, offsets: Offsets) -> Iterator[bytes]:
    """The marks of all retried records at and after these offsets."""
    ends = _ends(settings)
    with _consumer(settings) as consumer:
        consumer.assign(list(offsets))
        for partition, offset in offsets.items():
            consumer.seek(partition, offset)
        while any(consumer.position(each) < ends.get(each, 0) for each in offsets):
            polled = consumer.poll(timeout_ms=int(_IDLE_S * 1000))
            if not polled:
                raise DependencyDown("kafka", f"no records within {_IDLE_S:.0f} s")
            for records in polled.values():
                yield from (v for each in records for k, v in each.headers if k == HEADER)


@contextmanager
def _consumer(settings: Settings) -> Iterator[KafkaConsumer]:
    """Raises: DependencyDown("kafka", ...), also for calls within."""
    consumer = None
    try:
        consumer = KafkaConsumer(
            bootstrap_servers=settings.kafka.bootstrap_servers,
            bootstrap_timeout_ms=5_000,
            auto_offset_reset="earliest",
            enable_auto_commit=False,
            allow_auto_create_topics=False,
        )
        yield consumer
    except KafkaError as error:
        raise DependencyDown("kafka", f"{type(error).__name__}: {error}") from error
    finally:
        if consumer is not None:
            consumer.close(autocommit=False)


def _write(path: Path, offsets: Offsets) -> None:
    said = [[each.topic, each.partition, offset] for each, offset in offsets.items()]
    whole.write(path, orjson.dumps(said))


def _read(path: Path) -> Offsets:
    return {
        TopicPartition(t, partition): at for t, partition, at in orjson.loads(path.read_bytes())
    }


@contextmanager
def _alone(settings: Settings) -> Iterator[None]:
    try:
        with FileLock(settings.run / "retry-rejected.lock", timeout=0):
            yield
    except Timeout:
        raise Conflict(
            "rejected records are being sent already",
            where=str(settings.run / "retry-rejected.lock"),
            next_step="Wait for that run to end.",
        ) from None
