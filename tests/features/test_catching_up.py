"""What a build covers when nobody says from which day on, and what it does to profiles."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyspark.sql import SparkSession

from jobs.batch import build, item_profile
from jobs.batch.build import Days
from jobs.batch.plan import NEW, UNKNOWN, described
from jobs.lake import care
from pagoda import features, lake, schemas
from pagoda.errors import NothingToDo
from pagoda.settings import Settings
from tests.conftest import Home
from tests.features import arrivals as generated
from tests.features.arrivals import FIRST, LAST
from tests.oracles.features import Arrival
from tests.oracles.windows import Happening

pytestmark = pytest.mark.spark

END = LAST + timedelta(days=1)
NOW = datetime(2024, 3, 4, 1, tzinfo=UTC)
NOONS = [datetime(2024, 2, 26, 12, tzinfo=UTC) - timedelta(days=n) for n in range(-6, 30)]
BEFORE = "user_day, user_items, user_stats, item_stats"
ALL = "user_day, user_intraday, user_items, user_stats, item_stats"
NEW_DAY = {"first": str(END), "last": str(END), "views": ALL, "why": NEW}
_DICE = np.random.default_rng(8)
EVERYTHING = [each for number in range(6) for each in generated.of_user(f"late-{number}", _DICE)]


def click(ts: datetime, *, ingested: datetime, key: int = 1, action: str = "click") -> Arrival:
    happening = Happening(ts=_ms(ts), key=key, what=7, action=action)
    return Arrival(user="late", ingested=_ms(ingested), happening=happening)


def tables(settings: Settings) -> dict[str, list[dict[str, Any]]]:
    """Every row of the views with rows by day, in an order of their own."""
    return {
        view.name: lake.open_table(settings, view.table)
        .scan()
        .to_arrow()
        .sort_by([(name, "ascending") for name in (view.entity, "event_timestamp", "created")])
        .to_pylist()
        for view in features.VIEWS
        if view is not features.ITEM_PROFILE
    }


def plan_of(spark: SparkSession, settings: Settings, end: date = END) -> list[dict[str, str]]:
    return described(build.changed(spark, settings, end=end))


@pytest.fixture(scope="module")
def built(spark: SparkSession, home: Home) -> Settings:
    """Nine tenths of what will ever arrive, and a week that was built from it."""
    settings = home("late_by_step")
    generated.fill_lake(settings, EVERYTHING[: len(EVERYTHING) * 9 // 10])
    add(settings, [click(noon, ingested=noon, key=number) for number, noon in enumerate(NOONS)])
    build.build_all(spark, settings, Days(first=FIRST, last=LAST))
    return settings


def test_only_the_new_day_needs_building_while_nothing_came_in(
    spark: SparkSession, built: Settings
) -> None:
    assert plan_of(spark, built) == [NEW_DAY]


def test_what_features_do_not_read_brings_no_day_back(spark: SparkSession, built: Settings) -> None:
    """An action that does not count, an event sent again, small files that were joined."""
    add(built, [click(NOONS[0], ingested=NOW, key=1000, action="impression")])
    for _ in range(4):
        add(built, [click(NOONS[0], ingested=NOW, key=0)])
    care.join_files(spark, built, schemas.EVENTS)
    assert plan_of(spark, built) == [NEW_DAY]


def test_a_late_event_brings_back_the_days_that_it_touches_and_no_other(
    spark: SparkSession, built: Settings
) -> None:
    add(built, [click(datetime(2024, 2, 28, 9, tzinfo=UTC), ingested=NOW, key=1001)])
    why = "events of 2024-02-28 changed"
    assert plan_of(spark, built) == [
        {"first": "2024-02-28", "last": "2024-02-28", "views": "user_intraday", "why": why},
        {"first": "2024-02-29", "last": "2024-03-03", "views": BEFORE, "why": why},
        NEW_DAY,
    ]


def test_rows_that_nobody_recorded_are_built_again(spark: SparkSession, built: Settings) -> None:
    records = lake.open_table(built, schemas.BUILT_DAYS)
    records.delete("view == 'user_stats' and day == '2024-02-27'")
    assert plan_of(spark, built)[0] == {
        "first": "2024-02-27", "last": "2024-02-27", "views": "user_stats", "why": UNKNOWN
    }  # fmt: skip


def test_building_only_what_changed_gives_the_same_as_building_everything(
    spark: SparkSession, built: Settings, home: Home
) -> None:
    add(built, EVERYTHING[len(EVERYTHING) * 9 // 10 :])
    build.catch_up(spark, built, end=END)
    assert plan_of(spark, built) == []

    scratch = home("late_from_scratch")
    generated.fill_lake(scratch, [])
    for table in (schemas.EVENTS, schemas.SEARCHES):
        rows = lake.open_table(built, table).scan().to_arrow()
        lake.open_table(scratch, table).append(rows)
    build.build_all(spark, scratch, Days(first=FIRST, last=END))
    assert tables(built) == tables(scratch)
    assert all(tables(built).values())


def test_days_whose_events_are_all_gone_lose_their_rows(
    spark: SparkSession, built: Settings
) -> None:
    for table in (schemas.EVENTS, schemas.SEARCHES):
        lake.open_table(built, table).delete()
    build.catch_up(spark, built, end=END)
    assert not any(tables(built).values())
    assert plan_of(spark, built) == []


def test_an_empty_store_begins_with_the_day_asked_for_and_says_that_there_is_nothing(
    spark: SparkSession, home: Home
) -> None:
    settings = home("never_built")
    generated.fill_lake(settings, [])
    assert plan_of(spark, settings) == [NEW_DAY]
    with pytest.raises(NothingToDo, match="no events or searches"):
        build.catch_up(spark, settings, end=END)


def add(settings: Settings, arrivals: Sequence[Arrival]) -> None:
    """As landing would: appended, whenever it happened."""
    generated.append_behaviour(settings, arrivals)


def _ms(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)


def test_a_corrected_profile_joins_the_earlier_one(spark: SparkSession, home: Home) -> None:
    settings = home("profiles")
    generated.fill_lake(settings, [])
    rows = [
        item_profile.write(spark, settings),
        item_profile.write(spark, settings),
    ]
    update_price(settings, "i1", 99.0)
    rows.append(item_profile.write(spark, settings))
    assert rows == [len(generated.ITEMS), 0, 1]
    profiles = lake.open_table(settings, features.ITEM_PROFILE.table).scan().to_arrow()
    prices = [row["price"] for row in profiles.to_pylist() if row["item_id"] == "i1"]
    assert sorted(prices) == [1.5, 99.0]


def update_price(settings: Settings, item_id: str, price: float) -> None:
    table = lake.open_table(settings, schemas.ITEMS)
    rows = [
        row | {"price": price, "updated_at": datetime(2024, 3, 11, tzinfo=UTC)}
        if row["item_id"] == item_id
        else row
        for row in table.scan().to_arrow().to_pylist()
    ]
    table.overwrite(pa.Table.from_pylist(rows, schema=schemas.ITEMS.schema))
