"""Which days of which views need building: the rule, apart from Spark and the lake.

A row of day D looks at the events of some days. When a day is built, the digest of each of those
days is recorded with it (`jobs.batch.inputs`). Later it needs building again exactly if one of
these digests is another now: however late an event came, whatever brought or removed it, and
never twice for the same reason.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import chain

from pagoda import features
from pagoda.features import View

NEW = "new"
UNKNOWN = "built without a record of what it was built from"
_DAY = timedelta(days=1)
_CHANGED = "changed"
_SHOWN = 4

Digests = Mapping[date, int]  # day of events to what features read of it; 0 for nothing
# view to day to the digests it was built from, oldest first; None where nobody recorded them
Built = Mapping[str, Mapping[date, Sequence[int] | None]]


@dataclass(frozen=True, kw_only=True)
class Reach:
    """The days of events that a row of a day looks at, counted from its own: both inclusive."""

    first: int
    last: int

    def of(self, day: date) -> list[date]:
        """These days, oldest first."""
        return [day + offset * _DAY for offset in range(self.first, self.last + 1)]


def reaches(views: Iterable[View] = features.VIEWS) -> dict[str, Reach]:
    """Of every view with rows by day."""
    return {
        view.name: Reach(first=0, last=0)  # the day so far
        if view.name == features.USER_INTRADAY.name
        else Reach(first=-view.reach_days, last=-1)
        for view in views
        if view.ttl_days
    }


REACHES = reaches()


@dataclass(frozen=True, kw_only=True)
class Work:
    """A day of a view that needs building.

    Attributes:
        why: NEW, UNKNOWN, or the days of events that are not as they were when it was built.
    """

    view: str
    day: date
    why: str | tuple[date, ...]


def plan(
    built: Built,
    digests: Digests,
    reaches: Mapping[str, Reach],
    *,
    end: date,
    kept_from: date | None = None,
) -> list[Work]:
    """What to build so that all days up to `end` are as the lake is now.

    A view's days after its newest one are new. Of a view that was never built only `end` is: how
    far back it should go is for a person to say.

    Args:
        kept_from: the first day of events that retention keeps. Days that look further back stay
            as they were built: the events for it are gone.
    """
    work = []
    for view, reach in reaches.items():
        of_view = built.get(view, {})
        newest = max((day for day in of_view if day <= end), default=end - _DAY)
        for day, inputs in sorted(of_view.items()):
            seen = reach.of(day)
            if day > end or (kept_from and seen[0] < kept_from):
                continue
            if inputs is None or len(inputs) != len(seen):
                work.append(Work(view=view, day=day, why=UNKNOWN))
                continue
            changed = tuple(
                each
                for each, digest in zip(seen, inputs, strict=True)
                if digests.get(each, 0) != digest
            )
            if changed:
                work.append(Work(view=view, day=day, why=changed))
        missing = (newest + (n + 1) * _DAY for n in range((end - newest).days))
        work += [Work(view=view, day=day, why=NEW) for day in missing]
    return work


def runs(days: Iterable[date], *, gap_days: int = 0) -> Iterator[tuple[date, date]]:
    """Days as ranges, first and last, both inclusive, oldest first.

    Args:
        gap_days: days that may be missing between two of one range.
    """
    ordered = sorted(set(days))
    begin = 0
    for at, day in enumerate(ordered):
        if at + 1 == len(ordered) or (ordered[at + 1] - day).days > gap_days + 1:
            yield ordered[begin], day
            begin = at + 1


def described(work: Sequence[Work]) -> list[dict[str, str]]:
    """The plan for people and programs: a row for each range of days of the same views."""
    alike: dict[tuple[str, date, date], dict[str, list[Work]]] = {}
    by_view: dict[tuple[str, str], list[Work]] = {}
    for each in work:
        kind = each.why if isinstance(each.why, str) else _CHANGED
        by_view.setdefault((kind, each.view), []).append(each)
    for (kind, view), of_view in by_view.items():
        for first, last in runs(each.day for each in of_view):
            within = [each for each in of_view if first <= each.day <= last]
            alike.setdefault((kind, first, last), {})[view] = within
    rows = [
        {
            "first": str(first),
            "last": str(last),
            "views": ", ".join(views),
            "why": _events_of(chain(*views.values())) if kind == _CHANGED else kind,
        }
        for (kind, first, last), views in alike.items()
    ]
    return sorted(rows, key=lambda row: (row["first"], row["last"], row["views"]))


def _events_of(work: Iterable[Work]) -> str:
    ranges = list(runs(day for each in work for day in each.why if isinstance(day, date)))
    shown = [str(first) if first == last else f"{first} to {last}" for first, last in ranges]
    more = f" and {len(shown) - _SHOWN} more ranges" if len(shown) > _SHOWN else ""
    return f"events of {', '.join(shown[:_SHOWN])}{more} changed"
