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
    return per_user(history, USER_INTRADAY, partial(of_user, days=days, spec=spec))


def of_user(
    user_key: int, history: History, *, days: Int64s, spec: WindowSpec
) -> Iterator[pa.RecordBatch]:
    """The rows of one user, all versions."""
    seen = history.where((history.role & (CLICK | QUERY)) != 0)
    if not len(seen):
        return
    times, first = np.unique(seen.ts, return_index=True)
    stops = np.append(first[1:], len(seen))
    first_known = np.minimum.reduceat(seen.ingested, first)
    # Where nothing before came in later, the first version is the only one.
    all_known = np.maximum.accumulate(seen.ingested)[stops - 1]
    wanted = np.isin(_midnight(times), days)
    plain = times[wanted & (all_known <= first_known)]
    for begin in range(0, len(plain), _CHUNK_ROWS):
        yield _rows(user_key, seen, plain[begin : begin + _CHUNK_ROWS], spec)
    for number in np.flatnonzero(wanted & (all_known > first_known)):
        time = times[number : number + 1]
        begin = int(seen.ts.searchsorted(_midnight(time))[0])
        so_far = seen.where(slice(begin, int(stops[number])))
        moments = np.unique(so_far.ingested[so_far.ingested >= first_known[number]])
        for moment in moments.tolist():
            yield changed_at(moment, _rows(user_key, so_far.known_by(moment), time, spec))


def _rows(user_key: int, history: History, times: Int64s, spec: WindowSpec) -> pa.RecordBatch:
    clicks = _newest(history, CLICK, times, spec.clicks)
    queries = _newest(history, QUERY, times, spec.queries)
    created = np.maximum(
        clicks.maxima(history.ingested, empty=EMPTY), queries.maxima(history.ingested, empty=EMPTY)
    )
    columns = item_lists("click", history, clicks) | query_lists(history, queries)
    return batch(USER_INTRADAY, user_key, at_ms=times, created_ms=created, columns=columns)


def _newest(history: History, role: int, times: Int64s, limit: int) -> Ragged:
    positions = history.positions(role)
    ts = history.ts[positions]
    stops = ts.searchsorted(times, side="right")
    starts = np.maximum(ts.searchsorted(_midnight(times)), stops - limit)
    taken = Ragged.of_ranges(starts, stops)
    return Ragged(index=positions[taken.index], lengths=taken.lengths)


def _midnight(times: Int64s) -> Int64s:
    return times - times % DAY_MS
