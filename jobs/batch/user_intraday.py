"""user_intraday, offline: a user's clicks and queries of the day so far, at each of its events.

Row (user, e) of a distinct event time e holds that UTC day's newest clicks and queries with
ts <= e. Version v of it holds those of them known by v; the first version's v is when an event at
e was first known.

Why the as-of pick is right: a reader at moment t takes the newest e, then the newest version, of
rows with e < t and v < t. Let K be the events it may see (ts < t, ingested < t) of the newest day
that has any, and e* the newest time in K. Some event at e* is in K, so row e* has a version before
t. No later row has one: its first version appears with the first event at its time, which is
not in K. Of row e* the newest version before t holds exactly K: all of K has ts <= e*, and each
moment at which K grew made a version, unless it left the row as it was.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame

from jobs.batch.history import CLICK, QUERY, History
from jobs.batch.ragged import Ragged
from jobs.batch.rows import EMPTY, batch, changed_at, item_lists, per_user, query_lists
from pagoda.features import USER_INTRADAY
from pagoda.sequences import Int64s
from pagoda.windows import DAY_MS, WindowSpec

_CHUNK_ROWS = 256


def build(history: DataFrame, *, days: Int64s, spec: WindowSpec) -> DataFrame:
    """The rows of `days` (midnights, epoch milliseconds) from `history.read`'s events."""
    return per_user(history, USER_INTRADAY, partial(_of_user, days=days, spec=spec))


def _of_user(
    user_key: int, history: History, *, days: Int64s, spec: WindowSpec
) -> Iterator[pa.RecordBatch]:
    seen = history.where((history.role & (CLICK | QUERY)) != 0)
    day = seen.ts - seen.ts % DAY_MS
    rows = partial(_rows, user_key, spec=spec)
    for each in np.intersect1d(day, days):
        first, last = day.searchsorted([each, each + DAY_MS])
        yield from _of_day(seen.where(slice(int(first), int(last))), rows)


def _of_day(history: History, rows: partial[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    times, first = np.unique(history.ts, return_index=True)
    stops = np.append(first[1:], len(history))
    first_known = np.minimum.reduceat(history.ingested, first)
    all_known = np.maximum.accumulate(history.ingested)[stops - 1]
    in_order = all_known <= first_known
    plain = times[in_order]
    for begin in range(0, len(plain), _CHUNK_ROWS):
        yield rows(history, plain[begin : begin + _CHUNK_ROWS])
    for number in np.flatnonzero(~in_order):
        known = history.ingested[: stops[number]]
        for moment in np.unique(known[known >= first_known[number]]).tolist():
            version = rows(history.known_by(moment), times[number : number + 1])
            yield changed_at(moment, version)


def _rows(user_key: int, history: History, times: Int64s, *, spec: WindowSpec) -> pa.RecordBatch:
    clicks = _newest(history, CLICK, times, spec.clicks)
    queries = _newest(history, QUERY, times, spec.queries)
    created = np.maximum(
        clicks.maxima(history.ingested, empty=EMPTY), queries.maxima(history.ingested, empty=EMPTY)
    )
    columns = item_lists("click", history, clicks) | query_lists(history, queries)
    return batch(USER_INTRADAY, user_key, at_ms=times, created_ms=created, columns=columns)


def _newest(history: History, role: int, times: Int64s, limit: int) -> Ragged:
    positions = history.positions(role)
    stops = history.ts[positions].searchsorted(times, side="right")
    taken = Ragged.of_ranges(np.maximum(stops - limit, 0), stops)
    return Ragged(index=positions[taken.index], lengths=taken.lengths)
