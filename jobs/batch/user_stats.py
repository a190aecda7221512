"""user_stats: counts of a user's clicks, buys and searches over the days before D."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
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
    return per_user(history, USER_STATS, partial(_of_user, days=days))


def _of_user(user_key: int, history: History, *, days: Int64s) -> Iterator[pa.RecordBatch]:
    counted = history.where((history.role & (CLICK | BUY | QUERY)) != 0)
    yield from day_versions(counted, days, span_days=MONTH, rows=partial(_rows, user_key))


def _rows(user_key: int, history: History, days: Int64s) -> pa.RecordBatch:
    stops = history.ts.searchsorted(days)
    month = history.ts.searchsorted(days - MONTH * DAY_MS)
    week = history.ts.searchsorted(days - WEEK * DAY_MS)
    touched = [_items_touched(history, *ends) for ends in zip(month, stops, strict=True)]
    columns = {
        "clicks_7d": _count(history, CLICK, week, stops),
        "clicks_30d": _count(history, CLICK, month, stops),
        "buys_30d": _count(history, BUY, month, stops),
        "searches_30d": _count(history, QUERY, month, stops),
        "distinct_items_30d": pa.array([items for items, _ in touched], pa.int64()),
        "active_days_30d": pa.array(
            [
                len(np.unique(history.ts[first:last] // DAY_MS))
                for first, last in zip(month, stops, strict=True)
            ],
            pa.int64(),
        ),
        "mean_price_30d": pa.array([price for _, price in touched], pa.float64()),
    }
    created = Ragged.of_ranges(month, stops).maxima(history.ingested, empty=EMPTY)
    return batch(USER_STATS, user_key, at_ms=days, created_ms=created, columns=columns)


def _count(history: History, role: int, starts: Int64s, stops: Int64s) -> pa.Array:
    before = np.concatenate([[0], np.cumsum((history.role & role) != 0)])
    return pa.array(before[stops] - before[starts])


def _items_touched(history: History, first: int, last: int) -> tuple[int, float | None]:
    """Distinct items clicked or bought, and the mean price of those clicks and buys."""
    touched = (history.role[first:last] & (CLICK | BUY)) != 0
    prices = history.price[first:last][touched]
    prices = prices[~np.isnan(prices)]
    distinct = len(np.unique(history.item[first:last][touched]))
    return distinct, float(prices.mean()) if len(prices) else None
