"""The consumer as a process: killed, starved of Redis, fed rubbish; nothing is lost."""

from __future__ import annotations

import base64
import subprocess
import sys
import time
from typing import Any

import orjson
import pytest
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from jobs.checks.positions import Positions
from jobs.stream import readiness
from jobs.stream.sequences import instance_name
from jobs.stream.source import Source
from pagoda import online_layout, servers, topics
from pagoda.errors import Conflict
from pagoda.features import USER_INTRADAY, Service
from pagoda.ids import key_of
from pagoda.messages import MAX_MESSAGE_BYTES
from pagoda.online import OnlineReader, connect
from pagoda.settings import PROJECT_ROOT, Settings
from tests.oracles import sequences as oracle
from tests.stream.conftest import Jobs, environment, send, until

pytestmark = pytest.mark.servers
INTRADAY = Service(name="intraday", description="", views=(USER_INTRADAY,))
USERS = 40


def history(prefix: str, count: int) -> list[dict[str, Any]]:
    """Clicks, purchases and searches of the last days, in no order, some twice."""
    now_ms = int(time.time() * 1000)
    made = []
    for number in range(count):
        user = f"{prefix}-{number % USERS}"
        ts = now_ms - (number * 7_919_777) % (3 * oracle.DAY_MS)
        if number % 5 == 0:
            made.append(
                {
                    "search_id": f"{prefix}-s{number}",
                    "user_id": user,
                    "query": f"words {number}",
                    "ts": ts,
                }
            )
        else:
            made.append(
                {
                    "event_id": f"{prefix}-e{number}",
                    "user_id": user,
                    "item_id": f"i{number % 11}",
                    "action": "buy" if number % 7 == 0 else "click",
                    "ts": ts,
                }
            )
    return made + made[::9]


def assert_online_is_what_was_sent(settings: Settings, sent: list[dict[str, Any]]) -> None:
    now_ms = int(time.time() * 1000)
    expected = oracle.online_rows(sent, now_ms=now_ms)
    users = sorted(expected)
    found = OnlineReader(settings, INTRADAY).read_many(
        [key_of("user", user) for user in users], now_ms
    )
    for user, rows in zip(users, found, strict=True):
        row = rows[USER_INTRADAY.name]
        assert row is not None, user
        assert online_layout.plain(row) == expected[user], user


def forget(settings: Settings, sent: list[dict[str, Any]]) -> None:
    reader = OnlineReader(settings, INTRADAY)
    with connect(settings) as client:
        client.delete(*{reader.redis_key(key_of("user", each["user_id"])) for each in sent})


def is_online(settings: Settings, user: str) -> bool:
    rows = OnlineReader(settings, INTRADAY).read(key_of("user", user), int(time.time() * 1000))
    return rows[USER_INTRADAY.name] is not None


def wait_until_consumed(settings: Settings) -> None:
    with topics.admin(settings) as admin:
        positions = Positions(settings, admin)
        positions.wait_consumed(positions.ends(), 120)


def test_kill_9_in_mid_load_loses_and_doubles_nothing(
    stream_home: Settings, producer: KafkaProducer, jobs: Jobs
) -> None:
    sent = history("killed", 6_000)
    jobs.start("sequences")
    send(stream_home, producer, sent[: len(sent) // 2])
    until(lambda: is_online(stream_home, "killed-1"), what="some are online")
    send(stream_home, producer, sent[len(sent) // 2 :])
    jobs.kill("sequences")
    jobs.start("sequences")
    wait_until_consumed(stream_home)
    assert_online_is_what_was_sent(stream_home, sent)


def test_redis_goes_and_comes_back_and_what_it_lost_is_merged_again(
    stream_home: Settings, redis_server: Settings, producer: KafkaProducer, jobs: Jobs
) -> None:
    jobs.start("sequences")
    before = history("forgotten", 100)
    send(stream_home, producer, before)
    wait_until_consumed(stream_home)
    # Redis syncs its log once a second: killed, it has lost what it acknowledged last.
    forget(stream_home, before)
    servers.down(redis_server, ["redis"])
    sent = history("starved", 500)
    try:
        send(stream_home, producer, sent)
        until(
            lambda: "redis does not answer" in jobs.log("sequences").read_text(),
            what="the log names Redis",
        )
    finally:
        servers.up(redis_server, ["redis"])
    wait_until_consumed(stream_home)
    assert_online_is_what_was_sent(stream_home, sent)
    until(lambda: is_online(stream_home, "forgotten-1"), what="the lost rows are back")
    wait_until_consumed(stream_home)
    assert_online_is_what_was_sent(stream_home, before)
    assert jobs.running["sequences"].poll() is None


def test_consumers_that_join_leave_and_die_in_mid_load_lose_and_double_nothing(
    stream_home: Settings, producer: KafkaProducer, jobs: Jobs
) -> None:
    sent = history("shared", 6_000)
    parts = iter([sent[at::6] for at in range(6)])
    jobs.start("sequences")
    send(stream_home, producer, next(parts))
    jobs.start("sequences-2")
    send(stream_home, producer, next(parts))
    jobs.start("sequences-3")
    send(stream_home, producer, next(parts))
    until(lambda: partitions_of(stream_home) == {1: 2, 2: 2, 3: 2}, what="each has its share")
    jobs.kill("sequences-3")  # for good: the others get its partitions when its session ends
    send(stream_home, producer, next(parts))
    assert jobs.stop("sequences-2") < 5
    jobs.kill("sequences")
    send(stream_home, producer, next(parts))
    jobs.start("sequences-2")
    jobs.start("sequences")
    send(stream_home, producer, next(parts))
    wait_until_consumed(stream_home)
    assert_online_is_what_was_sent(stream_home, sent)
    until(lambda: partitions_of(stream_home) == {1: 4, 2: 2}, what="the dead one's are taken over")
    jobs.stop("sequences-2")


def test_a_second_consumer_of_one_number_is_refused(stream_home: Settings, jobs: Jobs) -> None:
    jobs.start("sequences")
    done = subprocess.run(
        [sys.executable, "-m", "jobs.stream.sequences"],
        cwd=PROJECT_ROOT,
        env=environment(stream_home),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == Conflict.exit_code
    assert "--instance 2" in done.stderr


def partitions_of(settings: Settings) -> dict[int, int]:
    """How many partitions each consumer that lives has, by its number."""
    found = {}
    for number in (1, 2, 3):
        of = readiness.read(settings, instance_name(number)) or {}
        if of:
            found[number] = sum(map(len, of.values()))
    return found


def test_short_polls_do_not_keep_a_consumer_from_joining(stream_home: Settings) -> None:
    for number in range(4):
        kafka = stream_home.kafka.model_copy(update={"stream_group": f"short-{number}"})
        source = Source(stream_home.model_copy(update={"kafka": kafka}))
        try:
            started = time.monotonic()
            while not source.joined and time.monotonic() - started < 30:
                source.poll(0.001)
            # Both topics whole: what it was given first is what it keeps.
            assert {topic: len(of) for topic, of in source.positions().items()} == {
                kafka.events_topic: kafka.partitions,
                kafka.searches_topic: kafka.partitions,
            }
        finally:
            source.close()


def test_what_cannot_be_read_lands_in_the_rejected_topic_with_its_place(
    stream_home: Settings, producer: KafkaProducer, jobs: Jobs
) -> None:
    jobs.start("sequences")
    topic = stream_home.kafka.events_topic
    bad = {
        b"": "empty message",
        b"{": "not JSON",
        b'{"schema":1}': "event_id",
        b"x" * (MAX_MESSAGE_BYTES + 1): "oversized",
        b"y" * 1_000_000: "oversized",
    }
    good = history("neighbour", 50)
    send(stream_home, producer, good[:20])
    placed = {}
    for raw in bad:
        done = producer.send(topic, key=b"neighbour-1", value=raw).get(timeout=30)
        placed[done.partition, done.offset] = raw
    tombstone = producer.send(topic, key=b"neighbour-1", value=None).get(timeout=30)
    send(stream_home, producer, good[20:])
    wait_until_consumed(stream_home)
    said = {(each["partition"], each["offset"]): each for each in _rejected(stream_home, topic)}
    for place, raw in placed.items():
        assert bad[raw] in said[place]["reason"]
        assert base64.b64decode(said[place]["raw_base64"]) == raw
        assert said[place]["topic"] == topic
    assert "empty" in said[tombstone.partition, tombstone.offset]["reason"]
    assert_online_is_what_was_sent(stream_home, good)


def test_an_event_is_readable_within_a_second_and_sigterm_ends_within_five(
    stream_home: Settings, producer: KafkaProducer, jobs: Jobs
) -> None:
    jobs.start("sequences")
    waits = []
    for number in range(5):
        (event,) = history(f"quick{number}", 2)[1:2]
        started = time.monotonic()
        send(stream_home, producer, [event])
        until(lambda user=event["user_id"]: is_online(stream_home, user), what="it is online")
        waits.append(time.monotonic() - started)
    assert min(waits) < 1
    assert jobs.stop("sequences") < 5


def _rejected(settings: Settings, topic: str) -> list[dict[str, Any]]:
    partition = TopicPartition(settings.kafka.rejected(topic), 0)
    consumer = KafkaConsumer(
        bootstrap_servers=settings.kafka.bootstrap_servers, auto_offset_reset="earliest"
    )
    try:
        consumer.assign([partition])
        end = consumer.end_offsets([partition])[partition]
        found: list[dict[str, Any]] = []
        while consumer.position(partition) < end:
            for records in consumer.poll(timeout_ms=500).values():
                found += [orjson.loads(record.value) for record in records]
        return found
    finally:
        consumer.close()
