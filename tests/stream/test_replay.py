"""Recorded days through Kafka again, single messages, and searches published by serving."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pytest
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from jobs.stream.replay import Replay, play, recorded
from jobs.stream.replay import send as send_one
from pagoda import lake
from pagoda.errors import InputError, NothingToDo
from pagoda.ids import key_of
from pagoda.messages import Event, Search
from pagoda.publisher import SearchPublisher
from pagoda.schemas import EVENTS, SEARCHES
from pagoda.settings import Settings

pytestmark = pytest.mark.servers
DAY = date(2026, 11, 2)
START = datetime(2026, 11, 2, 9, tzinfo=UTC)


@pytest.fixture(scope="module")
def home(
    make_home: Callable[[str], Settings], tmp_path_factory: pytest.TempPathFactory
) -> Settings:
    """Topics of its own; a lake with three users' morning, one event of it resent."""
    folder: Path = tmp_path_factory.mktemp("replay_lake")
    made = make_home("replay_tests").model_copy(update={"home": folder})
    events = [
        _row("e1", "u1", 0, item_id="i1", action="click", search_id="s1", position=3),
        _row("e2", "u2", 2, item_id="i1", action="buy", shop="north"),
        _row("e1", "u1", 0, item_id="i1", action="click", search_id="s1", position=3),
        _row("e3", "u1", -60 * 60 * 24, item_id="i2", action="cart"),
    ]
    searches = [_row("s1", "u1", 0, query="oat milk"), _row("s2", "u3", 1, query="rice")]
    for table, kind, found in ((EVENTS, "event", events), (SEARCHES, "search", searches)):
        for each in found:
            each[f"{kind}_id"] = each.pop("id")
            each[f"{kind}_key"] = key_of(kind, each[f"{kind}_id"])  # type: ignore[arg-type]
        lake.open_table(made, table).append(pa.Table.from_pylist(found, schema=table.schema))
    return made


def _row(id_: str, user: str, second: int, **fields: Any) -> dict[str, Any]:
    ts = START + timedelta(seconds=second)
    keys: dict[str, Any] = {"user_key": key_of("user", user)}
    if "item_id" in fields:
        keys["item_key"] = key_of("item", fields["item_id"])
    return {
        "id": id_,
        "user_id": user,
        "ts": ts,
        "ingested_at": ts,
        "source": "t",
        **keys,
        **fields,
    }


def plan(**fields: Any) -> Replay:
    return Replay(**{"first": DAY, "last": DAY, "speed": 0, **fields})


def test_each_recorded_message_comes_once_in_order_and_a_search_before_its_click(
    home: Settings,
) -> None:
    found = recorded(home, plan())
    assert [each.search_id if isinstance(each, Search) else each.event_id for each in found] == [
        "s1", "e1", "s2", "e2",
    ]  # fmt: skip
    first = START.timestamp() * 1000
    assert found[1] == Event(
        event_id="e1",
        user_id="u1",
        item_id="i1",
        action="click",
        ts=int(first),
        search_id="s1",
        position=3,
    )


def test_fewer_users_are_always_the_same_ones(home: Settings) -> None:
    chosen = recorded(home, plan(users=1))
    assert {each.user_id for each in chosen} == {min(("u1", "u2", "u3"), key=_key)}


def _key(user: str) -> int:
    return key_of("user", user)


def test_a_replay_as_recorded_repeats_ids_and_times(
    home: Settings, producer: KafkaProducer
) -> None:
    before = ends(home)
    messages = recorded(home, plan())
    told: list[int] = []
    done = play(messages, plan(), settings=home, producer=producer, advance=told.append)
    assert (done.events, done.searches, sum(told)) == (2, 2, 4)
    sent = since(home, before)
    assert {(each.get("event_id"), each.get("search_id"), each["ts"]) for each in sent} == {
        (getattr(each, "event_id", None), each.search_id, each.ts) for each in messages
    }


def test_a_replay_as_of_now_is_paced_and_has_new_ids(
    home: Settings, producer: KafkaProducer
) -> None:
    before = ends(home)
    now_ms = time.time() * 1000
    shifted = plan(speed=10, shift_to_now=True)
    done = play(
        recorded(home, shifted), shifted, settings=home, producer=producer, advance=lambda _: None
    )
    assert 0.2 <= done.seconds < 2
    sent = since(home, before)
    assert all(each["ts"] >= now_ms - 1 for each in sent)
    clicked = next(each for each in sent if each.get("event_id", "").startswith("e1~"))
    searched = next(each for each in sent if each.get("query") == "oat milk")
    assert clicked["search_id"] == searched["search_id"] != "s1"


def test_one_message_is_acknowledged_with_its_place(
    home: Settings, producer: KafkaProducer
) -> None:
    before = ends(home)
    search = Search(search_id="x", user_id="u9", query="tea", ts=int(time.time() * 1000))
    partition, offset = send_one(home, producer, search)
    assert offset == before[TopicPartition(home.kafka.searches_topic, partition)]


def test_every_wrong_option_is_said() -> None:
    with pytest.raises(InputError) as failed:
        Replay(first=DAY, last=DAY - timedelta(days=1), speed=-1, users=0)
    assert len(failed.value.problems) == 3


def test_days_without_events_are_nothing_to_do(home: Settings) -> None:
    with pytest.raises(NothingToDo, match="2026-01-01"):
        recorded(home, plan(first=date(2026, 1, 1), last=date(2026, 1, 2)))


# What serving publishes --------------------------------------------------------------------------


def test_published_searches_arrive_and_publishing_never_waits(home: Settings) -> None:
    before = ends(home)
    publisher = SearchPublisher(home)
    started = time.monotonic()
    now_ms = int(time.time() * 1000)
    for number in range(200):
        assert publisher.publish(
            Search(search_id=f"p{number}", user_id=f"u{number}", query="tea", ts=now_ms)
        )
    assert time.monotonic() - started < 0.5
    publisher.close()
    assert (publisher.published, publisher.failed, publisher.pending) == (200, 0, 0)
    assert {each["search_id"] for each in since(home, before)} == {f"p{n}" for n in range(200)}


def test_without_kafka_searches_are_kept_up_to_a_bound_and_then_refused(home: Settings) -> None:
    nowhere = home.model_copy(
        update={"kafka": home.kafka.model_copy(update={"bootstrap_servers": "127.0.0.1:1"})}
    )
    publisher = SearchPublisher(nowhere, capacity=2)
    taken = [
        publisher.publish(Search(search_id=str(n), user_id="u", query="tea", ts=START_MS))
        for n in range(3)
    ]
    assert taken == [True, True, False]
    publisher.close(timeout_s=0.1)
    assert (publisher.published, publisher.failed, publisher.refused) == (0, 2, 1)


START_MS = int(START.timestamp() * 1000)


def ends(settings: Settings) -> dict[TopicPartition, int]:
    """Where the topics end."""
    consumer = KafkaConsumer(bootstrap_servers=settings.kafka.bootstrap_servers)
    try:
        found: dict[TopicPartition, int] = consumer.end_offsets(_partitions(settings))
        return found
    finally:
        consumer.close()


def since(settings: Settings, before: dict[TopicPartition, int]) -> list[dict[str, Any]]:
    """The messages sent since."""
    consumer = KafkaConsumer(bootstrap_servers=settings.kafka.bootstrap_servers)
    try:
        consumer.assign(list(before))
        for partition, offset in before.items():
            consumer.seek(partition, offset)
        now = consumer.end_offsets(list(before))
        found: list[dict[str, Any]] = []
        while any(consumer.position(each) < now[each] for each in before):
            for records in consumer.poll(timeout_ms=500).values():
                found += [orjson.loads(each.value) for each in records]
        return found
    finally:
        consumer.close()


def _partitions(settings: Settings) -> list[TopicPartition]:
    kafka = settings.kafka
    return [
        TopicPartition(topic, number)
        for topic in (kafka.events_topic, kafka.searches_topic)
        for number in range(kafka.partitions)
    ]
