"""What cannot be read goes to `<topic>.rejected`: reason, raw bytes and place, as JSON.

A record may stand there more than once (after a crash or a rewind); its place, the topic, partition
and offset, says which are the same, and the lake keeps each place once.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass

import orjson
from kafka import KafkaProducer
from kafka.errors import KafkaError

from pagoda.errors import DependencyDown
from pagoda.forgotten import consulted
from pagoda.messages import Rejected
from pagoda.settings import Settings

SCHEMA = 1
# Kafka's default limit of a record; should a broker allow more, the rest is cut off and said so.
MAX_RAW_BYTES = 1024 * 1024
_MAX_REASON = 2_000
_ACK_S = 10.0


@dataclass(frozen=True, kw_only=True)
class RejectedRecord:
    """A record that could not be read, where it lies, and when Kafka took it."""

    topic: str
    partition: int
    offset: int
    rejected: Rejected
    taken_ms: int | None = None

    @property
    def place(self) -> str:
        """Names the record once and for all."""
        return f"{self.topic}:{self.partition}:{self.offset}"


def encode(record: RejectedRecord) -> bytes:
    """The message for the rejected topic."""
    raw, reason = record.rejected.raw, record.rejected.reason
    if len(raw) > MAX_RAW_BYTES:
        reason = f"{reason}; only the first {MAX_RAW_BYTES} bytes are kept"
    return orjson.dumps(
        {
            "schema": SCHEMA,
            "reason": reason if len(reason) <= _MAX_REASON else reason[:_MAX_REASON] + " …",
            "topic": record.topic,
            "partition": record.partition,
            "offset": record.offset,
            "taken_ms": record.taken_ms,
            "raw_base64": base64.b64encode(raw[:MAX_RAW_BYTES]).decode(),
            "raw_bytes": len(raw),
        }
    )


def decode(raw: bytes) -> RejectedRecord:
    """Raises: ValueError if it is not such a message (KeyError is one of them)."""
    try:
        fields = orjson.loads(raw)
        return RejectedRecord(
            topic=str(fields["topic"]),
            partition=int(fields["partition"]),
            offset=int(fields["offset"]),
            rejected=Rejected(
                reason=str(fields["reason"]), raw=base64.b64decode(fields["raw_base64"])
            ),
            taken_ms=fields.get("taken_ms"),
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"not a rejected record: {error!r}") from error


class RejectedSink:
    """Writes rejected records and waits until Kafka has them."""

    def __init__(self, settings: Settings, producer: KafkaProducer) -> None:
        """`producer` must allow records of `pagoda.topics.MAX_REJECTED_BYTES`."""
        self._settings = settings
        self._producer = producer

    def write(self, records: Sequence[RejectedRecord]) -> None:
        """All but those that name a forgotten user.

        Raises: DependencyDown("kafka", ...) if any is not acknowledged.
        """
        with consulted(self._settings) as forgotten:
            try:
                sent = [
                    self._producer.send(
                        self._settings.kafka.rejected(record.topic),
                        key=record.place.encode(),
                        value=encode(record),
                    )
                    for record in records
                    if not forgotten.names(record.rejected.raw)
                ]
                for future in sent:
                    future.get(timeout=_ACK_S)
            except KafkaError as error:
                raise DependencyDown("kafka", repr(error)) from error
