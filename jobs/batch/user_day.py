"""user_day: per user and UTC day D, what requests of D and the days after it may see.

    click_*, query_*   newest events of [D - 10 d, D)
    long_<action>_*    for each k = 0..3 the newest events of [D + k - 30 d, D + k - 10 d): a batch
                       that is up to three days late leaves no gap, and all of it is known on D

Candidates carry their times; `pagoda.windows.cut` cuts the windows at the moment of a request.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame

from jobs.batch.history import CLICK, LONG_TERM_ROLES, QUERY, Histories, History
from jobs.batch.ragged import Ragged
from jobs.batch.rows import (
    EMPTY,
    Moments,
    batch,
    day_versions,
    item_lists,
    late_users,
    not_empty,
    per_users,
    query_lists,
)
from pagoda.features import USER_DAY
from pagoda.sequences import Int64s
from pagoda.windows import DAY_MS, WindowSpec

_ROWS = 1024  # at a time, some kilobytes each


def build(history: DataFrame, *, days: Int64s, spec: WindowSpec) -> DataFrame:
    """The rows of `days` (midnights, epoch milliseconds) from `history.read`'s events.

    The history must reach back `recent_days + long_term_days` before the first day.
    """
    return per_users(history, USER_DAY, partial(of_users, days=days, spec=spec))


def of_users(users: Histories, *, days: Int64s, spec: WindowSpec) -> Iterator[pa.RecordBatch]:
    """The rows of some users, all versions.

    Those who have but one version of each row, nearly all, are done together.
    """
    late = late_users(users)
    for number in np.flatnonzero(late).tolist():
        key = int(users.keys[number])
        yield from of_user(key, users.of_user(number), days=days, spec=spec)
    for part in Moments.of_users(users, np.flatnonzero(~late), days).in_parts(_ROWS):
        yield not_empty(_rows(users.history, part, spec))


def of_user(
    user_key: int, history: History, *, days: Int64s, spec: WindowSpec
) -> Iterator[pa.RecordBatch]:
    """The rows of one user, all versions."""
    yield from day_versions(
        history,
        days,
        span_days=spec.recent_days + spec.long_term_days,
        rows=lambda known, at: _rows(known, Moments.of_user(user_key, at), spec),
    )


def _rows(history: History, at: Moments, spec: WindowSpec) -> pa.RecordBatch:
    clicks = _recent(history, history.positions(CLICK), at.line, spec.clicks, spec)
    queries = _recent(history, history.positions(QUERY), at.line, spec.queries, spec)
    long_term = {
        action: _long_term(history, history.positions(role), at.line, spec)
        for action, role in LONG_TERM_ROLES.items()
    }
    created = np.max(
        [
            taken.maxima(history.ingested, empty=EMPTY)
            for taken in (clicks, queries, *long_term.values())
        ],
        axis=0,
    )
    columns = item_lists("click", history, clicks) | query_lists(history, queries)
    for action, taken in long_term.items():
        columns |= item_lists(f"long_{action}", history, taken)
    return batch(USER_DAY, at.user, at_ms=at.at_ms, created_ms=created, columns=columns)


def _recent(
    history: History, positions: Int64s, days: Int64s, limit: int, spec: WindowSpec
) -> Ragged:
    line = history.line[positions]
    stops = line.searchsorted(days)
    starts = np.maximum(line.searchsorted(days - spec.recent_days * DAY_MS), stops - limit)
    return _at(positions, Ragged.of_ranges(starts, stops))


def _long_term(history: History, positions: Int64s, days: Int64s, spec: WindowSpec) -> Ragged:
    line = history.line[positions]
    # [days, delays]: the first moment after the window as a request k days after D sees it
    ends = (days[:, None] + np.arange(spec.stream_days) * DAY_MS) - spec.recent_days * DAY_MS
    stops = line.searchsorted(ends)
    begins = line.searchsorted(ends - spec.long_term_days * DAY_MS)
    starts = np.maximum(begins, stops - spec.long_term)
    # Windows of neighbouring delays overlap: each takes only what those before it have not.
    starts[:, 1:] = np.maximum(starts[:, 1:], stops[:, :-1])
    return _at(positions, Ragged.of_ranges(starts, stops))


def _at(positions: Int64s, taken: Ragged) -> Ragged:
    return Ragged(index=positions[taken.index], lengths=taken.lengths)
