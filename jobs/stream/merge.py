"""Law 2 on one user's real-time sequences: what the online row of `user_intraday` holds.

The state is a function of the set of messages and the clock alone: of the last four UTC days, the
newest 150 clicks and 20 queries that have happened by now, and every one that a client's fast
clock put into the coming minutes. So any order, duplication or replay ends in the same row, as
long as the clock does not go back: what was cut away by then does not return.

Some hundred users are done at once: their events are laid end to end, so that one sort orders all
of them. A call for each would cost more than what it does.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from pagoda.forgotten import Forgotten
from pagoda.sequences import EMPTY_ITEMS, EMPTY_QUERIES, Int64s, Sequence
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


@dataclass(frozen=True, kw_only=True, eq=False)
class Flat:
    """Sequences of some users, end to end.

    Attributes:
        user: whose an event is, the users' numbers, int64 [N].
        ts, event, value: as in `pagoda.sequences.Sequence`, [N].
    """

    user: Int64s
    ts: Int64s
    event: Int64s
    value: npt.NDArray[Any]

    @staticmethod
    def of(sequences: list[Sequence], empty: Sequence) -> Flat:
        """The n-th is the n-th user's; `empty` says what values are."""
        parts = [empty, *sequences]
        return Flat(
            user=np.repeat(np.arange(len(sequences)), [len(each) for each in sequences]),
            ts=np.concatenate([each.ts for each in parts]),
            event=np.concatenate([each.event for each in parts]),
            value=np.concatenate([each.value for each in parts]),
        )

    @staticmethod
    def arrived(happened: list[list[tuple[int, int, Any]]], empty: Sequence) -> Flat:
        """(ts, event, value) of each user, in any order."""
        each = list(chain.from_iterable(happened))
        return Flat(
            user=np.repeat(np.arange(len(happened)), [len(of_user) for of_user in happened]),
            ts=np.array([ts for ts, _, _ in each], np.int64),
            event=np.array([event for _, event, _ in each], np.int64),
            value=np.array([value for _, _, value in each], empty.value.dtype),
        )

    def take(self, rows: npt.NDArray[Any]) -> Flat:
        """The events of a mask or of these places."""
        return Flat(
            user=self.user[rows], ts=self.ts[rows], event=self.event[rows], value=self.value[rows]
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class News:
    """What is new of some users: their clicks and their queries."""

    clicks: Flat
    queries: Flat

    @staticmethod
    def of(arrivals: list[Arrivals]) -> News:
        """The n-th is the n-th user's."""
        return News(
            clicks=Flat.arrived([each.clicks for each in arrivals], EMPTY_ITEMS),
            queries=Flat.arrived([each.queries for each in arrivals], EMPTY_QUERIES),
        )

    @staticmethod
    def known(candidates: list[Candidates]) -> News:
        """The same of what is in order already."""
        return News(
            clicks=Flat.of([each.clicks for each in candidates], EMPTY_ITEMS),
            queries=Flat.of([each.queries for each in candidates], EMPTY_QUERIES),
        )


def advance_all(
    stored: list[Candidates], new: News, *, now_ms: int, spec: WindowSpec
) -> list[Candidates]:
    """Each user's state after `new` arrived: what the online row of `user_intraday` holds.

    A sequence that stays as it was is returned itself.
    """
    first_ms = start_of_day(now_ms) - spec.batch_delay_days * DAY_MS
    kept = partial(_kept, first_ms=first_ms, now_ms=now_ms)
    clicks = kept([each.clicks for each in stored], new.clicks, EMPTY_ITEMS, limit=spec.clicks)
    queries = kept(
        [each.queries for each in stored], new.queries, EMPTY_QUERIES, limit=spec.queries
    )
    return [
        Candidates(clicks=clicked, queries=asked)
        for clicked, asked in zip(clicks, queries, strict=True)
    ]


def advance(stored: Candidates, new: Candidates, *, now_ms: int, spec: WindowSpec) -> Candidates:
    """`advance_all` of one user."""
    (after,) = advance_all([stored], News.known([new]), now_ms=now_ms, spec=spec)
    return after


def _kept(
    before: list[Sequence], new: Flat, empty: Sequence, *, first_ms: int, now_ms: int, limit: int
) -> list[Sequence]:
    """Of each user the distinct events since `first_ms`, of equal (ts, event) the larger value:
    the newest `limit` of those up to now, and all that lie ahead.

    Were those ahead counted, an event from a fast clock would push out one that a request of
    this moment must see.
    """
    stored = Flat.of(before, empty)
    both = Flat(
        user=np.concatenate([new.user, stored.user]),
        ts=np.concatenate([new.ts, stored.ts]),
        event=np.concatenate([new.event, stored.event]),
        value=np.concatenate([new.value, stored.value]),
    )
    # A stable sort: of what is new and stored alike, the stored one comes last, and stays.
    order = np.lexsort((both.value, both.event, both.ts, both.user))
    each = both.take(order)
    last = np.ones(len(order), dtype=bool)
    last[:-1] = (
        (each.user[1:] != each.user[:-1])
        | (each.ts[1:] != each.ts[:-1])
        | (each.event[1:] != each.event[:-1])
    )
    each, is_new = each.take(last), (order < len(new.ts))[last]

    users = len(before)
    bounds = each.user.searchsorted(np.arange(users + 1))
    old = np.bincount(each.user[each.ts < first_ms], minlength=users)
    happened = np.bincount(each.user[each.ts <= now_ms], minlength=users)
    starts, ends = bounds[:-1] + np.maximum(old, happened - limit), bounds[1:]
    news = np.concatenate([[0], is_new.cumsum()])
    came = news[ends] - news[starts]
    went = np.bincount(stored.user, minlength=users) - (ends - starts - came)
    return [
        Sequence(ts=each.ts[start:end], event=each.event[start:end], value=each.value[start:end])
        if changed
        else sequence
        for sequence, start, end, changed in zip(
            before, starts.tolist(), ends.tolist(), ((came > 0) | (went > 0)).tolist(), strict=True
        )
    ]


def remembered(forgotten: Forgotten, user: int, arrivals: Arrivals) -> Arrivals:
    """Without what the user asked to be forgotten."""
    until_ms = forgotten.until_ms.get(user)
    if until_ms is None:
        return arrivals
    return Arrivals(
        clicks=[each for each in arrivals.clicks if each[0] >= until_ms],
        queries=[each for each in arrivals.queries if each[0] >= until_ms],
    )


def equal(left: Candidates, right: Candidates) -> bool:
    """Whether rows of both would hold the same."""
    return left.clicks == right.clicks and left.queries == right.queries


def changed_columns(before: Candidates | None, after: Candidates) -> dict[str, npt.NDArray[Any]]:
    """The columns of `user_intraday` that change; all of them without a row before."""
    clicks, asked = after.clicks, after.queries
    columns: dict[str, npt.NDArray[Any]] = {}
    if before is None or before.clicks != clicks:
        columns["click_ts"] = clicks.ts
        columns["click_events"] = clicks.event
        columns["click_items"] = clicks.value
    if before is None or before.queries != asked:
        columns["query_ts"] = asked.ts
        columns["query_events"] = asked.event
        columns["query_texts"] = asked.value
    return columns
