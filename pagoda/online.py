"""Read feature rows from Redis: one HMGET an entity over Feast's own layout.

`FeatureStore.get_online_features` costs six times the CPU, does not enforce TTL, and shows a
missing entity as a row of nulls. This reader takes key and field encoding from Feast, columns and
TTL from `pagoda.features`; a contract test holds it equal to `get_online_features`.

Layout: key = serialized entity key (version 3) + project, a hash with one field per feature
(murmur3 of "view:feature") and `_ts:view`, when the row was valid from; values are protobuf.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import pyarrow as pa
import redis
from feast.infra.key_encoding_utils import serialize_entity_key
from feast.infra.online_stores.helpers import _mmh3 as field_hash
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from google.protobuf.message import DecodeError
from google.protobuf.timestamp_pb2 import Timestamp
from redis.backoff import NoBackoff
from redis.retry import Retry

from pagoda.errors import DependencyDown, InputError
from pagoda.features import Service, View
from pagoda.schemas import INT64S, TEXTS
from pagoda.settings import Settings
from pagoda.windows import DAY_MS

PROJECT = "pagoda"
_TIMEOUT_S = 2.0
Row = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class StampedRow:
    """A view's row as it lies in Redis.

    Attributes:
        valid_from_ms: the row's event time, epoch milliseconds: for `user_intraday` when the
            stream wrote it.
        values: column to value: list, str, int, float, bool or None.
    """

    valid_from_ms: int
    values: Row


class OnlineReader:
    """Reads the views of one feature service. Thread-safe; connections are pooled."""

    def __init__(
        self, settings: Settings, service: Service, *, client: redis.Redis | None = None
    ) -> None:
        """Prepare key and field names; connects at the first read.

        Raises: ValueError if the service's views have different entities: one read, one entity.
        """
        entities = {view.entity for view in service.views}
        if len(entities) != 1:
            raise ValueError(f"service {service.name} has several entities: {sorted(entities)}")
        self._views = service.views
        self._key_head, self._key_tail = _key_frame(entities.pop())
        self._fields = [field for view in service.views for field in _fields(view)]
        self._client = client or connect(settings)

    def read(self, key: int, now_ms: int) -> dict[str, Row | None]:
        """The rows of one entity by view name; None where absent or past the view's TTL.

        Raises: DependencyDown("redis", ...); InputError if a row cannot be decoded.
        """
        return self.valid_at(self._decode(key, self._fetch([key])[0]), now_ms)

    def read_many(self, keys: Sequence[int], now_ms: int) -> list[dict[str, Row | None]]:
        """`read` for many entities in one round trip, in the order of `keys`."""
        return [
            self.valid_at(self._decode(key, values), now_ms)
            for key, values in zip(keys, self._fetch(keys), strict=True)
        ]

    def read_stamped(self, keys: Sequence[int]) -> list[dict[str, StampedRow | None]]:
        """Rows with the time they are valid from, TTL not applied."""
        return [
            self._decode(key, values) for key, values in zip(keys, self._fetch(keys), strict=True)
        ]

    def valid_at(self, rows: dict[str, StampedRow | None], now_ms: int) -> dict[str, Row | None]:
        """What `read` would give of these rows at that moment: TTL applied."""
        alive = self.alive_at(rows, now_ms)
        return {name: None if row is None else row.values for name, row in alive.items()}

    def alive_at(
        self, rows: dict[str, StampedRow | None], now_ms: int
    ) -> dict[str, StampedRow | None]:
        """The same rows with their times, None for one past its view's TTL."""
        return {
            view.name: row if (row := rows[view.name]) and _alive(view, row, now_ms) else None
            for view in self._views
        }

    def ping(self) -> None:
        """Raises: DependencyDown if Redis does not answer."""
        try:
            self._client.ping()
        except redis.RedisError as error:
            raise DependencyDown("redis", str(error)) from error

    def redis_key(self, key: int) -> bytes:
        """The Redis key of an entity."""
        return self._key_head + struct.pack("<q", key) + self._key_tail

    def key_of(self, redis_key: bytes) -> int | None:
        """The entity whose Redis key this is; None if it is another kind's, or no entity's."""
        head, tail = self._key_head, self._key_tail
        if len(redis_key) != len(head) + 8 + len(tail):
            return None
        if not (redis_key.startswith(head) and redis_key.endswith(tail)):
            return None
        return int(struct.unpack("<q", redis_key[len(head) : len(head) + 8])[0])

    def _fetch(self, keys: Sequence[int]) -> list[list[bytes | None]]:
        try:
            with self._client.pipeline(transaction=False) as pipe:
                for key in keys:
                    pipe.hmget(self.redis_key(key), self._fields)  # type: ignore[arg-type]
                return cast(list[list[bytes | None]], pipe.execute())
        except redis.RedisError as error:
            raise DependencyDown("redis", str(error)) from error

    def _decode(self, key: int, values: list[bytes | None]) -> dict[str, StampedRow | None]:
        rows: dict[str, StampedRow | None] = {}
        at = 0
        for view in self._views:
            width = len(view.columns)
            try:
                rows[view.name] = _stamped(view, values[at : at + width], values[at + width])
            except (DecodeError, _WrongType) as error:
                raise InputError(
                    f"the row cannot be decoded: {error}",
                    where=f"online store, view {view.name}, {view.entity} {key}",
                    next_step="Write it again: `pagoda features materialise`, or replay the topic.",
                ) from error
            at += width + 1
        return rows


def connect(settings: Settings, *, retries: int = 1) -> redis.Redis:
    """A client with short timeouts: a request must not hang on a dead store.

    Args:
        retries: one by default: a pooled connection may be of a server that was restarted since.
    """
    return redis.Redis(
        host=settings.redis.host,
        port=settings.redis.port,
        password=settings.redis_password(),
        socket_timeout=_TIMEOUT_S,
        socket_connect_timeout=_TIMEOUT_S,
        retry=Retry(NoBackoff(), retries),
    )


def _key_frame(entity: str) -> tuple[bytes, bytes]:
    """What stands before and after the 8 bytes of an int64 key."""
    template = serialize_entity_key(
        EntityKey(join_keys=[entity], entity_values=[Value(int64_val=0)]),
        entity_key_serialization_version=3,
    )
    return template[:-8], PROJECT.encode()


def _fields(view: View) -> list[bytes]:
    return [field_hash(f"{view.name}:{column}") for column in view.columns] + [
        f"_ts:{view.name}".encode()
    ]


def _stamped(view: View, values: list[bytes | None], stamp: bytes | None) -> StampedRow | None:
    if stamp is None:
        return None
    time = Timestamp.FromString(stamp)
    return StampedRow(
        valid_from_ms=time.seconds * 1000 + time.nanos // 1_000_000,
        values={
            column: _value(kind, raw)
            for (column, kind), raw in zip(view.columns.items(), values, strict=True)
        },
    )


class _WrongType(Exception):
    """A value's type is not its column's."""


# Arrow type of a column: the field of Feast's Value that holds it.
_FIELD: Mapping[pa.DataType, str] = {
    INT64S: "int64_list_val",
    TEXTS: "string_list_val",
    pa.int64(): "int64_val",
    pa.float64(): "double_val",
    pa.string(): "string_val",
    pa.bool_(): "bool_val",
}


def _value(kind: pa.DataType, raw: bytes | None) -> Any:
    if raw is None:
        return None
    value = Value.FromString(raw)
    found = value.WhichOneof("val")
    if found is None:
        return None
    if found != _FIELD[kind]:
        raise _WrongType(f"expected {_FIELD[kind]}, found {found}")
    held = getattr(value, found)
    return list(held.val) if pa.types.is_list(kind) else held


def _alive(view: View, row: StampedRow, now_ms: int) -> bool:
    """Feast's own bound of a point-in-time join: a row exactly TTL old still counts."""
    return view.ttl_days is None or row.valid_from_ms >= now_ms - view.ttl_days * DAY_MS
