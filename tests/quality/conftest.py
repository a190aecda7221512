"""A small shop whose features are two weeks old, made up, and not all as they should be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pytest
from feast.infra.online_stores.helpers import _mmh3 as field_hash

from jobs.quality.check import Report, check
from pagoda import lake, servers, topics
from pagoda.features import ITEM_PROFILE, SEQUENCES_V1, USER_DAY, USER_STATS, View
from pagoda.ids import key_of
from pagoda.online import OnlineReader, connect
from pagoda.publisher import open_producer
from pagoda.schemas import EVENTS
from pagoda.settings import Settings
from tests.conftest import NewHome
from tests.serving import online_rows

# The check's clock: after all that is written, also when other tests have run for long before.
NOW = datetime.now(UTC) + timedelta(minutes=50)
TODAY = NOW.date()
WRITTEN_MS = int(NOW.timestamp() * 1000) - 60_000  # the newest rows online
USERS = 20
WAITING = 3  # messages that nobody reads
Rows = Mapping[str, list[dict[str, Any]]]


@dataclass(frozen=True)
class Shop:
    """The home, the rows of its views as they were written, and what the check found."""

    settings: Settings
    rows: Rows
    report: Report


@pytest.fixture(scope="session")
def shop(new_home: NewHome, kafka_server: Settings) -> Shop:
    """Views with drift, nulls, a ragged row; online rows old and damaged; unread messages."""
    up = servers.up(new_home(), ["redis"])
    names = {"events_topic": "quality-events", "searches_topic": "quality-searches"}
    kafka = kafka_server.kafka.model_copy(update=names | {"stream_group": "quality"})
    settings = up.model_copy(update={"kafka": kafka})
    topics.ensure(settings)
    lake.create_all(settings)
    rows = {
        view.name: made for view, made in ((USER_DAY, _user_day()), (USER_STATS, _user_stats()))
    }
    rows[ITEM_PROFILE.name] = _item_profile()
    for view in (USER_DAY, USER_STATS, ITEM_PROFILE):
        lake.open_table(settings, view.table).append(
            pa.Table.from_pylist(rows[view.name], schema=view.table.schema)
        )
    _write_event(settings)
    _write_online(settings)
    _send(settings)
    return Shop(settings, rows, check(settings, at=NOW, say=lambda _: None))


def _head(view: View, key: int, day: date) -> dict[str, Any]:
    at = datetime(day.year, day.month, day.day, tzinfo=UTC)
    return {view.entity: key, "event_timestamp": at, "created": at - timedelta(hours=1), "day": day}


def _days() -> list[date]:
    return [TODAY - timedelta(days=back) for back in range(13, -1, -1)]


def _user_day() -> list[dict[str, Any]]:
    """This week's clicks are many more; one row's lists differ in length."""
    rng = np.random.default_rng(1)
    made = []
    for number, day in enumerate(_days()):
        for user in range(USERS):
            row = _head(USER_DAY, user, day)
            for column, kind in USER_DAY.columns.items():
                prefix, _, part = column.rpartition("_")
                if part == "ts":
                    most = 40 if prefix == "click" and number >= 7 else 8
                    length = int(rng.integers(0, most))
                row[column] = (["milk"] if kind.value_type == pa.string() else [7]) * length
            made.append(row)
    made[-1]["query_texts"] = [*made[-1]["query_texts"], "one more"]
    return made


def _user_stats() -> list[dict[str, Any]]:
    """A count is null, which no build leaves; prices are null only this week."""
    rng = np.random.default_rng(2)
    made = []
    for number, day in enumerate(_days()):
        for user in range(USERS):
            row = _head(USER_STATS, user, day)
            for column in USER_STATS.columns:
                row[column] = int(rng.integers(0, 6))
            null = number >= 7 and user % 2
            row["mean_price_30d"] = None if null else round(float(rng.lognormal()), 2)
            made.append(row)
    made[-1]["clicks_7d"] = None
    return made


def _item_profile() -> list[dict[str, Any]]:
    """A catalogue of a month ago, and one item more this week."""
    made = []
    for item in range(30):
        day = TODAY - timedelta(days=30 if item else 1)
        row = _head(ITEM_PROFILE, item, day) | dict.fromkeys(ITEM_PROFILE.columns)
        made.append(row | {"item_id": f"i{item}", "brand": "" if item % 3 else f"b{item % 5}"})
    return made


def _write_event(settings: Settings) -> None:
    """Something happened, and `user_intraday` has no row of it."""
    event = {
        "event_id": "e",
        "event_key": 1,
        "user_id": "u",
        "user_key": 1,
        "item_id": "i",
        "item_key": 1,
        "action": "click",
        "ts": NOW,
        "ingested_at": NOW,
        "source": "made",
    }
    lake.open_table(settings, EVENTS).append(pa.Table.from_pylist([event], schema=EVENTS.schema))


def _write_online(settings: Settings) -> None:
    """Rows of today, of five days ago, and one that cannot be read."""
    full = {"user_day": {c: [1, 2] for c in USER_DAY.columns} | {"query_texts": ["a", "b"]}}
    empty = {"user_day": {c: [] for c in USER_DAY.columns if c != "query_texts"}}
    for user, rows, days in (("full", full, 0), ("empty", empty, 0), ("old", full, 5)):
        online_rows.write(settings, user, rows, at_ms=WRITTEN_MS - days * 86_400_000)
    online_rows.write(settings, "damaged", full, at_ms=WRITTEN_MS)
    with connect(settings) as client:
        key = OnlineReader(settings, SEQUENCES_V1, client=client).redis_key(
            key_of("user", "damaged")
        )
        client.hset(key, field_hash("user_day:click_ts"), b"\xff\xff")


def _send(settings: Settings) -> None:
    producer = open_producer(settings)
    for number in range(WAITING):
        producer.send(settings.kafka.events_topic, key=b"u", value=orjson.dumps({"n": number}))
    producer.close()
