"""What a build covers when nobody says from which day on, and what it does to profiles."""

from __future__ import annotations

from datetime import UTC, date, datetime

import pyarrow as pa
import pytest
from pyspark.sql import SparkSession

from jobs.batch import build
from pagoda import features, lake, schemas
from pagoda.features import View
from pagoda.settings import Settings
from tests.features import arrivals as generated
from tests.features.arrivals import DAY
from tests.features.conftest import Home
from tests.oracles.features import Arrival
from tests.oracles.windows import Happening

pytestmark = pytest.mark.spark

BUILT = date(2024, 3, 10)  # the newest day that user_day holds
TODAY = date(2024, 3, 12)


@pytest.fixture
def behind(home: Home, request: pytest.FixtureRequest) -> Settings:
    """An installation that was last built two days ago."""
    settings = home(f"behind_{abs(hash(request.node.name)) % 10**6}")
    for view in build.DAILY:
        note_built(settings, view, BUILT)
    return settings


def note_built(settings: Settings, view: View, day: date) -> None:
    row = {
        view.entity: 1,
        "event_timestamp": generated.midnight(day) * 1000,
        "created": generated.midnight(day) * 1000 - 1000,
        "day": day,
    }
    schema = view.table.schema
    lake.open_table(settings, view.table).append(
        pa.Table.from_pylist([{name: row.get(name) for name in schema.names}], schema=schema)
    )


def click(day: date, *, days_late: int = 0) -> Arrival:
    ts = generated.midnight(day) + DAY // 2
    happening = Happening(ts=ts, key=ts, what=7, action="click")
    return Arrival(user="u", ingested=ts + days_late * DAY, happening=happening)


def test_an_empty_store_begins_with_the_day_asked_for(spark: SparkSession, home: Home) -> None:
    assert build.oldest_changed(spark, home("never_built"), before=TODAY) == TODAY


def test_the_newest_built_day_is_built_again_because_it_was_not_over(
    spark: SparkSession, behind: Settings
) -> None:
    generated.fill_lake(behind, [click(BUILT)])
    assert build.oldest_changed(spark, behind, before=TODAY) == BUILT


def test_the_view_that_is_furthest_behind_counts(spark: SparkSession, behind: Settings) -> None:
    note_built(behind, features.USER_DAY, date(2024, 3, 11))  # cut short, or for a check only
    assert build.oldest_changed(spark, behind, before=TODAY) == BUILT


def test_a_late_event_brings_its_own_day_back(spark: SparkSession, behind: Settings) -> None:
    generated.fill_lake(behind, [click(date(2024, 3, 5), days_late=6)])
    assert build.oldest_changed(spark, behind, before=TODAY) == date(2024, 3, 5)


def test_late_events_that_earlier_builds_knew_do_not(spark: SparkSession, behind: Settings) -> None:
    generated.fill_lake(behind, [click(date(2024, 3, 5), days_late=1)])
    assert build.oldest_changed(spark, behind, before=TODAY) == BUILT


def test_a_corrected_profile_joins_the_earlier_one(spark: SparkSession, home: Home) -> None:
    settings = home("profiles")
    generated.fill_lake(settings, [])
    rows = [
        build.write_profiles(spark, settings),
        build.write_profiles(spark, settings),
    ]
    update_price(settings, "i1", 99.0)
    rows.append(build.write_profiles(spark, settings))
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
