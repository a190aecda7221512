"""How the online store lies in Redis: Feast's own layout, without importing Feast.

One hash an entity; its key is Feast's serialized entity key (version 3) and the project:

    murmur3("view:column")   a protobuf Value
    "_ts:view"               a protobuf Timestamp: from when the view's row is valid

Importing Feast takes 4 s of CPU and 150 MB, which neither a consumer of events nor a reader of rows
has a use for: only its module of the Value message is loaded. A contract test holds what is written
and read here equal to what Feast reads and writes.
"""

from __future__ import annotations

import importlib.util
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import mmh3
import numpy as np
import pyarrow as pa
from google.protobuf.message import DecodeError
from google.protobuf.timestamp_pb2 import Timestamp

from pagoda import varints
from pagoda.features import View
from pagoda.schemas import INT64S, TEXTS

PROJECT = "pagoda"
Row = Mapping[str, Any]


def _feast_value() -> Any:
    """Feast's protobuf class Value, from its file: a package's `__init__` runs all of Feast."""
    package = importlib.util.find_spec("feast")
    assert package is not None
    assert package.submodule_search_locations
    file = (
        Path(package.submodule_search_locations[0]) / "protos" / "feast" / "types" / "Value_pb2.py"
    )
    spec = importlib.util.spec_from_file_location("feast.protos.feast.types.Value_pb2", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_VALUE_PB2 = _feast_value()
Value = _VALUE_PB2.Value
_STRING, _INT64 = _VALUE_PB2.ValueType.STRING, _VALUE_PB2.ValueType.INT64
# The field of Value that holds a column's values: the column's Arrow type. This way round, because
# to hash an Arrow type takes longer than to decode a short list.
_KIND: Mapping[str, pa.DataType] = {
    "int64_list_val": INT64S,
    "string_list_val": TEXTS,
    "int64_val": pa.int64(),
    "double_val": pa.float64(),
    "string_val": pa.string(),
    "bool_val": pa.bool_(),
}
_LISTS = frozenset({"int64_list_val", "string_list_val"})
# How a Value begins that holds a list of integers, and how that list begins.
_INTEGERS: bytes = Value(int64_list_val=_VALUE_PB2.Int64List()).SerializeToString()[:1]
_PACKED: bytes = _VALUE_PB2.Int64List(val=[1]).SerializeToString()[:1]


class Damaged(Exception):
    """What lies there is no row of this view."""


@dataclass(frozen=True, kw_only=True)
class StampedRow:
    """A view's row as it lies in Redis.

    Attributes:
        valid_from_ms: the row's event time, epoch milliseconds: for `user_intraday` when the
            stream wrote it.
        values: column to value: an int64 array, a list of str, str, int, float, bool or None.
    """

    valid_from_ms: int
    values: Row


class Keys:
    """Redis keys of one entity's rows."""

    def __init__(self, entity: str) -> None:
        """`entity` is the join key: user_key or item_key."""
        name = entity.encode()
        self._head = struct.pack(f"<III{len(name)}sII", 1, _STRING, len(name), name, _INT64, 8)
        self._tail = PROJECT.encode()

    def of(self, key: int) -> bytes:
        """The Redis key of an entity."""
        return self._head + struct.pack("<q", key) + self._tail

    def entity_of(self, redis_key: bytes) -> int | None:
        """Which entity a Redis key is of; None if of none."""
        start, end = len(self._head), len(self._head) + 8
        if redis_key[:start] != self._head or redis_key[end:] != self._tail:
            return None
        (key,) = struct.unpack("<q", redis_key[start:end])
        return int(key)


def stamp_field(view: View) -> bytes:
    """The hash field that says from when the row is valid."""
    return f"_ts:{view.name}".encode()


def fields(view: View) -> list[bytes]:
    """The hash fields of the view's columns, in order, and the stamp's last."""
    return [_field(f"{view.name}:{column}") for column in view.columns] + [stamp_field(view)]


def decode(
    parts: Sequence[tuple[View, Sequence[bytes | None]]],
) -> list[StampedRow | Damaged | None]:
    """Rows from the values of their view's `fields`, of any views and entities together.

    Returns: for each its row, None where there is none, or what is wrong with it.
    """
    lists = _Lists()
    rows = [_decode(view, held, lists) for view, held in parts]
    try:
        lists.fill()
    except varints.Unreadable as error:
        return [Damaged(str(error))] if len(parts) == 1 else [decode([each])[0] for each in parts]
    return rows


def plain(row: Row) -> dict[str, Any]:
    """The row with lists instead of arrays, to compare or to print."""
    return {
        column: value.tolist() if isinstance(value, np.ndarray) else value
        for column, value in row.items()
    }


def encode(view: View, rows: Sequence[Row]) -> list[dict[bytes, bytes]]:
    """For each row the hash fields of its columns and what they hold.

    Columns are lists, as in the views that streams write: int64 arrays, or any of str.
    """
    integers = iter(
        varints.encode(
            [row[column] for row in rows for column in row if view.columns[column] is INT64S]
        )
    )
    return [
        {
            _field(f"{view.name}:{column}"): _packed(next(integers))
            if view.columns[column] is INT64S
            else _texts(values)
            for column, values in row.items()
        }
        for row in rows
    ]


def stamp(valid_from_ms: int) -> bytes:
    """A time as it lies in Redis."""
    seconds, ms = divmod(valid_from_ms, 1000)
    return Timestamp(seconds=seconds, nanos=ms * 1_000_000).SerializeToString()


def time_in(stamp: bytes) -> int | None:
    """The time that a stamp says, epoch milliseconds; None if it cannot be read."""
    try:
        time = Timestamp.FromString(stamp)
    except DecodeError:
        return None
    return int(time.seconds) * 1000 + int(time.nanos) // 1_000_000


@cache
def _field(name: str) -> bytes:
    return struct.pack("<I", mmh3.hash(name, signed=False))


class _Lists:
    """Lists of integers that are decoded together, and where in which row they belong."""

    def __init__(self) -> None:
        self.packed: list[bytes] = []
        self.places: list[tuple[dict[str, Any], str]] = []

    def fill(self) -> None:
        """Decode all of them. Raises: varints.Unreadable."""
        for (values, column), held in zip(self.places, varints.decode(self.packed), strict=True):
            values[column] = held


def _decode(view: View, held: Sequence[bytes | None], lists: _Lists) -> StampedRow | Damaged | None:
    stamp = held[-1]
    if stamp is None:
        return None
    valid_from_ms = time_in(stamp)
    if valid_from_ms is None:
        return Damaged("its time cannot be read")
    values: dict[str, Any] = dict.fromkeys(view.columns)
    try:
        for (column, kind), raw in zip(view.columns.items(), held[:-1], strict=True):
            if raw is None:
                continue
            # By identity: to compare Arrow types takes longer than to decode a short list.
            head = _head(len(raw)) if kind is INT64S else None
            if head and raw.startswith(head):
                lists.packed.append(raw[len(head) :])
                lists.places.append((values, column))
            else:
                values[column] = _value(kind, raw)
    except (Damaged, DecodeError) as error:
        return Damaged(str(error))
    return StampedRow(valid_from_ms=valid_from_ms, values=values)


@lru_cache(maxsize=65_536)
def _head(size: int) -> bytes:
    """What comes before the integers in a Value of so many bytes; empty if no list is so long."""
    for packed in range(size, -1, -1):
        whole = len(_prefix(packed)) + packed
        if whole <= size:
            return _prefix(packed) if whole == size else b""
    return b""


def _packed(integers: bytes) -> bytes:
    return _prefix(len(integers)) + integers


@lru_cache(maxsize=65_536)
def _prefix(packed: int) -> bytes:
    """What comes before so many bytes of integers in a Value."""
    if not packed:
        return _INTEGERS + b"\0"  # an empty list is not a null
    inside = _PACKED + _varint(packed)
    return _INTEGERS + _varint(len(inside) + packed) + inside


def _texts(texts: Iterable[str]) -> bytes:
    value = Value()
    value.string_list_val.SetInParent()
    value.string_list_val.val.extend(texts)
    return bytes(value.SerializeToString())


def _varint(number: int) -> bytes:
    out = b""
    while number > 0x7F:
        out += bytes([number & 0x7F | 0x80])
        number >>= 7
    return out + bytes([number])


def _value(kind: pa.DataType, raw: bytes) -> Any:
    value = Value.FromString(raw)
    found = value.WhichOneof("val")
    if found is None:
        return None
    known = _KIND.get(found)
    if known is not kind and known != kind:
        raise Damaged(f"expected {_holder(kind)}, found {found}")
    held = getattr(value, found)
    if found not in _LISTS:
        return held
    values = held.val[:]  # half the time of list()
    return np.array(values, np.int64) if kind is INT64S else values


def _holder(kind: pa.DataType) -> str:
    return next(field for field, held in _KIND.items() if held == kind)
