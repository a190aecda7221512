"""Law 1: the cut against its definition by brute force, and no cliff at midnight."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.batch import user_day
from pagoda import sequences
from pagoda.features import candidates_of
from pagoda.windows import Candidates, Windows, WindowSpec, cut
from tests.features.histories import (
    DAY,
    DAYS,
    days,
    happenings,
    history_of,
    midnights,
    times_of_day,
)
from tests.oracles import windows as oracle
from tests.oracles.features import Arrival
from tests.oracles.windows import Happening

SMALL = WindowSpec(
    recent_days=4,
    long_term_days=5,
    real_time=3,
    short_term=4,
    long_term=3,
    queries=2,
    batch_delay_days=3,
)
specs = st.sampled_from([SMALL, WindowSpec()])


def defined(happened: list[Happening], at_ms: int, spec: WindowSpec, **kwargs: Any) -> dict:
    return oracle.windows(
        happened,
        at_ms=at_ms,
        recent_days=spec.recent_days,
        long_term_days=spec.long_term_days,
        real_time=spec.real_time,
        short_term=spec.short_term,
        long_term=spec.long_term,
        queries=spec.queries,
        **kwargs,
    )


def as_lists(cut_windows: Windows) -> dict:
    parts = {
        "real_time": cut_windows.real_time,
        "short_term": cut_windows.short_term,
        "queries": cut_windows.queries,
        **{f"long_{action}": part for action, part in cut_windows.long_term.items()},
    }
    return {
        name: list(zip(part.ts.tolist(), part.event.tolist(), part.value.tolist(), strict=True))
        for name, part in parts.items()
    }


def candidates(happened: list[Happening]) -> Candidates:
    def sequence(*actions: str) -> sequences.Sequence:
        chosen = [each for each in happened if each.action in actions]
        make = sequences.queries if "search" in actions else sequences.items
        return make(
            [each.ts for each in chosen],
            [each.key for each in chosen],
            [each.what for each in chosen],
        )

    return Candidates(
        clicks=sequence("click"),
        queries=sequence("search"),
        long_term={name: sequence(name) for name in ("click", "buy", "collect")},
    )


@given(data=st.data(), day=days, time=times_of_day, spec=specs)
def test_the_cut_is_what_the_law_says(
    data: st.DataObject, day: int, time: int, spec: WindowSpec
) -> None:
    happened = data.draw(happenings(day, back=35))
    at_ms = day + time
    found = as_lists(cut(candidates(happened), at_ms=at_ms, spec=spec))
    assert found == defined(happened, at_ms, spec)


@given(data=st.data(), day=days, time=times_of_day, delay=st.integers(0, 3), spec=specs)
def test_a_late_batch_and_the_stream_give_the_same_cut(
    data: st.DataObject, day: int, time: int, delay: int, spec: WindowSpec
) -> None:
    happened = data.draw(happenings(day, back=12 if spec is SMALL else 35))
    at_ms, built = day + time, day - delay * DAY
    row = row_of_day(happened, built, spec)
    streamed = [each for each in happened if built <= each.ts < at_ms]
    known = candidates_of(row).union(
        Candidates(
            clicks=candidates(streamed).clicks.newest(spec.clicks),
            queries=candidates(streamed).queries.newest(spec.queries),
        )
    )
    assert as_lists(cut(known, at_ms=at_ms, spec=spec)) == defined(happened, at_ms, spec)


@given(data=st.data(), day=days, delay=st.integers(0, 2))
def test_nothing_changes_when_the_next_days_row_takes_over(
    data: st.DataObject, day: int, delay: int
) -> None:
    happened = data.draw(happenings(day, back=12))
    today, before = day - delay * DAY, day - (delay + 1) * DAY
    streamed = candidates([each for each in happened if before <= each.ts < day])
    stream = Candidates(clicks=streamed.clicks, queries=streamed.queries)
    cuts = [
        as_lists(
            cut(
                candidates_of(row_of_day(happened, built, SMALL)).union(stream),
                at_ms=day,
                spec=SMALL,
            )
        )
        for built in (today, before)
    ]
    assert cuts[0] == cuts[1]


def row_of_day(happened: list[Happening], day: int, spec: WindowSpec) -> dict[str, Any]:
    """The production row of a day, everything having come in at once."""
    arrived = [Arrival(user="u", ingested=each.ts, happening=each) for each in happened]
    if not arrived:
        return {}
    rows = [
        row
        for batch in user_day.of_user(1, history_of(arrived), days=midnights(day, 1), spec=spec)
        for row in batch.to_pylist()
    ]
    return rows[0] if rows else {}


def test_full_windows_take_the_newest_and_count_nothing_twice() -> None:
    at_ms = 1_700_000_000_000
    happened = [
        Happening(ts=at_ms - 1 - number * 60_000, key=number, what=number, action="click")
        for number in range(200)
    ]
    windows = cut(candidates(happened), at_ms=at_ms, spec=WindowSpec())
    assert windows.real_time.event.tolist() == list(range(49, -1, -1))
    assert windows.short_term.event.tolist() == list(range(149, 49, -1))


def test_events_of_the_very_moment_do_not_count() -> None:
    at_ms = 1_700_000_000_000
    happened = [
        Happening(ts=at_ms, key=1, what=1, action="click"),
        Happening(ts=at_ms - 1, key=2, what=2, action="click"),
    ]
    windows = cut(candidates(happened), at_ms=at_ms, spec=WindowSpec())
    assert windows.real_time.event.tolist() == [2]


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        (
            {"real_time": -1, "queries": -2},
            "window settings must not be negative: real_time, queries",
        ),
        (
            {"batch_delay_days": 10},
            "batch_delay_days must be below recent_days: a row's long-term candidates "
            "must all be known on its own day",
        ),
    ],
)
def test_window_settings_that_cannot_hold_are_refused(
    settings: dict[str, int], problem: str
) -> None:
    with pytest.raises(ValueError, match=r"^.*$") as refused:
        WindowSpec(**settings)
    assert str(refused.value) == problem


def test_the_windows_that_nobody_set_are_the_laws_own() -> None:
    """The oracle has its own numbers: ten and twenty days, 50, 100, 100 and 20."""
    day = DAYS[0]
    hours = {"click": 1, "buy": 12, "collect": 3, "search": 9}  # between one and the next
    happened = [
        Happening(ts=day - number * apart * 3_600_000, key=number, what=number % 3, action=action)
        for action, apart in hours.items()
        for number in range(900 // apart)
    ]
    found = as_lists(cut(candidates(happened), at_ms=day, spec=WindowSpec()))
    assert found == oracle.windows(happened, at_ms=day)
    assert [len(each) for each in found.values()] == [50, 100, 20, 100, 40, 100]
