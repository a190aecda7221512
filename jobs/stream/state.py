"""Users' real-time sequences in Feast's online store: read, merge by law 2, write."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import redis
import structlog
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value

from jobs.stream.merge import Arrivals, advance, row_of
from pagoda.errors import Conflict, DependencyDown, InputError
from pagoda.features import USER_INTRADAY, Service, candidates_of
from pagoda.online import OnlineReader, StampedRow, connect
from pagoda.settings import Settings
from pagoda.windows import Candidates, WindowSpec

if TYPE_CHECKING:
    from feast import FeatureStore

log = structlog.get_logger(__name__)
INTRADAY_ONLY = Service(
    name="intraday_only",
    description="What the stream reads before it merges; internal.",
    views=(USER_INTRADAY,),
)


class OnlineState:
    """The rows of `user_intraday` in Feast's online store. This is their only writer."""

    def __init__(self, settings: Settings, store: FeatureStore, spec: WindowSpec) -> None:
        """Take the view from the store's registry; `feast apply` must have run."""
        self._reader = OnlineReader(settings, INTRADAY_ONLY, client=connect(settings, retries=0))
        self._store = store
        self._provider = store._get_provider()
        self._view = store.get_feature_view(USER_INTRADAY.name)
        self._spec = spec

    def ping(self) -> None:
        """Raises: DependencyDown if Redis does not answer."""
        self._reader.ping()

    def merge(
        self,
        arrivals: Mapping[int, Arrivals],
        *,
        now_ms: int,
        may_write: Callable[[], bool] = lambda: True,
    ) -> int:
        """Merge new messages into their users' rows; returns the number of rows written.

        A row that would not change is not written.

        Args:
            may_write: asked between reading and writing: a process that slept here has lost its
                users to another, whose rows it must not overwrite.
        Raises: DependencyDown("redis", ...), Conflict if it may not write.
        """
        users = list(arrivals)
        changed = []
        for user, stored in zip(users, self._stored(users), strict=True):
            before = candidates_of(stored.values) if stored else Candidates()
            after = advance(before, arrivals[user].candidates(), now_ms=now_ms, spec=self._spec)
            if after.clicks == before.clicks and after.queries == before.queries:
                continue
            # Feast skips a row that is not newer than the stored one: always step forward.
            row_ms = max(now_ms, stored.valid_from_ms + 1) if stored else now_ms
            changed.append(_feast_row(user, after, row_ms))
        if changed:
            if not may_write():
                raise Conflict("the batch took too long: another consumer may have its users now")
            self._write(changed)
        return len(changed)

    def _stored(self, users: list[int]) -> list[StampedRow | None]:
        try:
            return [rows[USER_INTRADAY.name] for rows in self._reader.read_stamped(users)]
        except InputError:
            return [self._stored_or_nothing(user) for user in users]

    def _stored_or_nothing(self, user: int) -> StampedRow | None:
        """A damaged row must not stop the stream: it is said loudly and starts anew."""
        try:
            return self._reader.read_stamped([user])[0][USER_INTRADAY.name]
        except InputError as error:
            log.error("damaged_row_replaced", user_key=user, reason=str(error))
            return None

    def _write(self, rows: list[FeastRow]) -> None:
        try:
            self._provider.online_write_batch(self._store.config, self._view, rows, None)
        except redis.RedisError as error:
            raise DependencyDown("redis", str(error)) from error


FeastRow = tuple[EntityKey, dict[str, Value], datetime, datetime | None]


def _feast_row(user: int, candidates: Candidates, row_ms: int) -> FeastRow:
    key = EntityKey(join_keys=[USER_INTRADAY.entity], entity_values=[Value(int64_val=user)])
    values = {}
    for column, held in row_of(candidates).items():
        value = Value()
        into = value.string_list_val if column == "query_texts" else value.int64_list_val
        into.SetInParent()  # an empty list is not a null
        into.val.extend(held)
        values[column] = value
    return key, values, datetime.fromtimestamp(row_ms / 1000, UTC), None
