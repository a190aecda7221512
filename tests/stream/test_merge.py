"""Law 2 without servers: records read, merged and kept, against a naive look at all messages."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.stream import batches
from jobs.stream.click_actions import ClickActions
from jobs.stream.merge import (
    Arrivals,
    News,
    advance_all,
    changed_columns,
    equal,
    remembered,
)
from jobs.stream.rebuild import fault_of
from jobs.stream.rejects import RejectedRecord
from jobs.stream.source import Record
from jobs.stream.state import Stored
from pagoda import dataset, online_layout
from pagoda.forgotten import Forgotten
from pagoda.ids import key_of
from pagoda.messages import Rejected
from pagoda.settings import Settings
from pagoda.windows import Candidates, WindowSpec
from tests.features.histories import DAY, days, times_of_day
from tests.oracles import sequences as oracle

SETTINGS = Settings(home=Path("/nowhere"))
SMALL = WindowSpec(
    recent_days=4, real_time=2, short_term=3, queries=2, long_term_days=5, batch_delay_days=2
)
SPECS = st.sampled_from([SMALL, WindowSpec()])
MINUTES = 60_000
AHEAD = 5 * MINUTES  # how far ahead of Kafka's clock a message may lie
USERS = ("u", "v", "w")
USER = key_of("user", "u")


@st.composite
def rounds(draw: st.DrawFn, day: int) -> list[tuple[int, list[dict[str, Any]]]]:
    """Batches as they come: the clock, which never steps back, and messages; late, ahead of the
    clock, sent again, contradicting each other, at few moments.
    """
    now, sent, found = day - 3 * DAY, [], []
    for _ in range(draw(st.integers(1, 4))):
        now += draw(st.sampled_from((0, 1, AHEAD)) | st.integers(0, 3 * DAY))
        came = [draw(messages(now)) for _ in range(draw(st.integers(0, 12)))]
        came += draw(st.lists(st.sampled_from(sent), max_size=4)) if sent else []
        sent += came
        found.append((now, draw(st.permutations(came))))
    return found


@st.composite
def messages(draw: st.DrawFn, now: int) -> dict[str, Any]:
    midnight = now - now % DAY - draw(st.integers(0, 6)) * DAY
    ts = draw(
        st.sampled_from((now - 1, now, now + 1, now + MINUTES, now + AHEAD))
        | times_of_day.map(lambda time: min(midnight + time, now + AHEAD))
    )
    number, user = draw(st.integers(0, 9)), draw(st.sampled_from(("u", "u", "v", "w")))
    action = draw(st.sampled_from(("click", "click", "buy", "impression", "search")))
    if action == "search":
        words = draw(st.sampled_from(("tea", "green tea")))
        return {"search_id": f"s{number}", "user_id": user, "query": words, "ts": ts}
    item = f"i{draw(st.integers(0, 2))}"
    return {"event_id": f"e{number}", "user_id": user, "item_id": item, "action": action, "ts": ts}


def records(came: list[dict[str, Any]], now_ms: int) -> list[Record]:
    kafka = SETTINGS.kafka
    return [
        Record(
            topic=kafka.searches_topic if "query" in message else kafka.events_topic,
            partition=0,
            offset=offset,
            taken_ms=now_ms,
            value=orjson.dumps({"schema": 1, **message}),
        )
        for offset, message in enumerate(came)
    ]


@given(data=st.data(), day=days, spec=SPECS, clicks=st.sampled_from([("click",), ("click", "buy")]))
def test_rows_are_what_a_naive_look_at_all_messages_gives(
    data: st.DataObject, day: int, spec: WindowSpec, clicks: tuple[str, ...]
) -> None:
    state = {key_of("user", user): Candidates() for user in USERS}
    sent: list[dict[str, Any]] = []
    for now_ms, came in data.draw(rounds(day)):
        sent += came
        batch = batches.decode(records(came, now_ms), settings=SETTINGS, click_actions=clicks)
        assert batch.rejected == []
        state = all_advanced(state, batch.arrivals, now_ms=now_ms, spec=spec)
        expected = oracle.online_rows(
            sent,
            now_ms=now_ms,
            click_actions=clicks,
            clicks=spec.clicks,
            queries=spec.queries,
            days=spec.stream_days,
        )
        now = all_advanced(state, {}, now_ms=now_ms, spec=spec)  # the clock went on
        for user in USERS:
            assert row_of(now[key_of("user", user)]) == expected.get(user, row_of(Candidates()))


def all_advanced(
    state: dict[int, Candidates], new: dict[int, Arrivals], *, now_ms: int, spec: WindowSpec
) -> dict[int, Candidates]:
    """All users together; what did not change is the very same."""
    news = News.of([new.get(user, Arrivals()) for user in state])
    after = advance_all(list(state.values()), news, now_ms=now_ms, spec=spec)
    for was, now in zip(state.values(), after, strict=True):
        assert (now.clicks is was.clicks) == (now.clicks == was.clicks)
        assert (now.queries is was.queries) == (now.queries == was.queries)
    return dict(zip(state, after, strict=True))


def row_of(candidates: Candidates) -> dict[str, Any]:
    """The row that holds them."""
    return online_layout.plain(changed_columns(None, candidates))


def known(arrivals: Arrivals) -> Candidates:
    """The candidates of one user who did just that, all of it counting."""
    far = WindowSpec(batch_delay_days=10**5, recent_days=10**5 + 1)
    (after,) = advance_all([Candidates()], News.of([arrivals]), now_ms=2 * 10**12, spec=far)
    return after


@given(data=st.data(), day=days)
def test_the_order_of_rounds_and_what_each_held_leave_no_trace(
    data: st.DataObject, day: int
) -> None:
    came = data.draw(rounds(day))
    now_ms, _ = came[-1]
    parts = [
        arrivals
        for at, batch in came
        for user, arrivals in batches.decode(
            records(batch, at), settings=SETTINGS, click_actions=("click",)
        ).arrivals.items()
        if user == USER
    ]

    def merged(order: list[Arrivals]) -> Candidates:
        state = Candidates()
        for part in order:
            (state,) = advance_all([state], News.of([part]), now_ms=now_ms, spec=SMALL)
        return state

    again = data.draw(st.permutations(parts + parts[:1]))
    assert equal(merged(again), merged(parts))


@pytest.mark.parametrize("ahead", [0, 1])
def test_over_long_rows_keep_the_newest_of_the_past_and_all_that_lies_ahead(ahead: int) -> None:
    now_ms, spec = 1_709_251_200_000, WindowSpec()  # midnight after a leap day
    clicks = [(now_ms + ahead - number, number, number) for number in range(400)]
    asked = [(now_ms + ahead - number, number, f"words {number}") for number in range(60)]
    new = News.of([Arrivals(clicks=clicks, queries=asked)])
    row = row_of(*advance_all([Candidates()], new, now_ms=now_ms, spec=spec))
    assert row["click_events"] == list(range(149 + ahead, -1, -1))
    assert row["query_texts"] == [f"words {number}" for number in range(19 + ahead, -1, -1)]


def test_what_cannot_be_read_is_rejected_where_it_lies_and_the_rest_is_read() -> None:
    kafka = SETTINGS.kafka
    good = {"event_id": "e", "user_id": "u", "item_id": "i", "action": "click", "ts": 10**12}
    bad, tombstone = (
        Record(topic=kafka.events_topic, partition=2, offset=7, taken_ms=10**12, value=b"{"),
        Record(topic=kafka.searches_topic, partition=1, offset=8, taken_ms=10**12, value=None),
    )
    early = Record(
        topic=kafka.events_topic,
        partition=0,
        offset=9,
        taken_ms=10**12 - AHEAD - 1,
        value=orjson.dumps({"schema": 1, **good}),
    )
    batch = batches.decode(
        [bad, tombstone, early, *records([good], 10**12 - AHEAD)],
        settings=SETTINGS,
        click_actions=("click",),
    )
    assert batch.arrivals == {
        USER: Arrivals(clicks=[(10**12, key_of("event", "e"), key_of("item", "i"))])
    }
    assert [each.place for each in batch.rejected] == [
        f"{kafka.events_topic}:2:7",
        f"{kafka.searches_topic}:1:8",
        f"{kafka.events_topic}:0:9",
    ]
    assert batch.rejected[1] == RejectedRecord(
        topic=kafka.searches_topic,
        partition=1,
        offset=8,
        rejected=Rejected(reason="empty message", raw=b""),
        taken_ms=10**12,
    )
    assert batch.rejected[0].rejected.raw == b"{"


def test_what_a_user_did_before_asking_to_be_forgotten_is_left_out() -> None:
    held = Arrivals(clicks=[(99, 1, 1), (100, 2, 2)], queries=[(99, 3, "old"), (100, 4, "new")])
    forgotten = Forgotten(until_ms={USER: 100})
    left = Arrivals(clicks=[(100, 2, 2)], queries=[(100, 4, "new")])
    assert remembered(forgotten, USER, held) == left
    assert remembered(forgotten, USER + 1, held) is held


CLICKED = known(Arrivals(clicks=[(100, 1, 1)]))
ASKED = known(Arrivals(queries=[(100, 1, "tea")]))
BOTH = known(Arrivals(clicks=[(100, 1, 1)], queries=[(100, 1, "tea")]))
NOTHING = Candidates()


def test_rows_are_equal_if_clicks_and_queries_are() -> None:
    different = [CLICKED, ASKED, BOTH, NOTHING]
    for number, left in enumerate(different):
        assert [equal(left, right) for right in different] == [n == number for n in range(4)]


def test_only_columns_that_change_are_written() -> None:
    later = known(Arrivals(clicks=[(100, 1, 1), (101, 2, 2)], queries=[(100, 1, "tea")]))
    clicks, queries = (
        {name for name in row_of(BOTH) if name.startswith(part)} for part in ("click_", "query_")
    )
    assert set(changed_columns(None, BOTH)) == clicks | queries
    assert set(changed_columns(BOTH, later)) == clicks
    assert set(changed_columns(CLICKED, BOTH)) == queries
    assert changed_columns(BOTH, BOTH) == {}


def test_what_grows_too_old_goes_and_leaves_the_keys_of_others_exact() -> None:
    """Without anything new: 63-bit keys would not survive a detour over floats."""
    now_ms, key = 1_709_251_200_000, 2**62 + 1
    held = Arrivals(clicks=[(now_ms - 9 * DAY, 1, 1), (now_ms - DAY, key, key + 2)])
    (after,) = advance_all([known(held)], News.of([Arrivals()]), now_ms=now_ms, spec=SMALL)
    columns = [after.clicks.ts, after.clicks.event, after.clicks.value]
    assert [each.tolist() for each in columns] == [[now_ms - DAY], [key], [key + 2]]
    assert {each.dtype for each in columns} == {np.dtype(np.int64)}


@pytest.mark.parametrize(
    ("stored", "before", "wanted", "fault"),
    [
        (Stored(user=1, stamp=b"1", damage="cut short"), NOTHING, NOTHING, "damaged"),
        (Stored(user=1), NOTHING, NOTHING, ""),
        (Stored(user=1), NOTHING, CLICKED, "missing"),
        (Stored(user=1, stamp=b"1"), BOTH, BOTH, ""),
        (Stored(user=1, stamp=b"1"), CLICKED, BOTH, "behind"),
        (Stored(user=1, stamp=b"1"), BOTH, CLICKED, "wrong"),
        (Stored(user=1, stamp=b"1"), ASKED, CLICKED, "wrong"),
    ],
)
def test_a_row_is_named_for_what_is_the_matter_with_it(
    stored: Stored, before: Candidates, wanted: Candidates, fault: str
) -> None:
    assert fault_of(stored, before, wanted, now_ms=200, spec=SMALL) == fault


def test_actions_that_count_as_clicks_follow_the_data_set(tmp_path: Path) -> None:
    home = Settings(home=tmp_path)
    actions = ClickActions(home)
    assert (actions.current, str(actions)) == ({"click"}, "click")
    assert not actions.refresh()
    _import(home, ("click", "buy"))
    assert actions.refresh()
    assert (actions.current, str(actions)) == ({"click", "buy"}, "buy click")
    assert not actions.refresh()
    assert ClickActions(home).current == {"click", "buy"}
    dataset.path(home).unlink()
    assert actions.refresh()
    assert actions.current == {"click"}
    _import(home, ("click",))
    assert not actions.refresh()  # another data set, the same actions


def _import(home: Settings, click_actions: tuple[str, ...]) -> None:
    day = date(2026, 1, 1)
    dataset.save(
        home,
        dataset.Dataset(
            name="made up",
            click_actions=click_actions,
            first_day=day,
            last_day=day,
            validation_from=day,
            test_from=day,
            query_protocol="none",
            fingerprint="none",
        ),
    )
