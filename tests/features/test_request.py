"""Laws 1 and 4 where a request meets its rows: what online and offline rows show it is the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from jobs.batch import user_day
from jobs.stream.merge import Arrivals, News, advance_all, changed_columns
from pagoda.models.behaviour import Behaviour, TextNumbers, encode, stats_of, windows_of
from pagoda.models.catalogue import FIELDS, Catalogue
from pagoda.text import Tokenizer
from pagoda.windows import Candidates, WindowSpec
from tests.features.histories import DAY, DAYS, arrivals, days, midnights, times_of_day
from tests.features.test_versions import as_of, moment, of_history, rows_of
from tests.features.test_windows import SMALL, as_lists, defined
from tests.oracles import features as oracle
from tests.oracles.features import Arrival


def online_rows(
    arrived: list[Arrival], *, built: int, at_ms: int, spec: WindowSpec
) -> dict[str, dict[str, Any] | None]:
    """What Redis holds at `at_ms`: the row of the last batch, of what it knew, and the stream's."""
    before = [each for each in arrived if each.ingested < built]
    batches = of_history(
        before, lambda h: user_day.of_user(1, h, days=midnights(built, 1), spec=spec)
    )
    of_day = [row for batch in batches for row in batch.to_pylist()]
    state = Candidates()
    for each in sorted(arrived, key=lambda one: one.ingested):
        if each.ingested < at_ms:
            new = News.of([_arrival(each)])
            (state,) = advance_all([state], new, now_ms=each.ingested, spec=spec)
    return {
        "user_day": of_day[0] if of_day else None,
        "user_intraday": changed_columns(None, state),
    }


def _arrival(arrived: Arrival) -> Arrivals:
    it = arrived.happening
    if it.action == "click":
        return Arrivals(clicks=[(it.ts, it.key, int(it.what))])
    if it.action == "search":
        return Arrivals(queries=[(it.ts, it.key, str(it.what))])
    return Arrivals()


@given(data=st.data(), day=days, time=times_of_day, delay=st.integers(0, 3))
def test_a_request_sees_the_same_online_offline_and_by_the_law(
    data: st.DataObject, day: int, time: int, delay: int
) -> None:
    built = day - delay * DAY
    arrived = [
        each
        for each in data.draw(arrivals(day, back=9))
        # The stream holds its last days; what came later than the batch and is older waits for
        # the next batch, online.
        if each.ingested < built or each.happening.ts >= day - 3 * DAY
    ]
    at_ms = moment(data, arrived, day, time)
    online = online_rows(arrived, built=built, at_ms=at_ms, spec=SMALL)
    offline = {
        str(number): as_of(rows, at_ms) for number, rows in enumerate(rows_of(arrived, day, SMALL))
    }
    happened = [each.happening for each in oracle.known(arrived, at_ms=at_ms)]
    law = defined(happened, at_ms, SMALL)
    assert as_lists(windows_of(online, at_ms=at_ms, spec=SMALL)) == law
    assert as_lists(windows_of(offline, at_ms=at_ms, spec=SMALL)) == law


def test_a_request_without_rows_sees_nothing() -> None:
    for rows in ({}, {"user_day": None, "user_intraday": None}, {"user_stats": {"clicks_7d": 3}}):
        assert not any(as_lists(windows_of(rows, at_ms=DAYS[0], spec=SMALL)).values())


@given(data=st.data(), day=days)
def test_requests_are_encoded_one_by_one_in_the_order_given(data: st.DataObject, day: int) -> None:
    """Item keys become numbers, texts the next numbers, and no request sees another's."""
    keys = [0, 2]  # the catalogue lacks item 1: its number is 0
    rows = [{"item_key": key, "item_id": str(key), "title": "x"} for key in keys]
    catalogue = Catalogue(pa.Table.from_pylist(rows, schema=FIELDS), Tokenizer.fit([]))
    requests, laws = [], []
    for _ in range(data.draw(st.integers(0, 3))):
        arrived = data.draw(arrivals(day, back=9, size=12))
        at_ms = moment(data, arrived, day, 1)
        day_rows, intraday_rows = rows_of(arrived, day, SMALL)
        requests.append(
            ({"user_day": as_of(day_rows, at_ms), "x": as_of(intraday_rows, at_ms)}, at_ms)
        )
        happened = [each.happening for each in oracle.known(arrived, at_ms=at_ms)]
        laws.append(defined(happened, at_ms, SMALL))
    texts = TextNumbers()
    found = encode(requests, catalogue, texts, spec=SMALL, stats=())
    number_of = {key: number for number, key in enumerate(keys, start=1)}
    for at, law in enumerate(laws):
        items = {
            "real_time": found.real_time[at],
            "short_term": found.short_term[at],
            **{f"long_{action}": each[at] for action, each in found.long_term.items()},
        }
        for name, numbers in items.items():
            assert numbers.tolist() == [number_of.get(what, 0) for _, _, what in law[name]]
        at_ms = requests[at][1]
        ages = [(at_ms - ts) // 1000 for ts, _, _ in law["real_time"]]
        assert found.real_time_age_s[at].tolist() == ages
        asked = [texts.texts[number] for number in found.queries[at].tolist()]
        assert asked == [what for _, _, what in law["queries"]]
    assert len(found) == len(laws)
    order = np.arange(len(laws))[::-1]
    assert [rows_in(found.take(order), at) for at in range(len(laws))] == [
        rows_in(found, at) for at in order
    ]
    assert len(set(texts.texts)) == len(texts.texts)


def rows_in(behaviour: Behaviour, at: int) -> list[list[int]]:
    sequences = (behaviour.real_time, behaviour.short_term, behaviour.queries)
    clicked = (behaviour.real_time_age_s, *behaviour.long_term.values())
    owned = (behaviour.owned.item, behaviour.owned.times, behaviour.owned.age_days)
    return [each[at].tolist() for each in (*sequences, *clicked, *owned)]


def test_keys_of_63_bits_are_told_apart_and_statistics_stand_beside_them() -> None:
    key = 2**62 + 1
    rows = {
        "user_day": {
            "click_ts": [DAYS[0] - 2, DAYS[0] - 1],
            "click_events": [1, 2],
            "click_items": [key + 1, key],
        },
        "user_stats": {"clicks_7d": 2},
        "user_items": {
            "owned_items": [key, key + 1],
            "owned_times": [3, 1],
            "owned_last_ts": [DAYS[0] - 1, DAYS[0] - DAY - 1],
        },
    }
    item = {"item_key": key, "item_id": "i", "title": "x"}
    catalogue = Catalogue(pa.Table.from_pylist([item], schema=FIELDS), Tokenizer.fit([]))
    for requests in ([], [(rows, DAYS[0]), ({}, DAYS[0])]):
        found = encode(requests, catalogue, TextNumbers(), spec=SMALL, stats=("clicks_7d",))
        assert [each.tolist() for each in found.real_time] == [[0, 1], []][: len(requests)]
        assert found.stats_UF.shape == (len(requests), 2)
        assert found.stats_UF.dtype == np.float32
        assert np.allclose(found.stats_UF[:1], [[1, np.log1p(2)]])
        assert [rows_in(found, at)[-3:] for at in range(len(found))] == [
            [[1, 0], [3, 1], [1, 2]], [[], [], []]
        ][: len(requests)]  # fmt: skip
        again = found.take(np.arange(len(requests))[::-1])
        assert [each.tolist() for each in again.real_time] == [[], [0, 1]][: len(requests)]
        assert np.array_equal(again.stats_UF, found.stats_UF[::-1])


def test_statistics_say_whether_any_is_above_zero_and_how_much() -> None:
    rows = {"user_stats": {"a": 3, "b": None, "c": float("nan"), "d": 0, "e": -1.0, "g": 0.5}}
    assert stats_of(rows, ["a", "b", "c", "d", "e", "f", "g"]) == [
        1.0, float(np.log1p(3)), 0.0, 0.0, 0.0, 0.0, 0.0, float(np.log1p(0.5))
    ]  # fmt: skip
    assert stats_of(rows, ["b", "d"]) == [0.0, 0.0, 0.0]
    assert stats_of({"user_stats": None}, ["a"]) == [0.0, 0.0]
    assert stats_of({}, []) == [0.0]
