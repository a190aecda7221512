"""Late events: exactly the days that they touch are built again, and nothing is missed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import date, timedelta
from itertools import pairwise
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.batch import user_day, user_intraday, user_items, user_stats
from jobs.batch.plan import NEW, UNKNOWN, Reach, Work, described, plan, reaches, runs
from pagoda import features
from pagoda.owned import OwnedSpec
from tests.features.histories import DAY, history_of, times_of_day
from tests.features.test_windows import SMALL
from tests.oracles.features import Arrival
from tests.oracles.windows import Happening

FIRST = date(2024, 2, 20)  # a leap day lies ahead
EPOCH = date(1970, 1, 1)
VIEWS = ("user_day", "user_intraday", "user_items", "user_stats")
FEW = OwnedSpec(days=20, most=2)
SMALL_VIEWS = (
    *(replace(view, candidates=SMALL) for view in (features.USER_DAY, features.USER_INTRADAY)),
    replace(features.USER_ITEMS, owned=FEW),
    features.USER_STATS,
)
ROUNDS = 3


@st.composite
def batches_of_arrivals(draw: st.DrawFn) -> list[tuple[int, list[Arrival], set[int]]]:
    """Rounds of (days that pass, what comes in, keys of what is deleted): late, again, in between.

    An event of the first days may come in in the last round, weeks late.
    """
    found = []
    key = 0
    for number in range(ROUNDS):
        came = []
        for _ in range(draw(st.integers(0, 4))):
            key += draw(st.integers(0, 1))  # the same key again: sent twice, or at another time
            ts = ms(FIRST) + draw(st.integers(-40, 3 * number)) * DAY + draw(times_of_day)
            action = draw(st.sampled_from(("click", "buy", "collect", "search", "cart")))
            what = f"words {key}" if action == "search" else key % 3
            happening = Happening(ts=ts, key=key, what=what, action=action)
            delay = draw(st.integers(0, 45)) * DAY
            came.append(Arrival(user="u", ingested=ts + delay, happening=happening))
        deleted = draw(st.sets(st.integers(0, 8), max_size=1))
        found.append((draw(st.integers(0, 3)), came, deleted))
    return found


@settings(max_examples=min(40, settings().max_examples))
@given(rounds=batches_of_arrivals())
def test_building_what_changed_gives_the_same_as_building_everything(
    rounds: list[tuple[int, list[Arrival], set[int]]],
) -> None:
    reach = reaches(SMALL_VIEWS)
    arrived: list[Arrival] = []
    built: dict[str, dict[date, tuple[int, ...]]] = {view: {} for view in VIEWS}
    tables: dict[str, dict[date, list[dict[str, Any]]]] = {view: {} for view in VIEWS}
    seen_by: dict[tuple[str, date], Mapping[date, int]] = {}
    end = FIRST
    for passed, came, deleted in rounds:
        end += timedelta(days=passed)
        arrived = [each for each in arrived if each.happening.key not in deleted] + came
        now = digests(arrived)
        work = plan(built, now, reach, end=end)
        assert {(each.view, each.day) for each in work} == touched(built, seen_by, now, reach, end)
        for each in work:
            rows = rows_of(each.view, arrived, [each.day])
            tables[each.view][each.day] = rows
            built[each.view][each.day] = tuple(now.get(d, 0) for d in reach[each.view].of(each.day))
            seen_by[each.view, each.day] = now
        for view in VIEWS:
            days = sorted(built[view])
            everything = [row for day in days for row in tables[view][day]]
            assert everything == rows_of(view, arrived, days)
        assert plan(built, now, reach, end=end) == []


def digests(arrived: list[Arrival]) -> dict[date, int]:
    """What features read of each day, as a number: any that differs when the rows do."""
    if not arrived:
        return {}
    history = history_of(arrived)
    rows: dict[date, list[tuple[Any, ...]]] = {}
    columns = (history.ts, history.ingested, history.key, history.role, history.item)
    for row in zip(*columns, history.query.to_pylist(), strict=True):
        if row[3]:
            rows.setdefault(EPOCH + timedelta(days=int(row[0]) // DAY), []).append(row)
    return {day: hash(tuple(each)) for day, each in rows.items()}


def touched(
    built: Mapping[str, Mapping[date, Any]],
    seen_by: Mapping[tuple[str, date], Mapping[date, int]],
    now: Mapping[date, int],
    reach: Mapping[str, Reach],
    end: date,
) -> set[tuple[str, date]]:
    """By the law's own words: a built day that an event's day lies in reach of, and new days."""
    found = set()
    for view in VIEWS:
        for day in built[view]:
            before = seen_by[view, day]
            changed = {
                each for each in before.keys() | now.keys() if before.get(each) != now.get(each)
            }
            if any(reach[view].first <= (each - day).days <= reach[view].last for each in changed):
                found.add((view, day))
        newest = max(built[view], default=end - timedelta(days=1))
        found |= {(view, newest + timedelta(days=n + 1)) for n in range((end - newest).days)}
    return found


def rows_of(view: str, arrived: list[Arrival], days: list[date]) -> list[dict[str, Any]]:
    """The rows that production code makes of these days, in an order of their own."""
    if not arrived or not days:
        return []
    at = np.array([ms(day) for day in days])
    history = history_of(arrived)
    made = {
        "user_day": lambda: user_day.of_user(1, history, days=at, spec=SMALL),
        "user_intraday": lambda: user_intraday.of_user(1, history, days=at, spec=SMALL),
        "user_items": lambda: user_items.of_user(1, history, days=at, spec=FEW),
        "user_stats": lambda: user_stats.of_user(1, history, days=at),
    }[view]()
    rows = [row for batch in made for row in batch.to_pylist()]
    return sorted(rows, key=lambda row: (row["event_timestamp"], row["created"]))


def ms(day: date) -> int:
    return (day - EPOCH).days * DAY


def test_a_late_event_touches_its_own_day_and_those_that_look_back_at_it() -> None:
    reach = reaches()
    days = [FIRST + timedelta(days=n) for n in range(60)]
    built = {view: {day: (0,) * len(each.of(day)) for day in days} for view, each in reach.items()}
    late = FIRST + timedelta(days=10)
    work = plan(built, {late: 7}, reach, end=days[-1])
    assert all(each.why == (late,) for each in work)
    by_view = {view: [each.day for each in work if each.view == view] for view in reach}
    assert by_view.pop("user_intraday") == [late]
    assert by_view.pop("user_items") == days[11:]  # all of a year
    assert set(by_view) == {"user_day", "user_stats", "item_stats"}
    for of_view in by_view.values():
        assert of_view == [late + timedelta(days=n) for n in range(1, 31)]


def test_the_view_that_is_furthest_behind_is_brought_up_and_the_others_are_left() -> None:
    reach = {"ahead": Reach(first=-1, last=-1), "behind": Reach(first=-1, last=-1)}
    built = {"ahead": {FIRST: (0,)}, "behind": {FIRST - timedelta(days=2): (0,)}}
    assert [(each.view, each.day.day, each.why) for each in plan(built, {}, reach, end=FIRST)] == [
        ("behind", 19, NEW),
        ("behind", 20, NEW),
    ]


def test_a_view_that_was_never_built_begins_with_the_day_asked_for() -> None:
    reach = {"stats": Reach(first=-1, last=-1)}
    assert plan({}, {}, reach, end=FIRST) == [Work(view="stats", day=FIRST, why=NEW)]


def test_rows_without_a_record_or_of_another_reach_are_built_again() -> None:
    reach = {"stats": Reach(first=-2, last=-1)}
    built = {"stats": {FIRST: None, FIRST - timedelta(days=1): (0,)}}
    assert plan(built, {}, reach, end=FIRST) == [
        Work(view="stats", day=day, why=UNKNOWN) for day in (FIRST - timedelta(days=1), FIRST)
    ]


def test_days_that_look_beyond_retention_stay_as_they_were_built() -> None:
    reach = {"stats": Reach(first=-2, last=-1)}
    built = {"stats": {FIRST: (1, 2), FIRST + timedelta(days=1): (1, 2)}}
    kept_from = FIRST - timedelta(days=1)  # what was before it is gone, and that changes nothing
    work = plan(built, {}, reach, end=FIRST + timedelta(days=1), kept_from=kept_from)
    assert [each.day for each in work] == [FIRST + timedelta(days=1)]


def test_a_plan_reads_as_ranges_with_a_reason() -> None:
    day = [FIRST + timedelta(days=n) for n in range(4)]
    work = [
        Work(view="a", day=day[0], why=(day[0],)),
        *(Work(view=view, day=each, why=(day[0],)) for view in "bc" for each in day[1:3]),
        *(Work(view=view, day=day[3], why=NEW) for view in "abc"),
        Work(view="d", day=day[3], why=tuple(day[0] + timedelta(days=2 * n) for n in range(6))),
        Work(
            view="e",
            day=day[3] + timedelta(days=1),
            why=(*day, *(day[3] + timedelta(days=2 * n) for n in range(1, 4))),
        ),
    ]
    assert described(work) == [
        {"first": "2024-02-20", "last": "2024-02-20", "views": "a",
         "why": "events of 2024-02-20 changed"},
        {"first": "2024-02-21", "last": "2024-02-22", "views": "b, c",
         "why": "events of 2024-02-20 changed"},
        {"first": "2024-02-23", "last": "2024-02-23", "views": "a, b, c", "why": "new"},
        {"first": "2024-02-23", "last": "2024-02-23", "views": "d",
         "why": "events of 2024-02-20, 2024-02-22, 2024-02-24, 2024-02-26 and 2 more ranges "
         "changed"},
        {"first": "2024-02-24", "last": "2024-02-24", "views": "e",
         "why": "events of 2024-02-20 to 2024-02-23, 2024-02-25, 2024-02-27, 2024-02-29 changed"},
    ]  # fmt: skip


@given(days=st.sets(st.dates(date(2024, 1, 1), date(2024, 3, 31))))
def test_runs_cover_exactly_the_days_and_never_touch(days: set[date]) -> None:
    ranges = list(runs(days))
    covered = [
        first + timedelta(days=n) for first, last in ranges for n in range((last - first).days + 1)
    ]
    assert covered == sorted(days)
    assert all((later[0] - earlier[1]).days > 1 for earlier, later in pairwise(ranges))
