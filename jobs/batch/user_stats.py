"""user_stats: a user's statistics over the days before D, as `pagoda.features` declares them.

A new statistic of an aggregation that is here is a line there; a new aggregation is one here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame

from jobs.batch.history import History, role_of
from jobs.batch.ragged import Ragged
from jobs.batch.rows import EMPTY, batch, day_versions, per_user
from pagoda.features import USER_STATS, View
from pagoda.sequences import Int64s
from pagoda.statistics import Aggregation
from pagoda.windows import DAY_MS


def build(history: DataFrame, *, days: Int64s, view: View = USER_STATS) -> DataFrame:
    """The rows of `days` (midnights, epoch milliseconds) from `history.read`'s events, which must
    reach back as far as the longest statistic.

    A price is the catalogue's when the row is built: the lake keeps no earlier prices.
    """
    return per_user(history, view, partial(of_user, days=days, view=view))


def of_user(
    user_key: int, history: History, *, days: Int64s, view: View = USER_STATS
) -> Iterator[pa.RecordBatch]:
    """The rows of one user, all versions."""
    counted = history.where((history.role & role_of(view.kinds)) != 0)
    rows = partial(_rows, user_key, view)
    yield from day_versions(counted, days, span_days=view.reach_days, rows=rows)


def _rows(user_key: int, view: View, history: History, days: Int64s) -> pa.RecordBatch:
    stops = history.ts.searchsorted(days)
    columns = {
        name: AGGREGATIONS[each.aggregation](
            history,
            role_of(each.of),
            history.ts.searchsorted(days - each.days * DAY_MS),
            stops,
        )
        for name, each in view.statistics.items()
    }
    span = history.ts.searchsorted(days - view.reach_days * DAY_MS)
    created = Ragged.of_ranges(span, stops).maxima(history.ingested, empty=EMPTY)
    return batch(view, user_key, at_ms=days, created_ms=created, columns=columns)


def _count(history: History, role: int, starts: Int64s, stops: Int64s) -> pa.Array:
    return _inside(history.positions(role), starts, stops)


def _active_days(history: History, role: int, starts: Int64s, stops: Int64s) -> pa.Array:
    acted = history.positions(role)
    # Windows begin at midnight: a day is in one if its first event is.
    _, first_of_day = np.unique(history.ts[acted] // DAY_MS, return_index=True)
    return _inside(acted[first_of_day], starts, stops)


def _inside(positions: Int64s, starts: Int64s, stops: Int64s) -> pa.Array:
    """How many of these positions lie in each window."""
    return pa.array(positions.searchsorted(stops) - positions.searchsorted(starts))


def _distinct_items(history: History, role: int, starts: Int64s, stops: Int64s) -> pa.Array:
    touched = history.positions(role)
    by_item = touched[np.argsort(history.item[touched], kind="stable")]
    # Where an event's item was touched before: it counts in windows that begin after that.
    before = np.full(len(history), len(history))
    again = history.item[by_item[1:]] == history.item[by_item[:-1]]
    before[by_item] = np.concatenate([[-1], np.where(again, by_item[:-1], -1)])[: len(by_item)]
    return pa.array(
        [
            int(np.count_nonzero(before[start:stop] < start))
            for start, stop in zip(starts.tolist(), stops.tolist(), strict=True)
        ]
    )


def _mean_price(history: History, role: int, starts: Int64s, stops: Int64s) -> pa.Array:
    priced = np.flatnonzero(((history.role & role) != 0) & ~np.isnan(history.price))
    prices = history.price[priced]
    # From each window's own prices, not from running sums: those would differ in the last bits
    # with the range of days, and a rerun must not.
    windows = zip(priced.searchsorted(starts), priced.searchsorted(stops), strict=True)
    means = [prices[start:stop].mean() if stop > start else None for start, stop in windows]
    return pa.array(means)


# (history, role, where each day's window starts and stops in the history) -> a value a day
Compute = Callable[[History, int, Int64s, Int64s], pa.Array]
AGGREGATIONS: Mapping[Aggregation, Compute] = {
    "count": _count,
    "active_days": _active_days,
    "distinct_items": _distinct_items,
    "mean_price": _mean_price,
}
