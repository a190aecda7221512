"""Rows and position in one commit: a replay changes nothing. No Spark, no Kafka."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pytest

from jobs.stream.landed import Ids, RejectedTable, land, position
from jobs.stream.rejects import MAX_RAW_BYTES, RejectedRecord, decode, encode
from jobs.stream.routes import Route, routes
from pagoda import lake
from pagoda.ids import key_of
from pagoda.messages import Rejected
from pagoda.schemas import EVENTS, IDS, ITEMS
from pagoda.settings import Settings, load
from pagoda.topics import MAX_REJECTED_BYTES, Topic
from tests.stream.conftest import rows

TAKEN = datetime(2026, 11, 18, 12, 0, tzinfo=UTC)
TS = 1_763_467_200_000


@pytest.fixture
def home(tmp_path: Path) -> Settings:
    return load(home=tmp_path)


@pytest.fixture
def events(home: Settings) -> Route:
    return routes(home.kafka)[0]


def topic_of(route: Route, topic_id: str = "first") -> Topic:
    return Topic(name=route.topic, topic_id=topic_id, partitions=2)


def decoded(route: Route, records: list[tuple[int, int, dict[str, Any] | bytes]]) -> pa.Table:
    """Records (partition, offset, message) as the streaming query decodes them."""
    batch = pa.RecordBatch.from_pylist(
        [
            {
                "value": said if isinstance(said, bytes) else orjson.dumps({"schema": 1, **said}),
                "partition": partition,
                "offset": offset,
                "timestamp": TAKEN,
            }
            for partition, offset, said in records
        ]
    )
    return pa.Table.from_batches(route.rows([batch]))


def event(number: int, user: str = "u1") -> dict[str, Any]:
    return {
        "event_id": f"e{number}",
        "user_id": user,
        "item_id": "i1",
        "action": "click",
        "ts": TS + number,
    }


def item(title: str, updated_at: int) -> dict[str, Any]:
    return {"item_id": "i1", "updated_at": updated_at, "title": title, "attributes": {"fat": "3%"}}


def test_a_row_holds_keys_times_and_its_place(home: Settings, events: Route) -> None:
    land(home, events, topic_of(events), decoded(events, [(1, 7, event(1))]))
    (row,) = rows(home, EVENTS)
    assert row == {
        "event_id": "e1",
        "event_key": key_of("event", "e1"),
        "user_id": "u1",
        "user_key": key_of("user", "u1"),
        "item_id": "i1",
        "item_key": key_of("item", "i1"),
        "action": "click",
        "ts": datetime(2025, 11, 18, 12, 0, 0, 1000, tzinfo=UTC),
        "ingested_at": TAKEN,
        "source": f"kafka:{events.topic}:1:7",
        "search_id": None,
        "position": None,
        "shop": None,
    }


def test_a_replayed_batch_lands_once_also_when_it_has_grown(home: Settings, events: Route) -> None:
    topic = topic_of(events)
    first = [(0, 0, event(0)), (1, 0, event(1)), (0, 1, b"broken")]
    assert land(home, events, topic, decoded(events, first)) == 2
    assert land(home, events, topic, decoded(events, first)) == 0
    assert land(home, events, topic, decoded(events, [*first, (0, 2, event(2))])) == 1
    assert sorted(row["event_id"] for row in rows(home, EVENTS)) == ["e0", "e1", "e2"]
    assert position(home, events, topic).offsets == {0: 3, 1: 1}


def test_a_topic_that_was_made_anew_starts_at_zero(home: Settings, events: Route) -> None:
    land(home, events, topic_of(events), decoded(events, [(0, 5, event(1))]))
    again = topic_of(events, "second")
    assert land(home, events, again, decoded(events, [(0, 0, event(2))])) == 1
    assert position(home, events, again).offsets == {0: 1}


def test_of_an_item_the_newest_update_stays_whatever_the_order(home: Settings) -> None:
    route = routes(home.kafka)[2]
    topic = topic_of(route)
    batch = [(0, 0, item("second", TS + 2)), (0, 1, item("first", TS + 1))]
    land(home, route, topic, decoded(route, batch))
    land(home, route, topic, decoded(route, [(0, 2, item("older still", TS))]))
    assert [row["title"] for row in rows(home, ITEMS)] == ["second"]
    land(home, route, topic, decoded(route, [(0, 3, item("corrected", TS + 2))]))
    (row,) = rows(home, ITEMS)
    assert (row["title"], row["attributes"]) == ("corrected", [("fat", "3%")])


def test_ids_are_recorded_once(home: Settings, events: Route) -> None:
    ids = Ids(home)
    batch = decoded(events, [(0, 0, event(0)), (0, 1, event(1, "u2")), (0, 2, event(2))])
    assert ids.add(events, batch) == 3
    assert ids.add(events, batch) == 0
    # What another process wrote meanwhile is seen.
    others = {"kind": ["user"], "id": ["u3"], "key": [key_of("user", "u3")]}
    lake.open_table(home, IDS).append(pa.table(others, schema=IDS.schema))
    assert ids.add(events, decoded(events, [(0, 3, event(3, "u3"))])) == 0
    found = [(row["kind"], row["id"]) for row in rows(home, IDS)]
    assert sorted(found) == [("item", "i1"), ("user", "u1"), ("user", "u2"), ("user", "u3")]


def test_a_rejected_record_stands_in_the_lake_once(home: Settings) -> None:
    table = RejectedTable(home)
    row = {
        "source": "kafka:events:0:1",
        "place": "events:0:1",
        "reason": "empty",
        "raw": b"x",
        "rejected_at": TAKEN,
    }
    of_another_topic_of_that_name = {**row, "raw": b"y"}
    assert table.add([row, row]) == 1
    assert table.add([row, row]) == 0
    assert table.add([of_another_topic_of_that_name]) == 1


def test_a_rejected_record_travels_with_its_bytes() -> None:
    record = RejectedRecord(
        topic="t", partition=1, offset=2, rejected=Rejected(reason="broken", raw=bytes(range(256)))
    )
    assert decode(encode(record)) == record


def test_the_largest_rejected_record_fits_its_topic() -> None:
    raw = b"\xff" * (3 * MAX_RAW_BYTES)
    record = RejectedRecord(
        topic="t" * 200, partition=1, offset=2, rejected=Rejected(reason="r" * 9000, raw=raw)
    )
    message = encode(record)
    assert len(message) < MAX_REJECTED_BYTES
    assert orjson.loads(message)["raw_bytes"] == len(raw)
    assert decode(message).rejected.raw == raw[:MAX_RAW_BYTES]


@pytest.mark.parametrize("raw", [b"", b"{", b"{}", b"[]", b'{"topic":"t","partition":"x"}'])
def test_what_is_no_rejected_record_is_a_value_error(raw: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        decode(raw)
