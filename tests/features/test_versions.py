"""Law 3 without Spark: the rows of one user, read as Feast reads them, against a naive replay."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.batch import user_day, user_intraday, user_items, user_stats
from pagoda.features import USER_DAY, candidates_of
from pagoda.owned import OwnedSpec
from pagoda.windows import WindowSpec, cut
from tests.features import arrivals as generated
from tests.features.histories import DAY, DAYS, arrivals, days, history_of, midnights, times_of_day
from tests.features.test_windows import SMALL, as_lists, defined
from tests.oracles import features as oracle
from tests.oracles.features import Arrival
from tests.oracles.windows import Happening

LONG_TERM = ("long_click", "long_buy", "long_collect")
BUILT_DAYS = 7  # from five days before the day in question to one after


@given(data=st.data(), day=days, time=times_of_day)
def test_a_training_row_equals_a_naive_replay_of_what_was_known(
    data: st.DataObject, day: int, time: int
) -> None:
    arrived = data.draw(arrivals(day, back=9))
    at_ms = moment(data, arrived, day, time)
    day_rows, intraday_rows = rows_of(arrived, day, SMALL)
    known = candidates_of(as_of(day_rows, at_ms)).union(candidates_of(as_of(intraday_rows, at_ms)))
    expected = [each.happening for each in oracle.known(arrived, at_ms=at_ms)]
    assert as_lists(cut(known, at_ms=at_ms, spec=SMALL)) == defined(expected, at_ms, SMALL)


@pytest.mark.parametrize("seed", range(12))
def test_over_long_histories_keep_to_the_law_with_the_limits_of_production(seed: int) -> None:
    """Up to 260 events, many at one moment, resent with another content, over a leap day."""
    rng = np.random.default_rng(seed)
    arrived = generated.of_user("u", rng)
    spec, clicks = WindowSpec(), generated.CLICK_ACTIONS
    day = generated.midnight(generated.LAST) - DAY
    day_rows, intraday_rows = rows_of(arrived, day, spec, click_actions=clicks)
    for at_ms in generated.moments(arrived, rng, 8):
        known = candidates_of(as_of(day_rows, at_ms)).union(
            candidates_of(as_of(intraday_rows, at_ms))
        )
        expected = [each.happening for each in oracle.known(arrived, at_ms=at_ms)]
        law = defined(expected, at_ms, spec, click_actions=clicks)
        assert as_lists(cut(known, at_ms=at_ms, spec=spec)) == law


@pytest.mark.parametrize("seed", range(12))
def test_statistics_of_long_histories_equal_a_naive_count(seed: int) -> None:
    rng = np.random.default_rng(seed)
    arrived, clicks = generated.of_user("u", rng), generated.CLICK_ACTIONS
    prices = {item: price for item, price in generated.PRICES.items() if price is not None}
    day = generated.midnight(generated.LAST) - DAY
    make = partial(user_stats.of_user, 1, days=built(day))
    batches = of_history(arrived, make, click_actions=clicks, prices=prices)
    rows = [row for batch in batches for row in batch.to_pylist()]
    assert {row["user_key"] for row in rows} <= {1}
    for at_ms in generated.moments(arrived, rng, 8):
        today = [row for row in rows if row["day"].toordinal() == oracle.day_number(at_ms - 1)]
        expected = oracle.user_stats(arrived, at_ms=at_ms, click_actions=clicks, prices=prices)
        found = as_of(today, at_ms)
        assert (
            {name: found[name] for name in expected} == pytest.approx(expected)
            if expected
            else not found
        )


@pytest.mark.parametrize("seed", range(12))
def test_what_a_user_had_over_a_long_history_equals_a_naive_count(seed: int) -> None:
    rng = np.random.default_rng(seed)
    arrived, clicks = generated.of_user("u", rng), generated.CLICK_ACTIONS
    spec = OwnedSpec(days=20, most=4)
    day = generated.midnight(generated.LAST) - DAY
    make = partial(user_items.of_user, 1, days=built(day), spec=spec)
    rows = [
        row for each in of_history(arrived, make, click_actions=clicks) for row in each.to_pylist()
    ]
    for at_ms in generated.moments(arrived, rng, 8):
        assert_owned(rows, arrived, at_ms, spec, clicks)


@given(data=st.data(), day=days, time=times_of_day)
def test_what_a_user_had_equals_a_naive_count_of_what_was_known(
    data: st.DataObject, day: int, time: int
) -> None:
    arrived = data.draw(arrivals(day, back=9))
    spec = OwnedSpec(days=data.draw(st.integers(1, 8)), most=data.draw(st.integers(1, 4)))
    make = partial(user_items.of_user, 1, days=built(day), spec=spec)
    rows = [row for batch in of_history(arrived, make) for row in batch.to_pylist()]
    assert_owned(rows, arrived, moment(data, arrived, day, time), spec, ("click",))


@given(data=st.data(), day=days)
def test_no_two_versions_of_a_row_share_their_created_time(data: st.DataObject, day: int) -> None:
    arrived = data.draw(arrivals(day, back=9))
    for rows in rows_of(arrived, day, SMALL):
        versions = [(row["event_timestamp"], row["created"]) for row in rows]
        assert len(set(versions)) == len(versions)


@given(data=st.data(), day=days)
def test_rows_hold_each_event_once_and_none_of_other_days(data: st.DataObject, day: int) -> None:
    day_rows, intraday_rows = rows_of(data.draw(arrivals(day, back=9)), day, SMALL)
    for row in day_rows + intraday_rows:
        assert row["user_key"] == 1
        at_ms = as_ms(row["event_timestamp"])
        of_day = "long_click_ts" not in row
        if of_day:  # a row for each moment of a click or a query, and for no other
            assert at_ms in row["click_ts"] + row["query_ts"]
        for prefix in ("click", "query", *(() if of_day else LONG_TERM)):
            times, events = row[f"{prefix}_ts"], row[f"{prefix}_events"]
            assert len(set(zip(times, events, strict=True))) == len(times)
            assert all(at_ms - at_ms % DAY <= ts <= at_ms if of_day else ts < at_ms for ts in times)


@given(data=st.data(), day=days)
def test_the_order_of_arrival_leaves_no_trace(data: st.DataObject, day: int) -> None:
    arrived = data.draw(arrivals(day, back=9))
    shuffled = data.draw(st.permutations(arrived))
    assert rows_of(shuffled, day, SMALL) == rows_of(arrived, day, SMALL)


@given(data=st.data(), day=days, time=times_of_day)
def test_statistics_equal_a_naive_count_of_what_was_known(
    data: st.DataObject, day: int, time: int
) -> None:
    arrived = data.draw(arrivals(day, back=34))
    at_ms = moment(data, arrived, day, time)
    rows = [
        row
        for batch in of_history(arrived, lambda h: user_stats.of_user(1, h, days=built(day)))
        for row in batch.to_pylist()
    ]
    today = [row for row in rows if row["day"].toordinal() == oracle.day_number(at_ms - 1)]
    expected = oracle.user_stats(arrived, at_ms=at_ms, click_actions=("click",), prices={})
    found = as_of(today, at_ms)
    assert {name: found[name] for name in expected} == expected if expected else not found


def assert_owned(
    rows: list[dict[str, Any]],
    arrived: list[Arrival],
    at_ms: int,
    spec: OwnedSpec,
    click_actions: tuple[str, ...],
) -> None:
    today = [row for row in rows if row["day"].toordinal() == oracle.day_number(at_ms - 1)]
    expected = oracle.user_items(
        arrived, at_ms=at_ms, click_actions=click_actions, days=spec.days, most=spec.most
    )
    found = as_of(today, at_ms)
    assert {name: found[name] for name in expected} == expected if expected else not found


def test_a_late_click_makes_a_second_version_of_each_later_row_it_changes() -> None:
    day = 1_709_251_200_000  # 2024-03-01
    on_time = Arrival(
        user="u",
        ingested=day - 2 * DAY,
        happening=Happening(ts=day - 2 * DAY, key=1, what=5, action="click"),
    )
    late = Arrival(  # of the same day, known a day and a half later
        user="u",
        ingested=day - DAY // 2,
        happening=Happening(ts=day - 2 * DAY + 60_000, key=2, what=6, action="click"),
    )
    history = history_of([late, on_time])
    rows = [
        (row["event_timestamp"].day, as_ms(row["created"]), row["click_events"])
        for batch in user_day.of_user(1, history, days=midnights(day - DAY, 2), spec=SMALL)
        for row in batch.to_pylist()
    ]
    assert sorted(rows) == [
        (1, late.ingested, [1, 2]),  # on March 1st both were known: one version
        (29, on_time.ingested, [1]),
        (29, late.ingested, [1, 2]),
    ]


@pytest.mark.parametrize("known_at", [0, 1, 3_600_000])
def test_what_becomes_known_when_the_day_has_begun_is_a_version_of_its_own(known_at: int) -> None:
    """Also an event at the very start of what the row looks at, and one of the last millisecond."""
    day, span = DAYS[0], SMALL.recent_days + SMALL.long_term_days
    on_time = Happening(ts=day - DAY, key=1, what=1, action="click")
    happened = [
        Happening(ts=day - span * DAY, key=2, what=2, action="click"),
        Happening(ts=day - 1, key=3, what=0, action="click"),
    ]
    for late in happened:
        arrived = [
            Arrival(user="u", ingested=on_time.ts, happening=on_time),
            Arrival(user="u", ingested=day + known_at, happening=late),
        ]
        make = partial(user_day.of_user, 1, days=midnights(day, 1), spec=SMALL)
        rows = [row for batch in of_history(arrived, make) for row in batch.to_pylist()]
        versions = [
            (as_ms(row["created"]), sorted(row["click_events"] + row["long_click_events"]))
            for row in rows
        ]
        assert versions == [(on_time.ts, [1]), (day + known_at, [1, late.key])]


@pytest.mark.parametrize("keys", [(1, 2), (2, 1)])
def test_events_of_one_millisecond_that_come_in_one_by_one_are_versions(
    keys: tuple[int, int],
) -> None:
    at = DAYS[0] + 5
    arrived = [
        Arrival(
            user="u",
            ingested=at + later,
            happening=Happening(ts=at, key=key, what=key, action="click"),
        )
        for later, key in zip((0, 10), keys, strict=True)
    ]
    make = partial(user_intraday.of_user, 1, days=midnights(DAYS[0], 1), spec=SMALL)
    rows = [row for batch in of_history(arrived, make) for row in batch.to_pylist()]
    assert [(as_ms(row["created"]), row["click_events"]) for row in rows] == [
        (at, [keys[0]]),
        (at + 10, [1, 2]),
    ]


def test_a_history_is_sorted_and_says_what_an_event_has_not() -> None:
    at = DAYS[0]
    click = Happening(ts=at, key=2, what=7, action="click")
    earlier = Happening(ts=at, key=1, what="tea", action="search")
    history = history_of(
        [Arrival(user="u", ingested=at, happening=each) for each in (click, earlier)],
        prices={7: 1.5},
    )
    assert history.key.tolist() == [1, 2]
    assert history.item.tolist() == [0, 7]
    assert history.query.to_pylist() == ["tea", None]
    assert np.array_equal(history.price, [np.nan, 1.5], equal_nan=True)


def moment(data: st.DataObject, arrived: list[Arrival], day: int, time: int) -> int:
    """Any time of the day, or one at which something happens or comes in, give or take 1 ms."""
    edges = [
        edge + step
        for each in arrived
        for edge in (each.ingested, each.happening.ts)
        for step in (0, 1)
        if day <= edge + step < day + DAY
    ]
    return data.draw(st.sampled_from([day, day + time, *edges]))


def rows_of(
    arrived: list[Arrival],
    day: int,
    spec: WindowSpec,
    *,
    click_actions: tuple[str, ...] = ("click",),
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows of user_day and user_intraday, oldest first."""

    def rows(of_user: Any) -> list[Any]:
        make = partial(of_user, 1, days=built(day), spec=spec)
        return of_history(arrived, make, click_actions=click_actions)

    tables = rows(user_day.of_user), rows(user_intraday.of_user)
    day_rows, intraday_rows = (
        sorted(
            (row for batch in batches for row in batch.to_pylist()),
            key=lambda row: (row["event_timestamp"], row["created"]),
        )
        for batches in tables
    )
    return day_rows, intraday_rows


def of_history(arrived: list[Arrival], rows: Any, **read_as: Any) -> list[Any]:
    """Batches of rows; `read_as` goes to `history_of`."""
    return list(rows(history_of(arrived, **read_as))) if arrived else []


def built(day: int) -> Any:
    return midnights(day - (BUILT_DAYS - 2) * DAY, BUILT_DAYS)


def as_of(rows: list[dict[str, Any]], at_ms: int) -> dict[str, Any]:
    """The row that Feast's join takes for a moment 1 ms before `at_ms`, {} if there is none."""
    reader = at_ms - 1
    valid = [
        row
        for row in rows
        if reader - USER_DAY.ttl_days * DAY <= as_ms(row["event_timestamp"]) <= reader
        and as_ms(row["created"]) <= reader
    ]
    return max(valid, key=lambda row: (row["event_timestamp"], row["created"]), default={})


def as_ms(moment: Any) -> int:
    return round(moment.timestamp() * 1000)
