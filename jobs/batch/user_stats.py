"""user_stats: counts of a user's clicks, buys and searches over the days before D."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyspark.sql import DataFrame

from jobs.batch.history import BUY, CLICK, QUERY, History
from jobs.batch.ragged import Ragged
from jobs.batch.rows import EMPTY, batch, day_versions, per_user
from pagoda.features import USER_STATS
from pagoda.sequences import Int64s
from pagoda.windows import DAY_MS

WEEK, MONTH = 7, 30


def build(history: DataFrame, *, days: Int64s) -> DataFrame:
    """The rows of `days` (midnights, epoch milliseconds) from `history.read`'s events.

    Items, active days and the mean price are of clicks and buys, active days of searches too. The
    price is the catalogue's when the row is built: the lake keeps no earlier prices.
    """
    return per_user(history, USER_STATS, partial(of_user, days=days))


def of_user(user_key: int, history: History, *, days: Int64s) -> Iterator[pa.RecordBatch]:
    """The rows of one user, all versions."""
    counted = history.where((history.role & (CLICK | BUY | QUERY)) != 0)
    yield from day_versions(counted, days, span_days=MONTH, rows=partial(_rows, user_key))


def _rows(user_key: int, history: History, days: Int64s) -> pa.RecordBatch:
    stops = history.ts.searchsorted(days)
    month = history.ts.searchsorted(days - MONTH * DAY_MS)
    week = history.ts.searchsorted(days - WEEK * DAY_MS)
    day = history.ts // DAY_MS
    columns = {
        "clicks_7d": _count(history.role & CLICK, week, stops),
        "clicks_30d": _count(history.role & CLICK, month, stops),
        "buys_30d": _count(history.role & BUY, month, stops),
        "searches_30d": _count(history.role & QUERY, month, stops),
        "distinct_items_30d": _distinct_items(history, month, stops),
        "active_days_30d": _count(np.diff(day, prepend=-1), month, stops),
        "mean_price_30d": _mean_price(history, month, stops),
    }
    created = Ragged.of_ranges(month, stops).maxima(history.ingested, empty=EMPTY)
    return batch(USER_STATS, user_key, at_ms=days, created_ms=created, columns=columns)


def _count(flags: npt.NDArray[Any], starts: Int64s, stops: Int64s) -> pa.Array:
    """How many are set in each window."""
    before = np.concatenate([[0], np.cumsum(flags != 0)])
    return pa.array(before[stops] - before[starts])


def _distinct_items(history: History, starts: Int64s, stops: Int64s) -> pa.Array:
    touched = history.positions(CLICK | BUY)
    by_item = touched[np.argsort(history.item[touched], kind="stable")]
    # Where an event's item was touched before: it counts in windows that begin after that.
    before = np.full(len(history), len(history))
    again = history.item[by_item[1:]] == history.item[by_item[:-1]]
    before[by_item] = np.concatenate([[-1], np.where(again, by_item[:-1], -1)])[: len(by_item)]
    return pa.array(
        [
            int(np.count_nonzero(before[start:stop] < start))
            for start, stop in zip(starts.tolist(), stops.tolist(), strict=True)
        ],
        pa.int64(),
    )


def _mean_price(history: History, starts: Int64s, stops: Int64s) -> pa.Array:
    priced = np.flatnonzero(((history.role & (CLICK | BUY)) != 0) & ~np.isnan(history.price))
    prices = history.price[priced]
    # From each window's own prices, not from running sums: those would differ in the last bits
    # with the range of days, and a rerun must not.
    windows = zip(priced.searchsorted(starts), priced.searchsorted(stops), strict=True)
    means = [prices[start:stop].mean() if stop > start else None for start, stop in windows]
    return pa.array(means, pa.float64())
