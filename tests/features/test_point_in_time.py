"""Law 3 through the production build and Feast's own join, for many untidy histories at once.

Also on the same tables: reruns (law 6), and what materialising brings online.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest
from pyspark.sql import SparkSession

from jobs.batch import build, history, item_stats
from jobs.batch.build import Days
from jobs.batch.materialise import materialise
from pagoda import features, lake, online_layout, store
from pagoda.errors import NothingToDo
from pagoda.features import View
from pagoda.ids import key_of
from pagoda.online import OnlineReader, connect
from pagoda.settings import Settings
from pagoda.statistics import Statistic
from pagoda.windows import WindowSpec
from tests.conftest import Home
from tests.features import arrivals as generated
from tests.features.arrivals import CLICK_ACTIONS, DAY, FIRST, LAST, PRICES
from tests.features.reading import entity_frame, historical, part, windows_of
from tests.features.test_statistics import view_of
from tests.features.test_versions import as_of
from tests.features.test_windows import as_lists, defined
from tests.oracles import features as oracle
from tests.oracles.features import Arrival

pytestmark = pytest.mark.spark

USERS, MOMENTS = 120, 6


@dataclass(frozen=True)
class Built:
    settings: Settings
    by_user: dict[str, list[Arrival]]
    summary: list[dict[str, Any]]


@pytest.fixture(scope="module")
def built(spark: SparkSession, home: Home) -> Built:
    """Histories of many users in the lake, all views built, the store applied."""
    settings = home("law3")
    rng = np.random.default_rng(3)
    by_user = {f"law3-{n}": generated.of_user(f"law3-{n}", rng) for n in range(USERS)}
    generated.fill_lake(settings, [each for found in by_user.values() for each in found])
    summary = build.build_all(spark, settings, Days(first=FIRST, last=LAST))
    store.apply(settings)
    return Built(settings, by_user, summary)


def test_training_rows_equal_a_naive_replay(built: Built) -> None:
    rng = np.random.default_rng(4)
    users = {key_of("user", user): found for user, found in built.by_user.items()}
    pairs = [
        (key, t) for key, found in users.items() for t in generated.moments(found, rng, MOMENTS)
    ]
    spec = WindowSpec()
    seen = 0
    frame = entity_frame(pairs, "user_key")
    for row in historical(built.settings, features.SEQUENCES_STATS_V1, frame):
        known = oracle.known(users[row["user_key"]], at_ms=row["t"])
        happened = [each.happening for each in known]
        found = as_lists(windows_of(row))
        assert found == defined(happened, row["t"], spec, click_actions=CLICK_ACTIONS)
        seen += any(found.values())
    assert seen > len(pairs) / 2


def test_a_row_is_seen_from_its_midnight_to_the_last_moment_of_its_life(built: Built) -> None:
    """A frame for each moment: what the join reads at all depends on all of them."""
    ttl_ms = (features.USER_DAY.ttl_days or 0) * DAY
    first, last = generated.midnight(FIRST), generated.midnight(LAST)
    user = _always_on_time(built)

    def seen(at_ms: int) -> bool:
        frame = entity_frame([(user, at_ms + 1)], "user_key")
        (row,) = historical(built.settings, features.SEQUENCES_V1, frame)
        return part(row, features.USER_DAY)["click_ts"] is not None

    assert [seen(first - 1), seen(first)] == [False, True]
    assert [seen(last + ttl_ms), seen(last + ttl_ms + 1)] == [True, False]


def _always_on_time(built: Built) -> int:
    """A user of whose every day there is a row, and one version of it."""
    table = lake.open_table(built.settings, features.USER_DAY.table)
    days = (LAST - FIRST).days + 1
    by_user = (
        pl.from_arrow(table.scan().to_arrow())
        .group_by("user_key")
        .agg(pl.len(), (pl.col("created") < pl.col("event_timestamp")).sum().alias("on_time"))
        .filter((pl.col("len") == days) & (pl.col("on_time") == days))
    )
    return int(by_user["user_key"].min())


def test_user_statistics_equal_a_naive_count(built: Built) -> None:
    users = {key_of("user", user): found for user, found in built.by_user.items()}
    noon = generated.midnight(LAST) + DAY // 2
    pairs = [(key, noon - back * DAY) for key in users for back in (0, 3)]
    frame = entity_frame([*pairs, *pairs[:5]], "user_key")  # who asks twice is answered twice
    for row in historical(built.settings, features.SEQUENCES_STATS_V1, frame):
        expected = oracle.user_stats(
            users[row["user_key"]], at_ms=row["t"], click_actions=CLICK_ACTIONS, prices=PRICES
        )
        found = part(row, features.USER_STATS)
        if expected is None:  # nothing this month; a row of four days ago may still be valid
            assert found["clicks_7d"] in (None, 0)
            continue
        mean, expected_mean = found.pop("mean_price_30d"), expected.pop("mean_price_30d")
        assert found == expected
        assert (mean is None) == (expected_mean is None)
        assert mean is None or math.isclose(mean, expected_mean)


def test_what_a_user_had_equals_a_naive_count(built: Built) -> None:
    rng = np.random.default_rng(6)
    users = {key_of("user", user): found for user, found in built.by_user.items()}
    pairs = [(key, t) for key, found in users.items() for t in generated.moments(found, rng, 3)]
    spec, seen = features.OWNED, 0
    frame = entity_frame(pairs, "user_key")
    for row in historical(built.settings, features.SEQUENCES_OWNED_V1, frame):
        expected = oracle.user_items(
            users[row["user_key"]],
            at_ms=row["t"],
            click_actions=CLICK_ACTIONS,
            days=spec.days,
            most=spec.most,
        )
        found = part(row, features.USER_ITEMS)
        assert {name: values and list(values) for name, values in found.items()} == (
            expected or dict.fromkeys(found)
        )
        seen += expected is not None
    assert seen > len(pairs) / 2


def test_item_statistics_equal_a_naive_count(built: Built) -> None:
    everything = [each for found in built.by_user.values() for each in found]
    rng = np.random.default_rng(5)
    items = [key_of("item", item) for item in list(generated.ITEMS)[:4]]
    pairs = [(key, t) for key in items for t in generated.moments(everything, rng, 5)]
    for row in historical(built.settings, features.ITEMS_V1, entity_frame(pairs, "item_key")):
        expected = oracle.item_stats(
            everything, row["item_key"], at_ms=row["t"], click_actions=CLICK_ACTIONS
        )
        assert part(row, features.ITEM_STATS) == expected
        assert row["item_profile__price"] == PRICES[row["item_key"]]


def test_any_declared_statistic_of_an_item_equals_a_naive_count(
    spark: SparkSession, built: Built
) -> None:
    view = view_of(
        features.ITEM_STATS,
        [
            Statistic(aggregation="count", of=("collect",), days=3),
            Statistic(aggregation="count", of=("click", "collect"), days=40),
            Statistic(aggregation="distinct_users", of=("buy",), days=2),
            Statistic(aggregation="distinct_users", of=("buy", "collect"), days=20),
        ],
    )
    first = FIRST - timedelta(days=view.reach_days)
    read = history.read(spark, built.settings, click_actions=CLICK_ACTIONS, first=first, last=LAST)
    rows = item_stats.build(read, first=FIRST, last=LAST, view=view).toArrow().to_pylist()
    everything = [each for found in built.by_user.values() for each in found]
    rng = np.random.default_rng(6)
    for item in list(generated.ITEMS)[:3]:
        key = key_of("item", item)
        of_item = [each for each in everything if each.happening.what == key]
        for at_ms in generated.moments(of_item, rng, 4):
            day = oracle.day_number(at_ms - 1)
            found = as_of(
                [r for r in rows if r["item_key"] == key and r["day"].toordinal() == day], at_ms
            )
            # A resent event is what it was first said to be, of this item or of another.
            known = [e for e in oracle.known(everything, at_ms=at_ms) if e.happening.what == key]
            for name, each in view.statistics.items():
                assert found.get(name, 0) == oracle.statistic(
                    known,
                    at_ms=at_ms,
                    aggregation=each.aggregation,
                    of=each.of,
                    days=each.days,
                    click_actions=CLICK_ACTIONS,
                    prices=PRICES,
                ), (item, at_ms, str(each))


def test_item_statistics_row_by_row(spark: SparkSession) -> None:
    """At the edges of a window, of a day and of a build; other actions; what came at midnight."""
    day, hour = generated.midnight(FIRST), DAY // 24
    events = [  # of item 7 but for the last one: user, role, ts, ingested
        (1, history.CLICK, day - 3 * DAY, day - 3 * DAY),
        (1, history.CLICK, day - 2 * DAY, day - 2 * DAY),
        (2, history.CLICK, day - 2 * hour, day - 2 * hour),
        (2, history.CLICK, day - hour, day - hour),
        (2, history.CLICK, day - 3 * hour, day),
        (3, history.BUY, day - hour, day - hour),
    ]
    frame = spark.createDataFrame(
        [(8 if role == history.BUY else 7, user, role, *at) for user, role, *at in events],
        "item_key long, user_key long, role byte, ts long, ingested long",
    )
    view = view_of(
        features.ITEM_STATS,
        [
            Statistic(aggregation="count", of=("click",), days=3),
            Statistic(aggregation="distinct_users", of=("click",), days=3),
        ],
    )
    last = FIRST + timedelta(days=1)
    rows = item_stats.build(frame, first=FIRST, last=last, view=view).toArrow().to_pylist()
    found = [
        (
            row["item_key"],
            row["day"],
            _ms(row["event_timestamp"]),
            _ms(row["created"]),
            row["s0_3d"],
            row["s1_3d"],
        )
        for row in rows
    ]
    assert sorted(found) == [
        (7, FIRST, day, day - hour, 4, 2),
        (7, FIRST, day, day, 5, 2),
        (7, last, day + DAY, day, 4, 2),
    ]


def _ms(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)


def test_no_two_versions_of_a_row_share_their_created_time(
    spark: SparkSession, built: Built
) -> None:
    for view in features.VIEWS:
        table = spark.table(lake.spark_name(built.settings, view.table))
        versions = table.groupBy(view.entity, "event_timestamp", "created").count()
        assert table.count() > 0
        assert versions.where("count > 1").isEmpty()


def test_building_a_day_again_replaces_that_day_with_the_same_rows(
    spark: SparkSession, built: Built
) -> None:
    day = date(2024, 2, 29)
    before = {view.name: contents(built, view) for view in features.VIEWS}
    build.build_all(spark, built.settings, Days(first=day, last=day))
    for view in features.VIEWS:
        files, rows = contents(built, view)
        files_before, rows_before = before[view.name]
        assert rows == rows_before
        moved = {each for each, file in files_before.items() if files.get(each) != file}
        assert moved == (set() if view is features.ITEM_PROFILE else {day})


def contents(built: Built, view: View) -> tuple[dict[date, set[str]], list[Any]]:
    """Data files by day, and all rows in an order of their own."""
    table = lake.open_table(built.settings, view.table)
    files: dict[date, set[str]] = {}
    for task in table.scan().plan_files():
        day = date(1970, 1, 1) + timedelta(days=task.file.partition[0])
        files.setdefault(day, set()).add(task.file.file_path)
    order = [(name, "ascending") for name in (view.entity, "event_timestamp", "created")]
    return files, table.scan().to_arrow().sort_by(order).to_pylist()


def test_days_without_events_are_refused(spark: SparkSession, built: Built) -> None:
    day = date(2030, 1, 1)
    with pytest.raises(NothingToDo, match="no events or searches"):
        build.build_all(spark, built.settings, Days(first=day, last=day))


@pytest.mark.servers
def test_what_is_materialised_is_read_back_through_feast(
    spark: SparkSession, built: Built, redis_server: Settings
) -> None:
    settings = with_redis(built.settings, redis_server)
    at = datetime(LAST.year, LAST.month, LAST.day, 12, tzinfo=UTC)
    summary = {row["view"]: row["entities"] for row in materialise(spark, settings, at=at)}
    assert set(summary) == {
        view.name for view in features.VIEWS if view.online_writer == "materialise"
    }
    feature_store = store.open_store(settings, offline=False)
    for view in features.VIEWS:
        if view.online_writer != "materialise":
            continue
        rows = newest_valid(settings, view, at)
        assert len(rows) == summary[view.name]
        online = feature_store.get_online_features(
            features=[f"{view.name}:{column}" for column in view.columns],
            entity_rows=[{view.entity: key} for key in rows],
        ).to_dict()
        for position, key in enumerate(online[view.entity]):
            for column in view.columns:
                expected = rows[key][column]
                assert (online[column][position] or None) == (expected or None), column


@pytest.mark.servers
def test_rows_of_those_whom_the_lake_has_forgotten_are_taken_out(
    spark: SparkSession, built: Built, redis_server: Settings
) -> None:
    settings = with_redis(built.settings, redis_server)
    gone = key_of("user", "left the shop")
    client = connect(settings)
    midnight = datetime(LAST.year, LAST.month, LAST.day, tzinfo=UTC)
    stamp = online_layout.stamp(int(midnight.timestamp() * 1000))
    row = {name: np.empty(0, np.int64) for name in features.USER_DAY.columns}
    held: dict[Any, Any] = online_layout.encode(features.USER_DAY, [row])[0]
    held[online_layout.stamp_field(features.USER_DAY)] = stamp
    stream_stamp = online_layout.stamp_field(features.USER_INTRADAY)
    key = online_layout.Keys("user_key").of(gone)
    client.hset(key, mapping=held | {stream_stamp: stamp})

    at = datetime(LAST.year, LAST.month, LAST.day, 12, tzinfo=UTC)
    (summary,) = materialise(spark, settings, at=at, views=[features.USER_DAY])

    assert summary["withdrawn"] >= 1
    assert set(client.hgetall(key)) == {stream_stamp}
    reader = OnlineReader(settings, features.SEQUENCES_V1, client=client)
    someone = next(iter(newest_valid(settings, features.USER_DAY, at)))
    assert reader.read_stamped([someone])[0]["user_day"] is not None
    client.delete(key)


def newest_valid(settings: Settings, view: View, at: datetime) -> dict[int, dict[str, Any]]:
    rows = lake.open_table(settings, view.table).scan().to_arrow().to_pylist()
    newest: dict[int, dict[str, Any]] = {}
    for row in sorted(rows, key=lambda row: (row["event_timestamp"], row["created"])):
        young = view.ttl_days is None or row["event_timestamp"] >= at - timedelta(view.ttl_days)
        if row["event_timestamp"] <= at and young:
            newest[row[view.entity]] = row
    return newest


@pytest.mark.servers
def test_materialising_without_valid_rows_fails(
    spark: SparkSession, built: Built, redis_server: Settings
) -> None:
    settings = with_redis(built.settings, redis_server)
    with pytest.raises(NothingToDo, match="user_day, user_items, user_stats, item_stats"):
        materialise(spark, settings, at=datetime(2024, 6, 1, tzinfo=UTC))


def with_redis(settings: Settings, running: Settings) -> Settings:
    from pydantic import SecretStr

    redis = running.redis.model_copy(update={"password": SecretStr(running.redis_password())})
    return settings.model_copy(update={"redis": redis})
