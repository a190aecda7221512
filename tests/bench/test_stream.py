"""`pagoda bench stream` in short: everybody reads the same, and the rows are right."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from kafka import KafkaConsumer, TopicPartition

from jobs.bench.stream import Load, Race, Sampled, bench, first_click
from jobs.bench.traffic import Traffic
from jobs.world import World
from pagoda import topics
from pagoda.errors import CheckFailed
from pagoda.features import CANDIDATES, USER_INTRADAY
from pagoda.ids import key_of
from pagoda.online import connect
from pagoda.settings import Settings, Stream
from tests.stream.conftest import environment
from tests.stream.test_consumer_process import assert_online_is_what_was_sent

ASKED = Load(events=3_000, users=50, skew=1, rates=(300,), seconds=1, rounds=1, seed=3)


@pytest.fixture(scope="module")
def private(
    kafka_server: Settings, redis_server: Settings, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    """Topics, a group and a home of this module's own, on the session's servers."""
    home: Path = tmp_path_factory.mktemp("bench")
    (home / "secrets").symlink_to(kafka_server.home / "secrets")
    names = {"events_topic": "bench-e", "searches_topic": "bench-s", "items_topic": "bench-i"}
    made = kafka_server.model_copy(
        update={
            "home": home,
            "kafka": kafka_server.kafka.model_copy(update=names),
            "redis": redis_server.redis,
            "stream": Stream(metrics_port=0, rewind_s=1),
        }
    )
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment(made).items():
            patch.setenv(name, value)
        yield World(home=home, settings=made)


def messages(settings: Settings) -> list[dict[str, Any]]:
    """All that lies in the topics."""
    consumer = KafkaConsumer(bootstrap_servers=settings.kafka.bootstrap_servers)
    try:
        partitions = [
            TopicPartition(topic, number)
            for topic in (settings.kafka.events_topic, settings.kafka.searches_topic)
            for number in range(settings.kafka.partitions)
        ]
        consumer.assign(partitions)
        consumer.seek_to_beginning()
        ends, found = consumer.end_offsets(partitions), []
        while any(consumer.position(each) < ends[each] for each in partitions):
            for records in consumer.poll(timeout_ms=500).values():
                found += [orjson.loads(record.value) for record in records]
        return found
    finally:
        consumer.close()


@pytest.mark.servers
def test_all_contestants_read_all_records_and_the_rows_are_those_of_a_naive_replay(
    private: World,
) -> None:
    rows, facts = bench(private, ASKED)
    assert [row["measured"] for row in rows] == [
        "sequences, topics filled",
        "kafka-python, topics filled",
        "confluent-kafka, topics filled",
        "sequences, 300 events/s",
    ]
    sent = messages(private.settings)
    assert len(sent) > ASKED.events
    assert rows[-1]["clicks followed"] > 0
    assert facts["rows"] == len({each["user_id"] for each in sent if moves(each)})
    assert_online_is_what_was_sent(private.settings, sent)


@pytest.mark.servers
def test_a_row_that_was_not_written_is_noticed(private: World) -> None:
    topics.ensure(private.settings)
    traffic = Traffic(users=5, skew=0, seed=0, name="unsent")
    traffic.movers.add("bench-nobody")
    with (
        connect(private.settings) as redis,
        pytest.raises(CheckFailed, match="did not write every row"),
    ):
        Race(private, ASKED, traffic)._check_rows(redis)


def test_seed_users_and_skew_determine_the_messages() -> None:
    def made(**changed: Any) -> list[str]:
        options = {"users": 100, "skew": 1.0, "seed": 1, "name": "n"} | changed
        return Traffic(**options).take(2_000, at_ms=1_795_000_000_000).values

    assert made() == made()
    assert made() != made(seed=2)
    even, uneven = (busiest(made(skew=skew)) for skew in (0.0, 1.0))
    assert even < 0.03  # of 100 users
    assert 0.15 < uneven < 0.25  # 1 / (1 + 1/2 + ... + 1/100) = 0.19


def busiest(values: list[str]) -> float:
    users = [orjson.loads(value)["user_id"] for value in values]
    return users.count("bench-u0") / len(users)


def moves(message: dict[str, Any]) -> bool:
    return message.get("action", "click") == "click"


@pytest.mark.parametrize(
    ("held", "came"),
    [
        ([(7, "n-0")], True),
        ([(7, "another")], False),
        ([(8 + n, f"later-{n}") for n in range(CANDIDATES.clicks)], True),  # pushed out since
        ([(8 + n, f"later-{n}") for n in range(CANDIDATES.clicks - 1)], False),
    ],
)
def test_a_click_that_is_followed_has_come_when_the_row_shows_it(
    held: list[tuple[int, str]], came: bool
) -> None:
    sampled = Sampled()
    click = {"action": "click", "user_id": "u", "event_id": "n-0", "ts": 7}
    followed = first_click([orjson.dumps({"query": "tea"}).decode(), orjson.dumps(click).decode()])
    assert followed == (key_of("user", "u"), key_of("event", "n-0"), 7)
    sampled.waiting[followed[0]] = (*followed[1:], 0.0)
    row = {
        "click_ts": [ts for ts, _ in held],
        "click_events": [key_of("event", name) for _, name in held],
    }
    sampled.look(Reader(row))
    assert bool(sampled.seconds) is came
    assert bool(sampled.waiting) is not came


class Reader:
    """Shows everybody the same row."""

    def __init__(self, row: dict[str, list[int]]) -> None:
        self._row = row

    def read_many(self, keys: list[int], now_ms: int) -> list[Any]:  # noqa: ARG002
        return [{USER_INTRADAY.name: self._row} for _ in keys]
