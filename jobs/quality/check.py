"""Freshness and quality of every view: `check` looks, `judge` holds it against the limits.

    feature tables -> counts of this week and of the reference week -> rates, quantiles, drift
    Redis          -> the newest rows, nulls and lengths online
    Kafka          -> what waits for its readers

What cannot be asked is a finding like any other, and the rest is still looked at.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Literal, TypeVar

import polars as pl

from jobs.quality import counts, online, streams
from jobs.quality.counts import EMPTY, Measure
from jobs.quality.distribution import Distribution, psi
from jobs.quality.newest import newest_ms
from jobs.quality.online import OnlineView
from jobs.quality.streams import Backlog
from pagoda.errors import DependencyDown
from pagoda.features import VIEWS, View
from pagoda.schemas import EVENTS, SEARCHES
from pagoda.settings import Settings

WEEK = timedelta(days=6)  # from its first to its last day
_HOUR_MS = 3_600_000
Level = Literal["fail", "warn"]
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Weeks:
    """The seven UTC days up to today, and those they are held against."""

    first: date
    last: date
    reference_first: date
    reference_last: date

    @staticmethod
    def until(today: date, reference_from: date | None) -> Weeks:
        """The reference is the week before unless it is given."""
        first = today - WEEK
        reference = reference_from or first - WEEK - timedelta(days=1)
        return Weeks(
            first=first, last=today, reference_first=reference, reference_last=reference + WEEK
        )

    def spans(self, view: View) -> tuple[tuple[date, date], tuple[date, date]]:
        """The days whose rows are this week's, and those of the reference week.

        Rows that stay valid count from the beginning: what could be read at each week's end.
        """
        stays = view.ttl_days is None
        return (
            (date.min if stays else self.first, self.last),
            (date.min if stays else self.reference_first, self.reference_last),
        )


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column: this week, the reference week, and online.

    Attributes:
        psi: drift against the reference week; None where a week has no rows.
    """

    name: str
    measure: Measure
    current: Distribution
    reference: Distribution
    online: Distribution | None
    psi: float | None

    def empty_rate(self, held: Distribution | None) -> float | None:
        """Share of rows with an empty list or text; None for numbers and without rows."""
        return held.share(EMPTY[self.measure]) if held and self.measure in EMPTY else None


@dataclass(frozen=True, kw_only=True)
class ViewFound:
    """One view, offline and online.

    Attributes:
        newest_ms, created_ms: the newest row's time, and the newest version's, None without rows.
        behind_h: how much older the newest row of the stream's view is than the newest event in
            the lake; None for other views.
        ragged: sequence to rows of this week whose lists differ in length.
        counted: rows per day, column and value, see `counts.count`.
        online: None if Redis was not there.
    """

    view: View
    newest_ms: int | None
    created_ms: int | None
    behind_h: float | None
    columns: list[Column]
    ragged: Mapping[str, int]
    counted: pl.DataFrame
    online: OnlineView | None

    @property
    def rows(self) -> int:
        """Rows of this week."""
        return self.columns[0].current.total

    def subjects(self) -> Iterator[tuple[str, list[Column]]]:
        """A sequence's parallel lists together under its name, every other column alone."""
        by_name = {column.name: column for column in self.columns}
        for name, lists in counts.sequences(self.view).items():
            yield name, [by_name.pop(column) for column in lists]
        for column in by_name.values():
            yield column.name, [column]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something that a limit says is wrong."""

    level: Level
    where: str
    what: str
    found: str
    limit: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}: {self.found} (limit {self.limit})"


@dataclass(frozen=True, kw_only=True)
class Report:
    """All that was looked at.

    Attributes:
        newest_event_ms: in the lake, None without any.
        unreachable: server to why it could not be asked.
    """

    at: datetime
    weeks: Weeks
    views: list[ViewFound]
    newest_event_ms: int | None
    backlogs: list[Backlog]
    unreachable: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    def age_h(self, ms: int | None) -> float | None:
        """Hours from a time to the moment of the check."""
        return None if ms is None else (self.at.timestamp() * 1000 - ms) / _HOUR_MS


def check(settings: Settings, *, at: datetime | None = None, say: Callable[[str], None]) -> Report:
    """Look at every view, at the readers of Kafka, and at the lake's newest event.

    Args:
        at: the clock, for tests; say: told what happens next.
    """
    started = time.monotonic()
    at = at or datetime.now(UTC)
    now_ms = int(at.timestamp() * 1000)
    unreachable: dict[str, str] = {}

    def ask(what: Callable[[], T]) -> T | None:
        try:
            return what()
        except DependencyDown as error:
            unreachable[error.name] = str(error)
            return None

    say("looking at the online store")
    found = ask(lambda: online.look(settings, now_ms=now_ms)) or {}
    say("asking Kafka what waits")
    backlogs = ask(lambda: streams.backlogs(settings, now_ms=now_ms)) or []
    weeks = Weeks.until(at.date(), settings.quality.reference_from)
    times = [newest_ms(settings, table, "ts") for table in (EVENTS, SEARCHES)]
    newest_event_ms = max((each for each in times if each is not None), default=None)
    views = []
    for view in VIEWS:
        say(f"counting {view.name}")
        views.append(_view(settings, view, weeks, newest_event_ms, found.get(view.name)))
    return Report(
        at=at,
        weeks=weeks,
        views=views,
        newest_event_ms=newest_event_ms,
        backlogs=backlogs,
        unreachable=unreachable,
        seconds=round(time.monotonic() - started, 1),
    )


def _view(
    settings: Settings,
    view: View,
    weeks: Weeks,
    newest_event_ms: int | None,
    seen: OnlineView | None,
) -> ViewFound:
    this_week, reference_week = weeks.spans(view)
    counted = counts.count(settings, view, (this_week, reference_week))
    newest = newest_ms(settings, view.table, "event_timestamp")
    behind_h = None
    if view.online_writer == "stream" and newest_event_ms is not None and newest is not None:
        behind_h = max(newest_event_ms - newest, 0) / _HOUR_MS
    columns = []
    for name, kind in view.columns.items():
        by = counts.measure(kind)
        current, reference = (
            counts.distribution(counted, name, first=first, last=last)
            for first, last in (this_week, reference_week)
        )
        columns.append(
            Column(
                name=name,
                measure=by,
                current=current,
                reference=reference,
                online=seen.columns.get(name) if seen else None,
                psi=psi(reference, current, kinds=by == "kind"),
            )
        )
    first, last = this_week
    return ViewFound(
        view=view,
        newest_ms=newest,
        created_ms=newest_ms(settings, view.table, "created"),
        behind_h=behind_h,
        columns=columns,
        ragged={
            name: counts.ragged_rows(counted, name, first=first, last=last)
            for name in counts.sequences(view)
        },
        counted=counted,
        online=seen,
    )
