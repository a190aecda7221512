"""A user who is forgotten: gone from every file but Kafka's, and no replay brings them back."""

from __future__ import annotations

import os
import shutil
import struct
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from kafka import KafkaProducer
from pyiceberg.manifest import ManifestFile

from jobs.batch import build
from jobs.batch.build import Days
from jobs.batch.plan import described
from jobs.checks.positions import Positions
from jobs.forget.run import forget, look
from pagoda import dataset, forgotten, lake, online_layout, pins, store, topics
from pagoda.errors import NothingToDo
from pagoda.features import SEQUENCES_V1, USER_DAY
from pagoda.ids import key_of
from pagoda.online import OnlineReader
from pagoda.schemas import EVENTS, IDS, REJECTED, SEARCHES, SERVED, Table
from pagoda.settings import Settings
from tests.stream.conftest import Jobs, rows, send, until

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

pytestmark = [pytest.mark.servers, pytest.mark.spark]
USER, OTHER = "forget-me-not", "stays-here"
KEY = key_of("user", USER)
NOW_MS = int(time.time() * 1000)
DAY_MS = 86_400_000
TODAY = datetime.fromtimestamp(NOW_MS / 1000, UTC).date()
BROKEN = b'{"schema":1,"user_id":"' + USER.encode() + b'","event_id":'


def behaviour(user: str, ts: int, name: str) -> list[dict[str, Any]]:
    common = {"user_id": user, "ts": ts}
    return [
        {**common, "event_id": f"{user}-{name}", "item_id": "i1", "action": "click"},
        {**common, "search_id": f"{user}-s{name}", "query": f"of {name}"},
    ]


SENT = [
    each
    for user in (USER, OTHER)
    for name, ts in (("today", NOW_MS - 60_000), ("yesterday", NOW_MS - DAY_MS))
    for each in behaviour(user, ts, name)
]


@pytest.fixture(scope="module")
def known(
    road_home: Settings, road_jobs: Jobs, producer: KafkaProducer, spark: SparkSession
) -> Settings:
    """A home that knows two users everywhere: streamed, landed, built, online, tagged, sampled."""
    home = road_home
    dataset.save(
        home,
        dataset.Dataset(
            name="road",
            first_day=TODAY - timedelta(days=30),
            last_day=TODAY,
            validation_from=TODAY - timedelta(days=14),
            test_from=TODAY - timedelta(days=7),
            query_protocol="made up",
            fingerprint="0",
        ),
    )
    road_jobs.start("sequences")
    road_jobs.start("landing")
    send(home, producer, SENT)
    producer.send(home.kafka.events_topic, key=b"x", value=BROKEN).get(timeout=30)
    wait_until_read(home)
    until(lambda: rejected_of_user(home) == 1, what="the broken record has landed")
    build.build_all(spark, home, Days(first=TODAY, last=TODAY))
    now = datetime.now(UTC)
    store.open_store(home).materialize(now - timedelta(days=4), now, feature_views=[USER_DAY.name])
    sample = {"search_id": "s", "user_key": KEY, "t": now, "bundle": "b", "features": f'"{KEY}"'}
    lake.open_table(home, SERVED).append(pa.Table.from_pylist([sample], schema=SERVED.schema))
    newest = {table.name: lake.open_table(home, table).current_snapshot() for table in TAGGED}
    with pins.held(home, "old", {name: each.snapshot_id for name, each in newest.items() if each}):
        pass
    copied = home.scratch / "train-0" / "rows"
    copied.mkdir(parents=True)
    (copied / "rows.txt").write_text(f"{KEY}")
    (home.logs / "serving.log").write_text(f"bad row of user {USER} user_key={KEY}\nall well\n")
    leave_orphan(home)
    return home


TAGGED = (EVENTS, USER_DAY.table)


def leave_orphan(home: Settings) -> None:
    """What a landing leaves that was killed an hour ago, before its commit."""
    task = next(
        task
        for task in lake.open_table(home, EVENTS).scan(f"user_key == {KEY}").plan_files()
        if KEY in pq.read_table(local(task.file.file_path))["user_key"].to_pylist()
    )
    path = local(task.file.file_path)
    left = path.with_name("00000-0-left.parquet")
    shutil.copy(path, left)
    os.utime(left, (time.time() - 3600,) * 2)


def wait_until_read(home: Settings) -> None:
    """Until both jobs have passed the topics' ends."""
    with topics.admin(home) as admin:
        positions = Positions(home, admin)
        ends = positions.ends()
        positions.wait_landed(ends, 120)
        positions.wait_consumed(ends, 120)


def rejected_of_user(home: Settings) -> int:
    return sum(USER.encode() in row["raw"] for row in rows(home, REJECTED))


def of_user(home: Settings, user: str) -> dict[str, list[str]]:
    """A user's events and searches in the lake."""
    return {
        table.name: sorted(
            row[column] for row in rows(home, table) if row["user_key"] == key_of("user", user)
        )
        for table, column in ((EVENTS, "event_id"), (SEARCHES, "search_id"))
    }


def others_in(home: Settings, table: Table) -> list[dict[str, Any]]:
    return sorted((row for row in rows(home, table) if row["user_key"] != KEY), key=repr)


def online(home: Settings, user: str) -> dict[str, Any]:
    reader = OnlineReader(home, SEQUENCES_V1)
    rows = reader.read(key_of("user", user), int(time.time() * 1000))
    return {view: row and online_layout.plain(row) for view, row in rows.items()}


def test_a_look_finds_the_user_everywhere_and_changes_nothing(
    known: Settings, spark: SparkSession
) -> None:
    before = of_user(known, USER)
    found = {each.place: each for each in look(spark, known, USER)}
    counts = {place: each.found for place, each in found.items() if each.found}
    views = ("user_day", "user_intraday", "user_items", "user_stats")
    assert all(
        counts.pop(f"lake: {view}") > 0 for view in views
    )  # how many rows depends on when Kafka took the messages
    assert counts == {
        "lake: events": 2,
        "lake: searches": 2,
        "lake: served": 1,
        "lake: ids": 1,
        "lake: rejected": 1,
        "online store": 1,
        "scratch": 1,
        "logs": 2,
    }
    assert "bundle-old" in found["lake: events"].note
    assert of_user(known, USER) == before
    assert online(known, USER)["user_intraday"]
    with pytest.raises(NothingToDo, match="nothing is known"):
        forget(spark, known, f"{USER}?")


def test_nothing_on_the_disk_holds_the_user_any_more(
    known: Settings, spark: SparkSession, redis_server: Settings
) -> None:
    others = of_user(known, OTHER), online(known, OTHER)
    kept = {table: others_in(known, table) for table in TAGGED}
    places = {each.place: each for each in forget(spark, known, USER)}
    assert places["lake: events"].found == 2
    assert places["online store"].note == "append-only file written anew"
    kafka = places[f"topic: {known.kafka.events_topic}"].note
    assert f"until {datetime.now(UTC) + timedelta(days=8):%Y-%m-%d}" in kafka

    holding = [*naming(known.home), *naming(redis_server.data("redis"))]
    assert holding == [forgotten.path(known)]
    assert [path for table in lake.TABLES for path in data_files_holding(known, table)] == []
    assert online(known, USER) == {"user_day": None, "user_intraday": None}
    assert (of_user(known, OTHER), online(known, OTHER)) == others
    for table in TAGGED:  # what was trained on is there as it was, but for the user
        tagged = lake.tags(lake.open_table(known, table))["bundle-old"]
        left = lake.open_table(known, table).scan(snapshot_id=tagged).to_arrow()
        assert sorted(left.to_pylist(), key=repr) == kept[table]


def test_only_counts_of_items_need_building_again(known: Settings, spark: SparkSession) -> None:
    plan = described(build.changed(spark, known, end=TODAY))
    assert {row["views"] for row in plan} == {"item_stats"}


def test_a_replay_brings_nothing_back_and_a_new_event_begins_anew(
    known: Settings, producer: KafkaProducer, spark: SparkSession
) -> None:
    send(known, producer, SENT)
    producer.send(known.kafka.events_topic, key=b"x", value=BROKEN).get(timeout=30)
    wait_until_read(known)
    assert of_user(known, USER) == {"events": [], "searches": []}
    assert online(known, USER)["user_intraday"] is None
    assert [row for row in rows(known, IDS) if row["id"] == USER] == []

    with forgotten.consulted(known) as listed:
        new_ms = listed.until_ms[KEY]
    send(known, producer, behaviour(USER, new_ms, "new"))
    send(known, producer, behaviour(OTHER, new_ms, "new"))
    wait_until_read(known)
    assert of_user(known, USER)["events"] == [f"{USER}-new"]
    assert online(known, USER)["user_intraday"]["click_ts"] == [new_ms]
    assert len([row for row in rows(known, IDS) if row["id"] == USER]) == 1
    assert rejected_of_user(known) == 0

    places = {each.place: each.found for each in forget(spark, known, USER)}
    assert (places["lake: events"], places["lake: ids"], places["online store"]) == (1, 1, 1)
    assert of_user(known, USER) == {"events": [], "searches": []}


# Looking at bytes -------------------------------------------------------------------------------


def naming(folder: Path) -> list[Path]:
    """Files in which the id stands, or the key as text or as eight bytes."""
    words = [USER.encode(), str(KEY).encode(), struct.pack("<q", KEY), struct.pack(">q", KEY)]
    return [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and any(word in path.read_bytes() for word in words)
    ]


def data_files_holding(home: Settings, table: Table) -> Iterator[Path]:
    """Of a table's folder, known to a snapshot or not: Parquet decoded, manifests' bounds too."""
    found = lake.open_table(home, table)
    folder = local(found.location())
    for path in folder.rglob("*"):
        if path.suffix == ".parquet":
            text = repr(pq.read_table(path).to_pylist())
            if str(KEY) in text or USER in text:
                yield path
        elif path.is_file() and USER.encode() in path.read_bytes():
            yield path
    for snapshot in found.metadata.snapshots:
        for manifest in snapshot.manifests(found.io):
            assert isinstance(manifest, ManifestFile)
            for entry in manifest.fetch_manifest_entry(found.io, discard_deleted=False):
                bounds = entry.data_file.lower_bounds | entry.data_file.upper_bounds
                if {struct.pack("<q", KEY), USER.encode()[:16]} & set(bounds.values()):
                    yield local(manifest.manifest_path)


def local(location: str) -> Path:
    return Path(urlparse(location).path)
