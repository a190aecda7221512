"""All sequences again, from the lake and Kafka, beside a consumer that goes on writing."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pytest
from kafka import KafkaConsumer, KafkaProducer

from jobs.checks.positions import Positions
from jobs.stream import known
from jobs.stream.landed import land
from jobs.stream.rebuild import Rebuilt, rebuild
from jobs.stream.routes import routes
from pagoda import online_layout, topics
from pagoda.features import USER_INTRADAY
from pagoda.ids import key_of
from pagoda.online import OnlineReader, connect
from pagoda.publisher import open_producer
from pagoda.settings import PROJECT_ROOT, Settings
from tests.stream.conftest import Jobs, MakeHome, environment, send
from tests.stream.test_consumer_process import (
    INTRADAY,
    assert_online_is_what_was_sent,
    forget,
    history,
    wait_until_consumed,
)

pytestmark = pytest.mark.servers


def test_everything_is_healed_while_events_arrive(
    stream_home: Settings, producer: KafkaProducer, jobs: Jobs
) -> None:
    jobs.start("sequences")
    spoilt = ("rebuilt-35", "rebuilt-36")
    made = history("rebuilt", 3_000)
    sent, coming = made[:2000], made[2000:]
    # A message of theirs would have the consumer mend their rows before they are looked at.
    coming = [each for each in coming if each["user_id"] not in spoilt]
    send(stream_home, producer, sent[:1000])
    _land(stream_home)  # what comes from now on is only in Kafka
    send(stream_home, producer, sent[1000:])
    wait_until_consumed(stream_home)
    _rebuild(stream_home)  # rows that other tests have left are not to be counted

    forget(stream_home, [each for each in sent if each["user_id"] < "rebuilt-3"])
    _spoil(stream_home, *spoilt)
    with _arriving(stream_home, coming):
        done = _rebuild(stream_home)
    assert (done.damaged, done.wrong) == (1, 1)
    assert done.missing + done.behind >= 20
    wait_until_consumed(stream_home)
    assert_online_is_what_was_sent(stream_home, [*sent, *coming])
    again = _rebuild(stream_home, dry_run=True)
    assert faults_of(again) == (0, 0, 0, 0)


def test_users_go_through_memory_in_portions(
    stream_home: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(known, "_ROWS_AT_ONCE", 100)
    done = _rebuild(stream_home, dry_run=True)
    assert done.users >= 40
    assert faults_of(done) == (0, 0, 0, 0)


def test_the_command_says_what_it_found_and_heals_a_store_that_lost_everything(
    stream_home: Settings, producer: KafkaProducer, jobs: Jobs
) -> None:
    jobs.start("sequences")
    sent = history("flushed", 200)
    send(stream_home, producer, sent)
    wait_until_consumed(stream_home)
    forget(stream_home, sent)
    would, did = (_command(stream_home, *options) for options in (["--dry-run"], []))
    assert would["missing"] == did["missing"] == did["written"] >= 40
    assert would["written"] == 0
    assert_online_is_what_was_sent(stream_home, sent)


def test_where_kafka_has_lost_what_never_landed_rows_keep_what_only_they_hold(
    make_home: MakeHome, producer: KafkaProducer
) -> None:
    home = make_home("gap_tests")
    sent = history("gap", 200)
    send(home, producer, sent)
    written = _rebuild(home)
    assert written.lost == []
    with topics.admin(home) as admin:
        admin.delete_records(dict(Positions(home, admin).ends()))
    forget(home, [each for each in sent if each["user_id"] == "gap-1"])
    again = _rebuild(home)
    assert len(again.lost) == 2 * home.kafka.partitions
    assert faults_of(again) == (0, 0, 0, 0)
    assert_online_is_what_was_sent(home, [each for each in sent if each["user_id"] != "gap-1"])


def faults_of(done: Rebuilt) -> tuple[int, int, int, int]:
    return done.missing, done.damaged, done.wrong, done.behind


def _rebuild(settings: Settings, *, dry_run: bool = False) -> Rebuilt:
    return rebuild(
        settings,
        dry_run=dry_run,
        clock_ms=lambda: time.time_ns() // 1_000_000,
        progress=lambda *_: None,
    )


def _command(settings: Settings, *options: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "jobs.stream.cli", "rebuild", "--json", *options],
        cwd=PROJECT_ROOT,
        env=environment(settings),
        capture_output=True,
        text=True,
        check=True,
    )
    said: dict[str, Any] = json.loads(done.stdout)
    return said


def _land(settings: Settings) -> None:
    """What landing does with all that the topics hold now, without Spark."""
    known_topics = topics.ensure(settings)
    with topics.admin(settings) as admin:
        ends = Positions(settings, admin).ends()
    consumer = KafkaConsumer(
        bootstrap_servers=settings.kafka.bootstrap_servers, auto_offset_reset="earliest"
    )
    try:
        consumer.assign(list(ends))
        found: dict[str, list[dict[str, Any]]] = {partition.topic: [] for partition in ends}
        while any(consumer.position(partition) < end for partition, end in ends.items()):
            for partition, records in consumer.poll(timeout_ms=500).items():
                found[partition.topic] += [
                    {
                        "value": record.value,
                        "partition": record.partition,
                        "offset": record.offset,
                        "timestamp": datetime.fromtimestamp(record.timestamp / 1000, UTC),
                    }
                    for record in records
                ]
    finally:
        consumer.close()
    for route in routes(settings.kafka)[:2]:
        records = pa.RecordBatch.from_pylist(found[route.topic])
        rows = pa.Table.from_batches(list(route.rows([records])), schema=route.schema)
        land(settings, route, known_topics[route.topic], rows)


def _spoil(settings: Settings, damaged: str, different: str) -> None:
    """Cut a value of one user's row short; let another's hold an item that was never clicked."""
    reader, names = OnlineReader(settings, INTRADAY), online_layout.fields(USER_INTRADAY)
    with connect(settings) as client:
        key = reader.redis_key(key_of("user", damaged))
        client.hset(key, names[1], (client.hget(key, names[1]) or b"")[:-1])
        key = reader.redis_key(key_of("user", different))
        items = online_layout.Value.FromString(client.hget(key, names[2]))
        items.int64_list_val.val[-1] += 1
        client.hset(key, names[2], items.SerializeToString())


@contextmanager
def _arriving(settings: Settings, messages: list[dict[str, Any]]) -> Iterator[None]:
    """They arrive while the block runs, and to the last one before it ends."""

    def run() -> None:
        producer = open_producer(settings)
        for start in range(0, len(messages), 10):
            send(settings, producer, messages[start : start + 10])
            time.sleep(0.01)
        producer.close(timeout=1)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        thread.join()
