"""user_items: which items a user had on the days before D, how often, and when last.

`pagoda.features.OWNED` says how many days and items. A row's `created` is of all events it looks
at, also of those whose items do not find room: they have decided on the others.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame

from jobs.batch.history import History, role_of
from jobs.batch.ragged import Ragged
from jobs.batch.rows import EMPTY, batch, day_versions, per_user
from pagoda.features import OWNED, USER_ITEMS
from pagoda.owned import OWNING, OwnedSpec
from pagoda.sequences import Int64s
from pagoda.windows import DAY_MS


def build(history: DataFrame, *, days: Int64s, spec: OwnedSpec = OWNED) -> DataFrame:
    """The rows of `days` (midnights, epoch milliseconds) from `history.read`'s events, which must
    reach back `spec.days` before the first.
    """
    return per_user(history, USER_ITEMS, partial(of_user, days=days, spec=spec))


def of_user(
    user_key: int, history: History, *, days: Int64s, spec: OwnedSpec = OWNED
) -> Iterator[pa.RecordBatch]:
    """The rows of one user, all versions."""
    owning = history.where((history.role & role_of(OWNING)) != 0)
    rows = partial(_rows, user_key, spec)
    yield from day_versions(owning, days, span_days=spec.days, rows=rows)


def _rows(user_key: int, spec: OwnedSpec, history: History, days: Int64s) -> pa.RecordBatch:
    """Shape legend: I distinct items of the history."""
    starts = history.ts.searchsorted(days - spec.days * DAY_MS)
    stops = history.ts.searchsorted(days)
    item_I, number = np.unique(history.item, return_inverse=True)
    lists: list[tuple[Int64s, Int64s, Int64s]] = []
    for start, stop in zip(starts.tolist(), stops.tolist(), strict=True):
        inside = number[start:stop]
        times_I = np.bincount(inside, minlength=len(item_I))
        last_I = np.zeros(len(item_I), np.int64)
        last_I[inside] = history.ts[start:stop]  # ascending: an item's last one stays
        order = np.lexsort((item_I, -last_I, -times_I))
        kept = order[: min(np.count_nonzero(times_I), spec.most)]
        lists.append((item_I[kept], times_I[kept], last_I[kept]))
    offsets = np.cumsum([0] + [len(items) for items, _, _ in lists])
    columns = {
        name: pa.ListArray.from_arrays(offsets, np.concatenate(values))
        for name, values in zip(USER_ITEMS.columns, zip(*lists, strict=True), strict=True)
    }
    created = Ragged.of_ranges(starts, stops).maxima(history.ingested, empty=EMPTY)
    return batch(USER_ITEMS, user_key, at_ms=days, created_ms=created, columns=columns)
