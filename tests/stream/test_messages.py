"""The edge: what is taken, what is refused, and that every problem is said at once."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pagoda.messages import (
    FUTURE_TOLERANCE_MS,
    MAX_MESSAGE_BYTES,
    Event,
    ItemUpdate,
    Rejected,
    Search,
    decode_event,
    decode_item,
    decode_search,
    encode,
    record_key,
)

NOW_MS = 1_795_000_000_000
CLICK = {
    "schema": 1,
    "event_id": "e1",
    "user_id": "u1",
    "item_id": "i1",
    "action": "click",
    "ts": NOW_MS,
}


def reason(raw: bytes | None) -> str:
    decoded = decode_event(raw, now_ms=NOW_MS)
    assert isinstance(decoded, Rejected)
    assert decoded.raw == (raw or b"")
    return decoded.reason


def changed(**fields: Any) -> bytes:
    return orjson.dumps({**CLICK, **fields})


def test_messages_of_schema_1_stay_readable() -> None:
    assert decode_event(
        b'{"schema":1,"event_id":"e1","user_id":"u1","item_id":"i1","action":"buy",'
        b'"ts":1795000000000,"search_id":"s1","position":3,"shop":"north"}',
        now_ms=NOW_MS,
    ) == Event(
        event_id="e1",
        user_id="u1",
        item_id="i1",
        action="buy",
        ts=NOW_MS,
        search_id="s1",
        position=3,
        shop="north",
    )
    assert decode_search(
        b'{"schema":1,"search_id":"s1","user_id":"u1","query":"oat milk","ts":1795000000000}',
        now_ms=NOW_MS,
    ) == Search(search_id="s1", user_id="u1", query="oat milk", ts=NOW_MS)
    assert decode_item(
        b'{"schema":1,"item_id":"i1","updated_at":1795000000000,"title":"Oat milk","price":2,'
        b'"in_stock":true,"attributes":{"fat":"3%"}}',
        now_ms=NOW_MS,
    ) == ItemUpdate(
        item_id="i1",
        updated_at=NOW_MS,
        title="Oat milk",
        price=2.0,
        in_stock=True,
        attributes={"fat": "3%"},
    )


def test_an_unknown_field_is_ignored() -> None:
    assert decode_event(changed(colour="red"), now_ms=NOW_MS) == decode_event(
        changed(), now_ms=NOW_MS
    )


@pytest.mark.parametrize(
    ("written", "ts_ms"),
    [
        (NOW_MS, NOW_MS),
        (NOW_MS + 0.9, NOW_MS),
        ("2026-11-18T13:46:40.123999Z", 1_795_009_600_123),
        ("2026-11-18T21:46:40.123+08:00", 1_795_009_600_123),
    ],
)
def test_a_time_is_truncated_to_milliseconds(written: object, ts_ms: int) -> None:
    event = decode_event(changed(ts=written), now_ms=ts_ms)
    assert isinstance(event, Event)
    assert event.ts == ts_ms


@pytest.mark.parametrize(
    ("ts", "said"),
    [
        ("2026-11-18T13:46:40", "no zone"),
        ("yesterday", "ISO-8601"),
        (NOW_MS // 1000, "seconds, not milliseconds"),
        (NOW_MS + FUTURE_TOLERANCE_MS + 1, "in the future"),
        (True, "epoch milliseconds"),
        (None, "epoch milliseconds"),
        (10**30, "in the future"),
    ],
)
def test_a_time_that_cannot_be_meant_is_refused(ts: object, said: str) -> None:
    # orjson writes no integer of more than 64 bits
    raw = changed(ts=0).replace(b'"ts":0', b'"ts":' + str(ts).encode()) if ts == 10**30 else None
    assert said in reason(raw or changed(ts=ts))


def test_a_clock_that_is_a_little_fast_is_believed() -> None:
    assert isinstance(decode_event(changed(ts=NOW_MS + 60_000), now_ms=NOW_MS), Event)


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"", "empty message"),
        (None, "empty message"),
        (b"{", "not JSON"),
        (b"[]", "not a JSON object"),
        (b'"click"', "not a JSON object"),
        (b'{"schema":1,"price":NaN}', "not JSON"),
        (b'{"user_id":"\\ud800"}', "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"{}", "schema"),
        (b'{"schema":2}', "schema"),
        (b'{"schema":true}', "schema"),
        (b"[" * 100_000, "not JSON"),
        (b"x" * (MAX_MESSAGE_BYTES + 1), "oversized"),
    ],
)
def test_what_is_no_message_is_refused_with_its_bytes(raw: bytes | None, said: str) -> None:
    assert said in reason(raw)


def test_every_problem_is_said_at_once() -> None:
    said = reason(
        changed(event_id="", user_id="a\x00", item_id=5, action="look", ts=1, position=-1)
    )
    for field in ("event_id", "user_id", "item_id", "action", "ts", "position"):
        assert f"{field}: " in said


def test_a_reason_holds_no_values() -> None:
    message = {"schema": 1, "search_id": 1, "user_id": "u", "query": "secret wish " * 100, "ts": 1}
    decoded = decode_search(orjson.dumps(message), now_ms=NOW_MS)
    assert isinstance(decoded, Rejected)
    assert "secret" not in decoded.reason


@pytest.mark.parametrize("price", [-0.01, float("inf"), "2", True])
def test_an_item_with_such_a_price_is_refused(price: object) -> None:
    raw = orjson.dumps({"schema": 1, "item_id": "i1", "updated_at": NOW_MS, "price": 1.5})
    raw = raw.replace(b"1.5", b"1e999" if price == float("inf") else orjson.dumps(price))
    assert isinstance(decode_item(raw, now_ms=NOW_MS), Rejected)


def test_a_message_that_would_be_refused_cannot_be_made() -> None:
    with pytest.raises(ValidationError):
        Search(search_id="s1", user_id="u1", query="  ", ts=NOW_MS)


def test_messages_of_one_user_share_a_key() -> None:
    event = decode_event(changed(), now_ms=NOW_MS)
    assert isinstance(event, Event)
    search = Search(search_id="s1", user_id="u1", query="milk", ts=NOW_MS)
    assert record_key(event) == record_key(search) == b"u1"


ids = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=30)


@given(
    event_id=ids,
    user_id=ids,
    position=st.none() | st.integers(0, 2**31 - 1),
    ts=st.integers(NOW_MS - 10**9, NOW_MS),
)
def test_what_is_written_is_read_back(
    event_id: str, user_id: str, position: int | None, ts: int
) -> None:
    event = Event(
        event_id=event_id, user_id=user_id, item_id="i", action="cart", ts=ts, position=position
    )
    assert decode_event(encode(event), now_ms=NOW_MS) == event


@given(raw=st.binary(max_size=200))
def test_no_bytes_make_the_decoder_fail(raw: bytes) -> None:
    assert isinstance(decode_event(raw, now_ms=NOW_MS), Rejected | Event)
