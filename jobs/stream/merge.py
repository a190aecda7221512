"""Law 2 on one user's real-time sequences: what the online row of `user_intraday` holds.

The state is a function of the set of messages and the clock alone: of the last four UTC days, the
newest 150 clicks and 20 queries that have happened by now, and every one that a client's fast
clock put into the coming minutes. So any order, duplication or replay ends in the same row.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pagoda.forgotten import Forgotten
from pagoda.sequences import EMPTY_ITEMS, EMPTY_QUERIES, Sequence, items, merge, queries
from pagoda.windows import DAY_MS, Candidates, WindowSpec, start_of_day


@dataclass(frozen=True, kw_only=True)
class Arrivals:
    """One user's new messages, in any order.

    Attributes:
        clicks: (ts, event key, item key).
        queries: (ts, search key, text).
    """

    clicks: list[tuple[int, int, int]] = field(default_factory=list)
    queries: list[tuple[int, int, str]] = field(default_factory=list)

    def candidates(self) -> Candidates:
        """The same as sequences."""
        return Candidates(
            clicks=items(*np.array(self.clicks, np.int64).T) if self.clicks else EMPTY_ITEMS,
            queries=queries(*zip(*self.queries, strict=True)) if self.queries else EMPTY_QUERIES,
        )


def advance(stored: Candidates, new: Candidates, *, now_ms: int, spec: WindowSpec) -> Candidates:
    """The state after `new` arrived: what the online row of `user_intraday` holds."""
    first_ms = start_of_day(now_ms) - spec.batch_delay_days * DAY_MS
    return Candidates(
        clicks=_keep(merge(stored.clicks, new.clicks, limit=None), first_ms, now_ms, spec.clicks),
        queries=_keep(
            merge(stored.queries, new.queries, limit=None), first_ms, now_ms, spec.queries
        ),
    )


def remembered(forgotten: Forgotten, user: int, candidates: Candidates) -> Candidates:
    """Without what the user asked to be forgotten."""
    until_ms = forgotten.until_ms.get(user)
    if until_ms is None:
        return candidates
    clicks, asked = candidates.clicks, candidates.queries
    return Candidates(
        clicks=clicks.where(clicks.ts >= until_ms), queries=asked.where(asked.ts >= until_ms)
    )


def equal(left: Candidates, right: Candidates) -> bool:
    """Whether rows of both would hold the same."""
    return left.clicks == right.clicks and left.queries == right.queries


def _keep(sequence: Sequence, first_ms: int, now_ms: int, limit: int) -> Sequence:
    """Events since `first_ms`: the newest `limit` of those up to now, and all that lie ahead.

    Were those ahead counted, an event from a fast clock would push out one that a request of
    this moment must see.
    """
    first, ahead = sequence.ts.searchsorted([first_ms, now_ms + 1]).tolist()
    start = max(first, ahead - limit)
    return sequence.where(slice(start, None)) if start > 0 else sequence


def changed_columns(before: Candidates | None, after: Candidates) -> dict[str, list[Any]]:
    """The columns of `user_intraday` that change; all of them without a row before."""
    clicks, asked = after.clicks, after.queries
    columns = {}
    if before is None or before.clicks != clicks:
        columns["click_ts"] = clicks.ts.tolist()
        columns["click_events"] = clicks.event.tolist()
        columns["click_items"] = clicks.value.tolist()
    if before is None or before.queries != asked:
        columns["query_ts"] = asked.ts.tolist()
        columns["query_events"] = asked.event.tolist()
        columns["query_texts"] = asked.value.tolist()
    return columns
