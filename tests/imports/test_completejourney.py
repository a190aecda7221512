from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import polars as pl
import pytest

from jobs.imports import queries
from jobs.imports.completejourney import QUERIES_SHA256, CompleteJourney, package_folder
from jobs.imports.run import Outcome, run_import
from jobs.imports.source import weeks_to_now
from pagoda import dataset
from pagoda.errors import InputError
from pagoda.ids import key_of
from pagoda.schemas import EVENTS, IDS, ITEMS, RAW_TABLES, SEARCHES, Table
from pagoda.settings import Settings
from tests.imports.conftest import snapshots, stored

NOW = datetime(2024, 3, 20, 12, tzinfo=UTC)
SHIFT = timedelta(days=2268)  # to 2024-03-18, in the week before NOW
HOUSEHOLDS = 4


def slice_into(home: Settings, *, now: datetime = NOW, **options: bool) -> Outcome:
    shift_anew = options.pop("shift_anew", False)
    source = CompleteJourney(households=HOUSEHOLDS, seed=3, **options)
    return run_import(home, source, now=now, shift_anew=shift_anew)


def rows_of(source: CompleteJourney, table: Table) -> pl.DataFrame:
    frames = [pl.from_arrow(batch) for batch in source.batches(table, 0)]
    return pl.concat(frame for frame in frames if isinstance(frame, pl.DataFrame))


@pytest.fixture(scope="module")
def everything() -> CompleteJourney:
    return CompleteJourney(shifted=False)


def test_the_query_file_of_all_households_is_the_published_one(everything: CompleteJourney) -> None:
    assert queries.checksum(everything.query_rows()) == QUERIES_SHA256


def test_the_full_data_have_the_published_counts(everything: CompleteJourney) -> None:
    source = everything
    events, items = rows_of(source, EVENTS), rows_of(source, ITEMS)
    assert (len(events), len(items)) == (1_469_307, 92_331)
    assert events["user_key"].n_unique() == 2_469
    assert events["event_id"].n_unique() == events["event_key"].n_unique() == len(events)
    record = source.dataset(0, "")
    searched = events.drop_nulls("search_id")
    before = searched.filter(pl.col("ts").dt.date() < record.test_from)
    assert len(searched) - len(before) == 24_777
    assert before["item_key"].n_unique() == 67_537
    bare = events.join(items, on="item_key", how="anti")
    assert (len(bare), bare["item_id"].n_unique()) == (4_836, 17)
    assert items["category"].null_count() == 540
    assert (record.first_day, record.last_day) == (date(2017, 1, 1), date(2018, 1, 1))
    assert (record.validation_from, record.test_from) == (date(2017, 12, 18), date(2017, 12, 25))


def test_a_slice_comes_in_end_to_end(home: Settings) -> None:
    outcome = slice_into(home)
    lines = pl.read_parquet(package_folder() / "transactions.parquet")
    events, searches, items = (stored(home, table) for table in (EVENTS, SEARCHES, ITEMS))
    users = sorted(events["user_id"].unique())
    assert len(users) == HOUSEHOLDS
    mine = lines.filter(pl.col("household_id").cast(pl.String).is_in(users))
    assert outcome.tables["events"].written == len(events) == len(mine)
    assert mine["quantity"].min() == 0  # lines with quantity 0 are kept

    # The line of the source, found again in the lake.
    source = mine.row(0, named=True)
    line = f"{source['household_id']}-{source['basket_id']}-{source['product_id']}-0"
    event = events.filter(pl.col("event_id") == line).row(0, named=True)
    assert event["ts"] == source["transaction_timestamp"].replace(tzinfo=UTC) + SHIFT
    assert event["ingested_at"] == event["ts"]
    assert (event["action"], event["shop"]) == ("buy", str(source["store_id"]))
    assert event["item_key"] == key_of("item", str(source["product_id"]))

    # One search a line, at the moment of its event, by the same user.
    joined = events.drop_nulls("search_id").join(searches, on="search_id", how="full")
    assert len(joined) == len(searches) == searches["search_id"].n_unique()
    assert joined.filter(pl.col("ts") != pl.col("ts_right")).is_empty()
    assert joined.filter(pl.col("user_key") != pl.col("user_key_right")).is_empty()

    # The slice's catalogue is what its households bought; whole titles; prices are positive.
    assert set(items["item_id"]) <= set(events["item_id"])
    products = pl.read_parquet(package_folder() / "products.parquet")
    product = products.filter(
        pl.col("product_id").cast(pl.String).is_in(items["item_id"].to_list())
    )
    one = product.drop_nulls().row(0, named=True)
    item = items.filter(pl.col("item_id") == str(one["product_id"])).row(0, named=True)
    assert item["title"] == f"{one['product_category']} {one['product_type']} {one['package_size']}"
    assert (item["leaf_category"], item["category"], item["first_category"]) == (
        one["product_type"],
        one["product_category"],
        one["department"],
    )
    paid = lines.filter(
        (pl.col("product_id") == one["product_id"])
        & (pl.col("quantity") > 0)
        & (pl.col("sales_value") > 0)
    )
    assert item["price"] == pytest.approx((paid["sales_value"] / paid["quantity"]).median())
    assert items["price"].drop_nulls().min() > 0
    assert stored(home, IDS).filter(pl.col("kind") == "user")["id"].sort().to_list() == users


def test_the_last_day_lies_in_the_past_week_and_weekdays_stay(home: Settings) -> None:
    outcome = slice_into(home)
    assert outcome.shift_days == SHIFT.days
    record = dataset.load(home)
    assert record.test_from == date(2017, 12, 25) + SHIFT
    assert record.test_from.weekday() == date(2017, 12, 25).weekday()


@pytest.mark.parametrize("today", [date(2024, 3, day) for day in range(10, 25)])
def test_the_shift_is_whole_weeks_into_the_seven_days_before_today(today: date) -> None:
    shift = weeks_to_now(date(2018, 1, 1), today)
    assert shift % 7 == 0
    assert 1 <= (today - date(2018, 1, 1)).days - shift <= 7
    assert weeks_to_now(today, today) == 0


def test_a_later_import_reuses_the_shift_and_changes_nothing(home: Settings) -> None:
    slice_into(home)
    before = snapshots(home, RAW_TABLES)
    months_later = NOW + timedelta(days=100)
    assert slice_into(home, now=months_later).shift_days == SHIFT.days
    assert snapshots(home, RAW_TABLES) == before


def test_without_shift_times_are_those_of_2017_and_a_shift_comes_back_when_asked(
    home: Settings,
) -> None:
    slice_into(home, shifted=False)
    assert stored(home, EVENTS)["ts"].dt.year().max() <= 2018
    later = NOW + timedelta(days=14)
    assert slice_into(home, now=later).shift_days == SHIFT.days + 14
    assert slice_into(home, now=NOW + timedelta(days=28), shift_anew=True).shift_days == (
        SHIFT.days + 28
    )
    assert stored(home, EVENTS)["source"].unique().to_list() == ["completejourney"]


def test_other_households_are_another_import() -> None:
    some = CompleteJourney(households=5, seed=1)
    other = CompleteJourney(households=5, seed=2)
    assert some.content != other.content
    assert set(rows_of(some, EVENTS)["user_id"]) != set(rows_of(other, EVENTS)["user_id"])
    assert set(rows_of(some, EVENTS)["user_id"]) == set(
        rows_of(CompleteJourney(households=5, seed=1), EVENTS)["user_id"]
    )


@pytest.mark.parametrize("households", [0, -1, 2_470])
def test_a_slice_that_cannot_be_is_refused(home: Settings, households: int) -> None:
    with pytest.raises(InputError, match="--households: no such slice"):
        run_import(home, CompleteJourney(households=households), now=NOW)
