"""Which topic lands in which table, and how its messages become rows.

The same `pagoda.messages` functions decode here and in the sequences consumer, at the same time
(the record's LogAppendTime): both accept and reject the same records.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa

from pagoda.messages import (
    Event,
    ItemUpdate,
    Rejected,
    Search,
    decode_event,
    decode_item,
    decode_search,
)
from pagoda.schemas import EVENTS, ITEMS, SEARCHES, TS, Table
from pagoda.settings import Kafka

Message = Event | Search | ItemUpdate
_TIMES = {"ts", "updated_at"}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# Beside the table's columns: where the record lies, and for a bad one why, its bytes, and when it
# came: not every table has a column for that.
_RECORD = [
    pa.field("partition", pa.int32()),
    pa.field("offset", pa.int64()),
    pa.field("reason", pa.string()),
    pa.field("raw", pa.binary()),
    pa.field("taken_at", TS),
]


@dataclass(frozen=True, kw_only=True)
class Route:
    """One input topic and its table.

    Attributes:
        ids: (kind, id column, key column) of what the table `ids` must know.
    """

    topic: str
    table: Table
    decode: Callable[..., Message | Rejected]
    ids: tuple[tuple[str, str, str], ...]

    @property
    def schema(self) -> pa.Schema:
        """The table's columns, here all nullable, and those of the record."""
        return pa.schema([each.with_nullable(True) for each in self.table.schema] + _RECORD)

    def rows(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Kafka records (value, partition, offset, timestamp) to rows of `schema`."""
        for batch in batches:
            yield pa.RecordBatch.from_pylist(
                [self._row(record) for record in batch.to_pylist()], schema=self.schema
            )

    def _row(self, record: dict[str, Any]) -> dict[str, Any]:
        partition, offset, taken = record["partition"], record["offset"], record["timestamp"]
        place = {"partition": partition, "offset": offset}
        message = self.decode(record["value"], now_ms=int(taken.timestamp() * 1000))
        if isinstance(message, Rejected):
            return {**place, "reason": message.reason, "raw": message.raw, "taken_at": taken}
        return {
            **place,
            **_columns(self.table, message),
            "ingested_at": taken,
            "source": f"kafka:{self.topic}:{partition}:{offset}",
        }


def routes(kafka: Kafka) -> tuple[Route, Route, Route]:
    """Events, searches, items."""
    return (
        Route(
            topic=kafka.events_topic,
            table=EVENTS,
            decode=decode_event,
            ids=(("user", "user_id", "user_key"), ("item", "item_id", "item_key")),
        ),
        Route(
            topic=kafka.searches_topic,
            table=SEARCHES,
            decode=decode_search,
            ids=(("user", "user_id", "user_key"),),
        ),
        Route(
            topic=kafka.items_topic,
            table=ITEMS,
            decode=decode_item,
            ids=(("item", "item_id", "item_key"),),
        ),
    )


def _columns(table: Table, message: Message) -> dict[str, Any]:
    """The message's fields and keys that the table has columns for, times as times."""
    row = {name: getattr(message, name) for name in table.schema.names if hasattr(message, name)}
    for name in row.keys() & _TIMES:
        row[name] = _time(row[name])
    if "attributes" in row:
        row["attributes"] = list((row["attributes"] or {}).items()) or None
    return row


def _time(ms: int) -> datetime:
    return _EPOCH + timedelta(milliseconds=ms)
