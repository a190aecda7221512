"""Kafka to lake and online store by the real jobs: exactly once, and parity (laws 4 and 5)."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import orjson
import polars as pl
import pyarrow as pa
import pytest
from feast.infra.online_stores.helpers import _mmh3 as field_hash
from feast.protos.feast.types.Value_pb2 import Value
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from jobs.batch.build import Days, build_all
from jobs.checks import contracts, parity, served_parity
from jobs.checks.positions import Positions
from pagoda import dataset, lake, store, textfile, topics
from pagoda.features import SEQUENCES_V1, USER_DAY, USER_INTRADAY
from pagoda.ids import key_of
from pagoda.online import OnlineReader, connect
from pagoda.publisher import open_producer
from pagoda.schemas import EVENTS, IDS, ITEMS, REJECTED, SEARCHES
from pagoda.settings import Settings
from serving.served import Served, ServedLog
from tests.stream.conftest import Jobs, rows, send, until

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

pytestmark = [pytest.mark.servers, pytest.mark.spark]
USERS = 12
IN_FLIGHT_S = 1.0
_SLIPPED = {(side, why) for side in ("online", "offline") for why in ("other_window", "pushed_out")}


def messages(prefix: str, count: int) -> list[dict[str, Any]]:
    """Clicks and searches of `USERS` users, just now, mostly in order: late ones cost versions."""
    now_ms = int(time.time() * 1000)
    made = []
    for number in range(count):
        late_ms = 700 if number % 23 == 0 else 0
        ts = now_ms - count + number - late_ms
        common = {"user_id": f"{prefix}{number % USERS}", "ts": ts}
        if number % 4 == 0:
            made.append({**common, "search_id": f"{prefix}s{number}@{now_ms}", "query": "oat milk"})
        else:
            event = {"event_id": f"{prefix}e{number}@{now_ms}", "item_id": f"i{number % 9}"}
            made.append({**common, **event, "action": "click"})
    return made


def wait_until_landed(settings: Settings) -> None:
    with topics.admin(settings) as admin:
        positions = Positions(settings, admin)
        positions.wait_landed(positions.ends(), 120)


def test_landing_killed_in_mid_load_lands_every_record_exactly_once(
    road_home: Settings, producer: KafkaProducer, road_jobs: Jobs
) -> None:
    kafka = road_home.kafka
    road_jobs.start("landing")
    sent = messages("landed", 900)
    send(road_home, producer, sent[:300])
    until(lambda: bool(rows(road_home, EVENTS)), what="some have landed")
    send(road_home, producer, sent[300:600])
    road_jobs.kill("landing")
    send(road_home, producer, sent[600:])
    bad = producer.send(kafka.events_topic, key=b"x", value=b"{").get(timeout=30)
    for update in ({"title": "Oat milk", "price": 2}, {"title": "", "price": -1}):
        item = {"schema": 1, "item_id": "i1", "updated_at": sent[0]["ts"], **update}
        producer.send(kafka.items_topic, key=b"i1", value=orjson.dumps(item)).get(timeout=30)
    road_jobs.start("sequences")
    road_jobs.start("landing")
    wait_until_landed(road_home)

    landed = Counter(
        row["event_id"] if "event_id" in row else row["search_id"]
        for table in (EVENTS, SEARCHES)
        for row in rows(road_home, table)
    )
    assert landed == Counter(
        each["search_id"] if "query" in each else each["event_id"] for each in sent
    )
    until(lambda: len(rows(road_home, REJECTED)) == 2, what="rejected records have landed")
    reasons = {row["place"]: row["reason"] for row in rows(road_home, REJECTED)}
    assert "not JSON" in reasons[f"{kafka.events_topic}:{bad.partition}:{bad.offset}"]
    assert any(reason.startswith("price: ") for reason in reasons.values())
    assert [row["title"] for row in rows(road_home, ITEMS)] == ["Oat milk"]
    ids = Counter((row["kind"], row["id"]) for row in rows(road_home, IDS))
    assert set(ids.values()) == {1}
    assert {id_ for kind, id_ in ids if kind == "user"} == {each["user_id"] for each in sent}


def test_a_landed_row_was_ingested_when_kafka_took_it(road_home: Settings) -> None:
    taken = _taken(road_home, road_home.kafka.searches_topic)
    landed = {row["source"]: row["ingested_at"] for row in rows(road_home, SEARCHES)}
    assert landed == taken


def test_parity_is_green_while_events_arrive_and_red_after_a_changed_byte(
    road_home: Settings, spark: SparkSession, road_jobs: Jobs
) -> None:
    _write_history(road_home)
    now = datetime.now(UTC)
    days = Days(first=now.date(), last=now.date())
    build_all(spark, road_home, days, views=SEQUENCES_V1.views)
    # Parity compares sequences: the other views need not be online.
    store.open_store(road_home).materialize(
        now - timedelta(days=4), now, feature_views=[USER_DAY.name]
    )
    assert [each for each in contracts.check(road_home) if each.problems] == []
    road_jobs.start("sequences")
    road_jobs.start("landing")

    with _events_arriving(road_home):
        report = parity.check(spark, road_home, users=2 * USERS, say=print)
    assert report.different == []
    assert report.compared >= USERS
    assert report.elements > 10 * report.compared

    changed = _change_a_byte(road_home, f"known{USERS - 1}")
    report = parity.check(spark, road_home, users=2 * USERS, say=print)
    assert {each.user for each in report.different} == {f"known{USERS - 1}"}
    assert {each.window for each in report.different} == {"real_time"}
    assert {each.side: each.value for each in report.different} == {
        "offline": changed[0],
        "online": changed[1],
    }
    for each in report.different:
        assert each.why == "other_value"
        assert (each.source or "").startswith(f"kafka:{road_home.kafka.events_topic}:")
    assert "pagoda_parity_online_differences 2.0" in _published(road_home, report)


def test_what_was_served_equals_its_training_row_and_an_altered_sample_does_not(
    road_home: Settings, spark: SparkSession, road_jobs: Jobs, producer: KafkaProducer
) -> None:
    road_jobs.start("sequences")
    road_jobs.start("landing")
    users = [f"known{number}" for number in range(USERS - 1)]  # the last one's row is damaged
    moving = users[:4]
    send(road_home, producer, messages("known", len(moving)))
    serve(road_home, users, prefix="busy")
    time.sleep(2 * IN_FLIGHT_S)
    serve(road_home, users, prefix="quiet")
    today = datetime.now(UTC).date()
    requests = served_parity.sample(
        road_home, first=today - timedelta(days=1), last=today, limit=1000
    )
    one = requests.filter(pl.col("search_id") == "quiet-known1")
    report = served_parity.check(
        lambda: spark,
        road_home,
        pl.concat([requests, _altered(one, "changed"), _altered(one, "lost")]),
        in_flight_s=IN_FLIGHT_S,
        say=print,
    )
    assert report.skipped == {"in_flight": [f"busy-{user}" for user in moving], "robots": []}
    assert report.compared == 2 * len(users) - len(moving) + 2
    assert report.elements > 10 * report.compared
    found = {
        name: {(each.side, each.why) for each in report.different if each.request == name}
        for name in {each.request for each in report.different}
    }
    # One click less lets an older one slip from the short term into the real-time window, and one
    # into a window that was full.
    assert {name: whys - _SLIPPED for name, whys in found.items()} == {
        "changed": {("online", "other_value"), ("offline", "other_value")},
        "lost": {("offline", "not_streamed")},
    }


def serve(settings: Settings, users: list[str], *, prefix: str) -> None:
    """Read users as the search service does, and sample every request."""
    everything = settings.serving.model_copy(update={"served_sample": 1.0, "served_flush_s": 60})
    log = ServedLog(settings.model_copy(update={"serving": everything}))
    reader = OnlineReader(settings, SEQUENCES_V1)
    for user in users:
        t, key = time.time_ns() // 1_000_000, key_of("user", user)
        rows = reader.alive_at(reader.read_stamped([key])[0], t)
        name = f"{prefix}-{user}"
        log.offer(Served(search_id=name, user_key=key, at_ms=t, bundle="b", rows=rows))
    log.close()
    assert log.written == len(users)


def _altered(request: pl.DataFrame, how: str) -> pl.DataFrame:
    """The same request under another name, its newest streamed click changed or lost."""
    features = orjson.loads(request["features"][0])
    row = features[USER_INTRADAY.name]
    if how == "changed":
        row["click_items"][-1] ^= 1
    else:
        for column in ("click_ts", "click_events", "click_items"):
            row[column].pop()
    return request.with_columns(
        search_id=pl.lit(how), features=pl.lit(orjson.dumps(features).decode())
    )


def _published(settings: Settings, report: parity.Report) -> str:
    report.publish(settings)
    return textfile.texts(settings).decode()


def _write_history(settings: Settings) -> None:
    """A month of an imported shop: known when it happened."""
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    days = [(today - timedelta(days=each)).date() for each in (30, 1, 14, 7)]
    dataset.save(
        settings,
        dataset.Dataset(
            name="road",
            first_day=days[0],
            last_day=days[1],
            validation_from=days[2],
            test_from=days[3],
            query_protocol="made up",
            fingerprint="0",
        ),
    )
    events, searches = [], []
    for number in range(USERS * 60):
        user = f"known{number % USERS}"
        moment = today - timedelta(minutes=1 + (number * 7919) % (29 * 24 * 60))
        common = {
            "user_id": user,
            "user_key": key_of("user", user),
            "ts": moment,
            "ingested_at": moment,
            "source": "import",
        }
        if number % 5 == 0:
            search = {"search_id": f"s{number}", "search_key": key_of("search", f"s{number}")}
            searches.append({**common, **search, "query": f"words {number}"})
            continue
        item, action = f"i{number % 9}", ("click", "click", "buy", "collect")[number % 4]
        event = {"event_id": f"e{number}", "event_key": key_of("event", f"e{number}")}
        of_item = {"item_id": item, "item_key": key_of("item", item), "action": action}
        events.append({**common, **event, **of_item})
    for table, made in ((EVENTS, events), (SEARCHES, searches)):
        lake.open_table(settings, table).append(pa.Table.from_pylist(made, schema=table.schema))


@contextmanager
def _events_arriving(settings: Settings) -> Iterator[None]:
    """Somebody clicks and searches all the time."""
    stop = threading.Event()
    producer = open_producer(settings)

    def run() -> None:
        while not stop.wait(0.5):
            send(settings, producer, messages("known", 5))

    send(settings, producer, messages("known", 5 * USERS))
    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        producer.close(timeout=1)
        wait_until_landed(settings)


def _change_a_byte(settings: Settings, user: str) -> tuple[int, int]:
    """Change one byte of the user's newest item online; returns the item before and after."""
    reader = OnlineReader(settings, SEQUENCES_V1)
    field = field_hash(f"{USER_INTRADAY.name}:click_items")
    with connect(settings) as client:
        key = reader.redis_key(key_of("user", user))
        raw = bytearray(client.hget(key, field) or b"")
        before = Value.FromString(bytes(raw)).int64_list_val.val[-1]
        raw[-2] ^= 1  # within the last number, so that it stays a number
        client.hset(key, field, bytes(raw))
        return before, Value.FromString(bytes(raw)).int64_list_val.val[-1]


def _taken(settings: Settings, topic: str) -> dict[str, datetime]:
    """Source of each record of a topic to its LogAppendTime."""
    consumer = KafkaConsumer(
        bootstrap_servers=settings.kafka.bootstrap_servers, auto_offset_reset="earliest"
    )
    try:
        partitions = [TopicPartition(topic, each) for each in range(settings.kafka.partitions)]
        consumer.assign(partitions)
        ends = consumer.end_offsets(partitions)
        found = {}
        while any(consumer.position(each) < ends[each] for each in partitions):
            for records in consumer.poll(timeout_ms=500).values():
                for each in records:
                    place = f"kafka:{topic}:{each.partition}:{each.offset}"
                    found[place] = datetime.fromtimestamp(each.timestamp / 1000, UTC)
        return found
    finally:
        consumer.close()
