"""What the online store holds of each view: how many rows, how old, how whole.

    Redis: SCAN -> times of every row -> newest, expired;  some whole rows -> nulls, lengths

The walk ends after `quality.online_keys` keys. SCAN goes by hash, so what it has seen by then
is a sample of all; the newest row is then that of the sample.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import redis

from jobs.quality.counts import EMPTY, Measure, measure
from jobs.quality.distribution import Distribution
from pagoda.errors import DependencyDown, InputError
from pagoda.features import VIEWS, Service, View
from pagoda.online import OnlineReader, StampedRow, connect
from pagoda.settings import Settings
from pagoda.statistics import Entity

_AT_ONCE = 500


@dataclass(frozen=True, kw_only=True)
class OnlineView:
    """One view online.

    Attributes:
        rows: entities that have a row, of those looked at.
        newest_ms: from when the newest row is valid, None without rows.
        expired: rows past the view's TTL, which serving does not use.
        damaged: rows that cannot be decoded, of those read whole.
        columns: column to its distribution, of the rows read whole; of kinds only nulls and
            empties are told apart.
    """

    rows: int
    newest_ms: int | None
    expired: int
    damaged: int
    columns: Mapping[str, Distribution] = field(default_factory=dict)


def look(settings: Settings, *, now_ms: int) -> dict[str, OnlineView]:
    """Every view by name. Raises: DependencyDown if Redis does not answer."""
    limits = settings.quality
    entities = dict.fromkeys(view.entity for view in VIEWS)
    with connect(settings) as client:
        walks = [_Walk(settings, client, entity, now_ms) for entity in entities]
        keys = islice(_keys(client), limits.online_keys)
        while some := list(islice(keys, _AT_ONCE)):
            for walk in walks:
                walk.see(some, whole=limits.online_rows)
    return {name: view for walk in walks for name, view in walk.found().items()}


def _keys(client: redis.Redis) -> Iterator[bytes]:
    try:
        yield from client.scan_iter(count=_AT_ONCE)
    except redis.RedisError as error:
        raise DependencyDown("redis", str(error)) from error


class _Walk:
    """The views of one kind of entity, as its keys come by."""

    def __init__(
        self, settings: Settings, client: redis.Redis, entity: Entity, now_ms: int
    ) -> None:
        views = tuple(view for view in VIEWS if view.entity == entity)
        self._times = OnlineReader(
            settings, _service(*(replace(view, columns={}) for view in views)), client=client
        )
        self._whole = [_Rows(settings, client, view) for view in views]
        self._now_ms = now_ms
        self._read = 0
        self._stamps: dict[str, list[int]] = {view.name: [] for view in views}
        self._expired = dict.fromkeys(self._stamps, 0)

    def see(self, redis_keys: Sequence[bytes], *, whole: int) -> None:
        """Look at those that are this entity's; read the first `whole` of all completely."""
        keys = [key for each in redis_keys if (key := self._times.key_of(each)) is not None]
        for rows in self._times.read_stamped(keys):
            alive = self._times.alive_at(rows, self._now_ms)
            for name, row in rows.items():
                if row:
                    self._stamps[name].append(row.valid_from_ms)
                    self._expired[name] += alive[name] is None
        for each in self._whole:
            each.read(keys[: max(whole - self._read, 0)])
        self._read += len(keys)

    def found(self) -> dict[str, OnlineView]:
        """What was seen, by view."""
        return {
            rows.view.name: OnlineView(
                rows=len(self._stamps[rows.view.name]),
                newest_ms=max(self._stamps[rows.view.name], default=None),
                expired=self._expired[rows.view.name],
                damaged=rows.damaged,
                columns=rows.columns(),
            )
            for rows in self._whole
        }


class _Rows:
    """Whole rows of one view, kept as what their columns are judged by."""

    def __init__(self, settings: Settings, client: redis.Redis, view: View) -> None:
        self.view = view
        self.damaged = 0
        self._reader = OnlineReader(settings, _service(view), client=client)
        self._measures = {name: measure(kind) for name, kind in view.columns.items()}
        self._values: dict[str, list[float | None]] = {name: [] for name in view.columns}

    def read(self, keys: Sequence[int]) -> None:
        """Read the rows of these entities."""
        try:
            found = self._reader.read_stamped(keys)
        except InputError:
            found = [row for key in keys for row in self._or_damaged(key)]
        for row in found:
            self._keep(row[self.view.name])

    def columns(self) -> dict[str, Distribution]:
        """Column to what was read."""
        return {name: Distribution.of(values) for name, values in self._values.items()}

    def _or_damaged(self, key: int) -> list[dict[str, StampedRow | None]]:
        try:
            return self._reader.read_stamped([key])
        except InputError:
            self.damaged += 1
            return []

    def _keep(self, row: StampedRow | None) -> None:
        if row is not None:
            for name, value in row.values.items():
                self._values[name].append(_measured(value, self._measures[name]))


def _measured(value: Any, by: Measure) -> float | None:
    if value is None:
        return None
    if by == "length":
        return float(len(value))
    if by == "kind":
        return EMPTY["kind"] if value == "" else 0.0
    return float(value)


def _service(*views: View) -> Service:
    return Service(name="quality", description="What the check reads; internal.", views=views)
