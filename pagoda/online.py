"""Read feature rows from Redis: one HMGET an entity over Feast's own layout.

`FeatureStore.get_online_features` costs five times the CPU, does not enforce TTL, and shows a
missing entity as a row of nulls. This reader takes columns and TTL from `pagoda.features` and the
layout from `pagoda.online_layout`; a contract test holds it equal to `get_online_features`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from pagoda import online_layout
from pagoda.errors import DependencyDown, InputError
from pagoda.features import Service, View
from pagoda.online_layout import Damaged, Keys, Row, StampedRow
from pagoda.redis_line import Asked, Line
from pagoda.settings import Settings
from pagoda.windows import DAY_MS

__all__ = ["OnlineReader", "Row", "StampedRow", "connect"]
_TIMEOUT_S = 2.0


class OnlineReader:
    """Reads the views of one feature service. Thread-safe: each thread has its connection."""

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
        self._keys = Keys(entities.pop())
        fields = [field for view in service.views for field in online_layout.fields(view)]
        ends = accumulate(len(view.columns) + 1 for view in service.views)
        self._places = [
            (view, end - len(view.columns) - 1, end)
            for view, end in zip(service.views, ends, strict=True)
        ]
        self._line = Line(client or connect(settings))
        self._hmget = Asked(self._line, "HMGET", self._keys.of(0), *fields)

    def read(self, key: int, now_ms: int) -> dict[str, Row | None]:
        """The rows of one entity by view name; None where absent or past the view's TTL.

        Raises: DependencyDown("redis", ...); InputError if a row cannot be decoded.
        """
        return self.valid_at(self.read_stamped([key])[0], now_ms)

    def read_many(self, keys: Sequence[int], now_ms: int) -> list[dict[str, Row | None]]:
        """`read` for many entities in one round trip, in the order of `keys`."""
        return [self.valid_at(rows, now_ms) for rows in self.read_stamped(keys)]

    def read_stamped(self, keys: Sequence[int]) -> list[dict[str, StampedRow | None]]:
        """Rows with the time they are valid from, TTL not applied."""
        return self._decode(keys, self._fetch(keys))

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
            self._line.call("PING")
        except redis.RedisError as error:
            raise DependencyDown("redis", str(error)) from error

    def redis_key(self, key: int) -> bytes:
        """The Redis key of an entity."""
        return self._keys.of(key)

    def key_of(self, redis_key: bytes) -> int | None:
        """The entity whose Redis key this is; None if it is another kind's, or no entity's."""
        return self._keys.entity_of(redis_key)

    def _fetch(self, keys: Sequence[int]) -> list[list[bytes | None]]:
        asked = self._hmget.of(map(self.redis_key, keys))
        try:
            return self._line.ask([asked], len(keys))
        except redis.RedisError as error:
            raise DependencyDown("redis", str(error)) from error

    def _decode(
        self, keys: Sequence[int], found: Sequence[list[bytes | None]]
    ) -> list[dict[str, StampedRow | None]]:
        parts = [(view, values[start:end]) for values in found for view, start, end in self._places]
        decoded = iter(online_layout.decode(parts))
        return [
            {view.name: _sound(next(decoded), view, key) for view in self._views} for key in keys
        ]


def _sound(row: StampedRow | Damaged | None, view: View, key: int) -> StampedRow | None:
    if isinstance(row, Damaged):
        raise InputError(
            f"the row cannot be decoded: {row}",
            where=f"online store, view {view.name}, {view.entity} {key}",
            next_step="Write it again: `pagoda stream rebuild` for the stream's own view, "
            "`pagoda features materialise` for the others.",
        )
    return row


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


def _alive(view: View, row: StampedRow, now_ms: int) -> bool:
    """Feast's own bound of a point-in-time join: a row exactly TTL old still counts."""
    return view.ttl_days is None or row.valid_from_ms >= now_ms - view.ttl_days * DAY_MS
