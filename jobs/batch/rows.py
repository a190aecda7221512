"""From one user's history to feature rows: what the per-user views share.

A row's `created` is the largest `ingested` inside it. Rows of a day come in versions, so that a
reader can ask what was known at a moment:

    ingested before D      the base version of row (user, D)
    late, at moment v      one more version, of everything known by v, if v's events change the row

No two versions share `created`: the base's lies before D, the others' are distinct moments.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql.pandas.types import from_arrow_schema

from jobs.batch.history import USER_MS, Histories, History
from jobs.batch.ragged import Ragged
from pagoda.features import View
from pagoda.sequences import Int64s
from pagoda.windows import DAY_MS

EMPTY = -1  # `created` of a row that holds nothing; such rows are dropped
_BATCH_ROWS = 64
_CHUNK_EVENTS = 20_000  # users come together until they have so many

# (history as known at some moment, midnights of days [D]) -> one row a day, in that order
RowsOfDays = Callable[[History, Int64s], pa.RecordBatch]


def per_user(
    history: DataFrame, view: View, rows: Callable[[int, History], Iterator[pa.RecordBatch]]
) -> DataFrame:
    """Apply `rows` (user key, history -> rows of the view) to every user of `history.read`.

    A worker holds one user's history and some rows at a time.
    """

    def of_one_user(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        yield from _joined(rows(*History.of(batches)))

    schema = from_arrow_schema(view.row_schema)
    return history.groupBy("user_key").applyInArrow(of_one_user, schema)


def per_users(
    history: DataFrame, view: View, rows: Callable[[Histories], Iterator[pa.RecordBatch]]
) -> DataFrame:
    """Apply `rows` to all users of `history.read`, some hundred at a time.

    A call for each user would cost more than what it does. A worker holds some users' histories,
    at least one, and some rows at a time.
    """

    def of_partition(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for users in whole_users(batches, events=_CHUNK_EVENTS):
            yield from _joined(rows(Histories.of(users)))

    by_user = history.repartition("user_key").sortWithinPartitions("user_key")
    return by_user.mapInArrow(of_partition, from_arrow_schema(view.row_schema))


def whole_users(batches: Iterable[pa.RecordBatch], *, events: int) -> Iterator[pa.Table]:
    """Rows that are sorted by user, cut between users when there are so many."""
    waiting: list[pa.RecordBatch] = []
    for each in batches:
        waiting.append(each)
        if sum(part.num_rows for part in waiting) < events:
            continue
        table = pa.Table.from_batches(waiting)
        user = table["user_key"].to_numpy()
        last = int(user.searchsorted(user[-1]))
        if last:
            yield table.slice(0, last)
            waiting = table.slice(last).to_batches()
    if waiting:
        yield pa.Table.from_batches(waiting)


@dataclass(frozen=True, kw_only=True, eq=False)
class Moments:
    """The moments that rows are of.

    Attributes:
        user: whose row, int64 [rows].
        at_ms: epoch milliseconds, int64 [rows].
        line: the same on the time line of the history that they look at.
    """

    user: Int64s
    at_ms: Int64s
    line: Int64s

    @staticmethod
    def of_user(user_key: int, at_ms: Int64s) -> Moments:
        """Moments of one user, in a history of that user alone."""
        return Moments(user=np.full(len(at_ms), user_key), at_ms=at_ms, line=at_ms)

    @staticmethod
    def of_users(users: Histories, numbers: Int64s, at_ms: Int64s) -> Moments:
        """All of these moments for each of these users, given by their numbers."""
        number, at = np.repeat(numbers, len(at_ms)), np.tile(at_ms, len(numbers))
        return Moments(user=users.keys[number], at_ms=at, line=number * USER_MS + at)

    def __len__(self) -> int:
        return len(self.at_ms)

    def in_parts(self, size: int) -> Iterator[Moments]:
        """So many at a time."""
        for begin in range(0, len(self), size):
            part = slice(begin, begin + size)
            yield Moments(user=self.user[part], at_ms=self.at_ms[part], line=self.line[part])


def batch(
    view: View,
    entity_key: int | Int64s,
    *,
    at_ms: Int64s,
    created_ms: Int64s,
    columns: Mapping[str, pa.Array],
) -> pa.RecordBatch:
    """Rows of a view at the moments `at_ms`, of one entity or of one each."""
    head = {
        view.entity: pa.array(np.full(len(at_ms), entity_key)),
        "event_timestamp": pa.array(at_ms * 1000),
        "created": pa.array(created_ms * 1000),
        "day": pa.array((at_ms // DAY_MS).astype(np.int32)),
    }
    schema = view.row_schema
    arrays = [({**head, **columns})[name].cast(schema.field(name).type) for name in schema.names]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def item_lists(prefix: str, history: History, taken: Ragged) -> dict[str, pa.Array]:
    """The three columns of an item sequence."""
    return {
        f"{prefix}_ts": taken.lists(history.ts),
        f"{prefix}_events": taken.lists(history.key),
        f"{prefix}_items": taken.lists(history.item),
    }


def query_lists(history: History, taken: Ragged) -> dict[str, pa.Array]:
    """The three columns of a query sequence."""
    return {
        "query_ts": taken.lists(history.ts),
        "query_events": taken.lists(history.key),
        "query_texts": taken.lists(history.query),
    }


def day_versions(
    history: History, days: Int64s, *, span_days: int, rows: RowsOfDays
) -> Iterator[pa.RecordBatch]:
    """All versions of a user's rows of some days (midnights, epoch milliseconds).

    `span_days` is how far before its day a row looks. Where everything in that span was known
    before the day began - nearly always - there is one version and days go together.
    """
    late = _late_moments(history, days, span_days=span_days)
    plain = days[[day not in late for day in days.tolist()]]
    for begin in range(0, len(plain), _BATCH_ROWS):
        yield not_empty(rows(history, plain[begin : begin + _BATCH_ROWS]))
    for day, moments in late.items():
        one_day = np.array([day])
        yield not_empty(rows(history.known_by(day - 1), one_day))
        for moment in moments:
            yield changed_at(moment, rows(history.known_by(moment), one_day))


def late_users(users: Histories) -> npt.NDArray[np.bool_]:
    """Who has events that became known after their day: their rows may have versions."""
    return users.any_of(_late(users.history))


def _late(history: History) -> npt.NDArray[np.bool_]:
    late: npt.NDArray[np.bool_] = history.ingested // DAY_MS > history.ts // DAY_MS
    return late


def _late_moments(history: History, days: Int64s, *, span_days: int) -> dict[int, list[int]]:
    """For each day on which events of its span were still unknown: when they became known."""
    late = history.where(_late(history))
    moments = {}
    for day in days.tolist() if len(late) else ():
        inside = (late.ts < day) & (late.ts >= day - span_days * DAY_MS) & (late.ingested >= day)
        if inside.any():
            moments[day] = np.unique(late.ingested[inside]).tolist()
    return moments


def not_empty(rows: pa.RecordBatch) -> pa.RecordBatch:
    """Without the rows that hold nothing."""
    return rows.filter(_created_ms(rows) != EMPTY)


def changed_at(moment_ms: int, rows: pa.RecordBatch) -> pa.RecordBatch:
    """Only the rows that events ingested at this very moment entered: the others are as before."""
    return rows.filter(_created_ms(rows) == moment_ms)


def _created_ms(rows: pa.RecordBatch) -> Int64s:
    created: Int64s = rows["created"].cast(pa.int64()).to_numpy()
    return created // 1000


def _joined(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The same rows in fewer batches: late versions come one by one."""
    waiting: list[pa.RecordBatch] = []
    for each in batches:
        waiting.append(each)
        if sum(part.num_rows for part in waiting) >= _BATCH_ROWS:
            yield pa.concat_batches(waiting)
            waiting = []
    if waiting:
        yield pa.concat_batches(waiting)
