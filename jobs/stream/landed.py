"""Rows and Kafka positions committed to a lake table together: each record lands once.

The position of a topic is a property of its table, set in the transaction that appends the rows.
Whatever is replayed after a crash lies before that position and is dropped, whether Spark's
checkpoint knows of the commit or was lost altogether.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, cast

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
from pyiceberg.expressions import BooleanExpression, In
from pyiceberg.table import Table as IcebergTable
from pyiceberg.table import Transaction

from jobs.stream.rejects import RejectedRecord
from jobs.stream.routes import Route
from pagoda import faults, lake
from pagoda.forgotten import NOBODY, Forgotten
from pagoda.schemas import IDS, ITEMS, REJECTED
from pagoda.settings import Settings
from pagoda.topics import Topic


@dataclass(frozen=True, kw_only=True)
class Position:
    """How far a topic has landed: partition to the offset of its next record."""

    topic_id: str
    offsets: Mapping[int, int]

    @classmethod
    def of(cls, table: IcebergTable, topic: Topic) -> Position:
        """What the table says; zero for a topic it does not know or that was made anew."""
        said = orjson.loads(table.properties.get(_property(topic), "{}"))
        if said.get("topic_id") != topic.topic_id:
            return cls(topic_id=topic.topic_id, offsets={})
        return cls(
            topic_id=topic.topic_id,
            offsets={int(partition): offset for partition, offset in said["offsets"].items()},
        )

    def beyond(self, rows: pa.Table) -> pa.Table:
        """The rows (with columns partition and offset) that have not landed yet."""
        reached = np.zeros(1 + max([*self.offsets, *_partitions(rows)], default=0), np.int64)
        for partition, offset in self.offsets.items():
            reached[partition] = offset
        fresh = rows["offset"].to_numpy() >= reached[rows["partition"].to_numpy()]
        return rows.filter(pa.array(fresh))

    def advanced(self, rows: pa.Table) -> Position:
        """The position after these rows."""
        offsets = dict(self.offsets)
        for partition in _partitions(rows):
            of_it = rows.filter(pc.equal(rows["partition"], partition))
            offsets[partition] = pc.max(of_it["offset"]).as_py() + 1
        return Position(topic_id=self.topic_id, offsets=offsets)

    def write(self, transaction: Transaction, topic: Topic) -> None:
        """Set the property in a transaction."""
        said = {"topic_id": self.topic_id, "offsets": {str(p): o for p, o in self.offsets.items()}}
        transaction.set_properties({_property(topic): orjson.dumps(said).decode()})


def position(settings: Settings, route: Route, topic: Topic) -> Position:
    """How far `topic` has landed."""
    return Position.of(lake.open_table(settings, route.table), topic)


@lake.again
def land(
    settings: Settings,
    route: Route,
    topic: Topic,
    rows: pa.Table,
    forgotten: Forgotten = NOBODY,
) -> int:
    """Append the rows that are new, or for items keep the newest; returns their number.

    Args:
        rows: columns of `route.schema`; those with a reason, and those that are forgotten, only
            move the position.
    """
    table = lake.open_table(settings, route.table)
    before = Position.of(table, topic)
    fresh = before.beyond(rows)
    if not len(fresh):
        return 0
    good = forgotten.without(fresh.filter(pc.is_null(fresh["reason"])), "ts")
    typed = good.select(route.table.schema.names).cast(route.table.schema)
    with table.transaction() as transaction:
        if len(typed):
            (_keep_newest if route.table is ITEMS else _append)(table, transaction, typed)
        before.advanced(fresh).write(transaction, topic)
        faults.point("landing.written")
    return len(typed)


def _append(_: IcebergTable, transaction: Transaction, rows: pa.Table) -> None:
    transaction.append(rows)


def _keep_newest(table: IcebergTable, transaction: Transaction, rows: pa.Table) -> None:
    """One row an item: the newest update; of equal times the one that came last."""
    keys = pc.unique(rows["item_key"])
    of_these = _among("item_key", keys.to_pylist())
    there = table.scan(of_these, selected_fields=("item_key", "updated_at")).to_arrow()
    newest = dict(zip(there["item_key"].to_pylist(), there["updated_at"].to_pylist(), strict=True))
    chosen: dict[int, int] = {}
    columns = zip(rows["item_key"].to_pylist(), rows["updated_at"].to_pylist(), strict=True)
    for at, (key, updated_at) in enumerate(columns):
        if key not in newest or updated_at >= newest[key]:
            newest[key], chosen[key] = updated_at, at
    if not chosen:
        return
    if len(there):
        transaction.delete(_among("item_key", list(chosen)))
    transaction.append(rows.take(list(chosen.values())))


class Ids:
    """The table `ids`, kept without duplicates by this process."""

    def __init__(self, settings: Settings) -> None:
        """Nothing is read before the first `add`."""
        self._settings = settings
        self._lock = threading.Lock()  # one micro-batch of each topic runs at a time
        self._snapshot: int | None = None
        self._known: dict[str, np.ndarray[Any, np.dtype[np.int64]]] = {}

    def add(self, route: Route, rows: pa.Table) -> int:
        """Record the ids of `rows` that are new; returns their number."""
        with self._lock:
            table = lake.open_table(self._settings, IDS)
            self._refresh(table)
            new = [self._unknown(kind, rows[id_], rows[key]) for kind, id_, key in route.ids]
            unknown = pa.concat_tables(new)
            if len(unknown):
                table.append(unknown)
                self._learn(unknown)
                snapshot = table.current_snapshot()
                self._snapshot = snapshot.snapshot_id if snapshot else None
            return len(unknown)

    def _refresh(self, table: IcebergTable) -> None:
        """Read the table if somebody else wrote to it."""
        snapshot = table.current_snapshot()
        found = snapshot.snapshot_id if snapshot else None
        if found != self._snapshot:
            self._known = {}
            self._learn(table.scan(selected_fields=("kind", "key")).to_arrow())
            self._snapshot = found

    def _learn(self, rows: pa.Table) -> None:
        for kind in pc.unique(rows["kind"]).to_pylist():
            keys = rows.filter(pc.equal(rows["kind"], kind))["key"].to_numpy()
            self._known[kind] = np.union1d(self._known.get(kind, _NONE), keys)

    def _unknown(self, kind: str, ids: pa.ChunkedArray, keys: pa.ChunkedArray) -> pa.Table:
        distinct, first = np.unique(keys.to_numpy(), return_index=True)
        known = np.isin(distinct, self._known.get(kind, _NONE), assume_unique=True)
        at = pa.array(first[~known])
        return pa.table(
            [pa.array([kind] * len(at), pa.string()), ids.take(at), keys.take(at)],
            schema=IDS.schema,
        )


def rejected_row(record: RejectedRecord, *, rejected_at: datetime) -> dict[str, Any]:
    """A row of `rejected`."""
    taken_ms = record.taken_ms
    return {
        "source": f"kafka:{record.place}",
        "place": record.place,
        "reason": record.rejected.reason,
        "raw": record.rejected.raw,
        "rejected_at": rejected_at,
        "taken_at": None if taken_ms is None else datetime.fromtimestamp(taken_ms / 1000, UTC),
    }


class RejectedTable:
    """The table `rejected`, each record of Kafka in it once."""

    def __init__(self, settings: Settings) -> None:
        """Nothing is read before the first `add`."""
        self._settings = settings
        self._lock = threading.Lock()  # one micro-batch of each topic runs at a time

    def add(self, rows: Sequence[dict[str, Any]]) -> int:
        """Append the rows that are not there yet; returns their number."""
        with self._lock:
            table = lake.open_table(self._settings, REJECTED)
            there = table.scan(
                _among("source", sorted({row["source"] for row in rows})),
                selected_fields=("source", "raw"),
            ).to_arrow()
            # The raw bytes count too: a topic that was made anew has the same places again.
            known = set(zip(there["source"].to_pylist(), there["raw"].to_pylist(), strict=True))
            fresh = {(row["source"], row["raw"]): row for row in reversed(rows)}
            new = [row for place, row in fresh.items() if place not in known]
            if new:
                table.append(pa.Table.from_pylist(new, schema=REJECTED.schema))
            return len(new)


_NONE = np.empty(0, np.int64)


def _among(column: str, values: list[Any]) -> BooleanExpression:
    make: Any = In  # its checked signature is that of pydantic, not its own
    return cast(BooleanExpression, make(column, values))


def _partitions(rows: pa.Table) -> list[int]:
    return cast(list[int], pc.unique(rows["partition"]).to_pylist())


def _property(topic: Topic) -> str:
    return f"pagoda.kafka.{topic.name}"
