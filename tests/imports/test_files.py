from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from jobs.imports.files import Files
from jobs.imports.run import Outcome, run_import
from pagoda import dataset
from pagoda.errors import InputError
from pagoda.ids import key_of
from pagoda.schemas import EVENTS, IDS, ITEMS, RAW_TABLES, REJECTED, SEARCHES
from pagoda.settings import Settings
from tests.imports.conftest import EVENTS_CSV, ITEMS_CSV, MAPPING, NOW, snapshots, stored

Bring = Callable[..., Outcome]
TAOBAO = Path(__file__).parents[3] / "shared" / "data" / "taobao_ecomm"


def test_files_become_tables(home: Settings, bring: Bring) -> None:
    outcome = bring()
    assert {name: counts.written for name, counts in outcome.tables.items()} == {
        "ids": 3,
        "items": 2,
        "events": 2,
        "searches": 1,
        "rejected": 0,
    }
    event = stored(home, EVENTS).row(0, named=True)
    assert event == {
        "event_id": "e1",
        "event_key": key_of("event", "e1"),
        "user_id": "u1",
        "user_key": key_of("user", "u1"),
        "item_id": "i1",
        "item_key": key_of("item", "i1"),
        "action": "click",
        "ts": datetime(2024, 3, 1, 10, tzinfo=UTC),
        "ingested_at": datetime(2024, 3, 1, 10, tzinfo=UTC),
        "source": "shop",
        "search_id": None,
        "position": None,
        "shop": None,
    }
    search = stored(home, SEARCHES).row(0, named=True)
    assert (search["query"], search["search_key"]) == ("red shoe", key_of("search", "s1"))
    # Items without a time of their own are known from the first day with events.
    items = stored(home, ITEMS)
    assert items["updated_at"].unique().to_list() == [datetime(2024, 3, 1, tzinfo=UTC)]
    assert items["price"].to_list() == [10.5, 20.0]
    assert sorted(stored(home, IDS).select("kind", "id").rows()) == [
        ("item", "i1"),
        ("item", "i2"),
        ("user", "u1"),
    ]


def test_the_record_names_the_last_weeks(home: Settings, bring: Bring) -> None:
    bring()
    record = dataset.load(home)
    assert (record.first_day, record.last_day) == (date(2024, 3, 1), date(2024, 3, 2))
    assert (record.validation_from, record.test_from) == (date(2024, 2, 18), date(2024, 2, 25))
    assert (record.click_actions, record.shift_days) == (("click",), 0)
    assert record.query_protocol == "as shoppers typed them"


def test_a_second_import_changes_nothing(home: Settings, bring: Bring) -> None:
    bring()
    before = snapshots(home, RAW_TABLES)
    record = dataset.path(home).stat().st_mtime_ns
    outcome = bring()
    assert {name: counts.unchanged for name, counts in outcome.tables.items()} == {
        "ids": 3,
        "items": 2,
        "events": 2,
        "searches": 1,
        "rejected": 0,
    }
    assert snapshots(home, RAW_TABLES) == before
    assert dataset.path(home).stat().st_mtime_ns == record


def test_a_changed_file_replaces_the_rows_of_its_source_only(
    home: Settings, shop: Path, bring: Bring
) -> None:
    from pagoda.lake import open_table

    bring()
    live = stored(home, EVENTS).with_columns(
        pl.lit("kafka:behaviour-events:0:17").alias("source"), pl.lit("live").alias("event_id")
    )
    open_table(home, EVENTS).append(live[:1].to_arrow().cast(EVENTS.schema))
    (shop / "events.csv").write_text(EVENTS_CSV + "e3,u2,i1,view,2024-03-03\n")
    would = bring(dry_run=True)
    assert (would.tables["events"].written, would.tables["events"].replaced) == (3, 2)
    assert len(stored(home, EVENTS)) == 3
    outcome = bring()
    assert (outcome.tables["events"].written, outcome.tables["events"].replaced) == (3, 2)
    assert (outcome.tables["ids"].written, outcome.tables["ids"].unchanged) == (1, 3)
    assert sorted(stored(home, EVENTS)["event_id"]) == ["e1", "e2", "e3", "live"]


def test_another_data_set_is_refused_unless_it_may_replace(
    home: Settings, shop: Path, bring: Bring
) -> None:
    bring()
    (shop / "shop.toml").write_text(MAPPING.replace('name = "shop"', 'name = "other"'))
    with pytest.raises(InputError, match="the lake holds another data set: shop"):
        bring()
    assert "takes the place of the data set shop (--replace)" in bring(dry_run=True).notes
    bring(replace=True)
    assert stored(home, EVENTS)["source"].unique().to_list() == ["other"]
    assert dataset.load(home).name == "other"


def test_a_dry_run_shows_the_first_rows_and_all_problems_and_writes_nothing(
    home: Settings, shop: Path, bring: Bring
) -> None:
    (shop / "events.csv").write_text(EVENTS_CSV + "e3,u2,i1,hover,2999-01-01\n")
    outcome = bring(dry_run=True)
    assert outcome.samples["items"][0]["title"] == "Red shoe"
    assert [str(problem) for problem in outcome.problems] == [
        "events: action is unknown (1 rows, first events.csv:4: action is unknown: 'hover')",
        "events: ts is in the future (1 rows, first events.csv:4: ts is in the future: "
        "'2999-01-01')",
    ]
    assert outcome.tables["events"].rejected == 1
    assert set(snapshots(home, RAW_TABLES).values()) == {None}
    assert not dataset.path(home).exists()


def test_bad_rows_stand_in_the_table_rejected_with_reason_place_and_content(
    home: Settings, shop: Path, bring: Bring
) -> None:
    (shop / "items.csv").write_bytes(
        ITEMS_CSV.encode()
        + b"i3,Hat,Acme,-5\n"  # line 4: a negative price
        + b"i4,Caf\xe9,Acme,5\n"  # line 5: not UTF-8
        + b"i1,Red shoe,Acme,10.5\n"  # line 6: again, identical
        + b",Sock,Acme,5\n"  # line 7: no id
        + b"i5,Sock\n"  # line 8: fields are missing
    )
    (shop / "events.csv").write_text(
        EVENTS_CSV
        + "e2,u1,i1,buy,2024-03-02T10:00:00\n"  # line 4: contradicts line 3
        + "e3,u1,i1,buy,2024-03-20T13:00:00\n"  # line 5: in the future
        + "e4,u1,i1,hover,2024-03-02\n"  # line 6: an unknown action
    )
    outcome = bring()
    rejected = stored(home, REJECTED).sort("place")
    assert dict(rejected.select("place", "reason").rows()) == {
        "events.csv:3": "event_id contradicts another row: 'events.csv:4'",
        "events.csv:4": "event_id contradicts another row: 'events.csv:3'",
        "events.csv:5": "ts is in the future: '2024-03-20T13:00:00'",
        "events.csv:6": "action is unknown: 'hover'",
        "items.csv:4": "price is negative: '-5'",
        "items.csv:5": "not UTF-8: invalid continuation byte at byte 6",
        "items.csv:6": "item_id repeats an identical row: 'items.csv:2'",
        "items.csv:7": "item_id is empty",
        "items.csv:8": "wrong number of fields: 2, expected 4",
    }
    raw = dict(rejected.select("place", "raw").rows())
    assert raw["items.csv:5"] == b"i4,Caf\xe9,Acme,5\n"
    assert rejected["source"].unique().to_list() == ["shop"]
    assert (outcome.tables["items"].written, outcome.tables["items"].rejected) == (2, 5)
    assert (outcome.tables["events"].written, outcome.tables["events"].rejected) == (1, 4)
    assert outcome.tables["rejected"].written == 9


def test_if_no_row_can_be_stored_the_import_is_refused_with_all_reasons(
    home: Settings, shop: Path, bring: Bring
) -> None:
    (shop / "events.csv").write_text("id,user,sku,what,when\ne1,u1,i1,hover,noon\n")
    with pytest.raises(InputError, match="no row of events can be stored") as caught:
        bring()
    assert len(caught.value.problems) == 2
    assert set(snapshots(home, RAW_TABLES).values()) == {None}
    assert list(home.scratch.iterdir()) == []


def test_parquet_attributes_constants_and_days_of_the_record(
    home: Settings, shop: Path, bring: Bring
) -> None:
    pl.DataFrame(
        {"sku": [1, 2], "fit": ["slim", None], "kg": [1.5, None], "stock": [True, False]}
    ).write_parquet(shop / "items.parquet")
    pl.DataFrame(
        {"user": [7, 7, 7], "sku": [1, 2, 2], "at": [date(2024, 3, d) for d in (1, 9, 9)]}
    ).write_parquet(shop / "events.parquet")
    (shop / "shop.toml").write_text(
        """
        name = "shop"
        [dataset]
        test_from = 2024-03-09
        validation_days = 2
        click_actions = ["click", "buy"]
        [items]
        files = ["items.parquet"]
        columns = { item_id = "sku", in_stock = "stock" }
        attributes = { fit = "fit", weight = "kg" }
        [events]
        files = ["events.parquet"]
        columns = { user_id = "user", item_id = "sku", ts = "at" }
        constants = { action = "buy" }
        time = { zone = "Asia/Tokyo" }
        """
    )
    outcome = bring()
    items = stored(home, ITEMS).sort("item_id").select("item_id", "in_stock", "attributes")
    assert items.to_arrow().to_pylist() == [
        {"item_id": "1", "in_stock": True, "attributes": [("fit", "slim"), ("weight", "1.5")]},
        {"item_id": "2", "in_stock": False, "attributes": []},
    ]
    events = stored(home, EVENTS).sort("ts")
    assert events["ts"][0] == datetime(2024, 2, 29, 15, tzinfo=UTC)
    # Equal rows without ids are two events, numbered.
    assert len(events) == events["event_id"].n_unique() == 3
    record = dataset.load(home)
    assert (record.validation_from, record.test_from) == (date(2024, 3, 7), date(2024, 3, 9))
    assert record.query_protocol == "none"
    assert record.requests == "events"
    assert any(
        note.startswith("no searches: a row to train on is an event") for note in outcome.notes
    )


def test_a_mapping_may_leave_out_items_searches_and_times(
    home: Settings, shop: Path, bring: Bring
) -> None:
    (shop / "shop.toml").write_text(
        """
        name = "shop"
        dataset = { times = "order", split = "leave_last_out" }
        [events]
        files = ["events.csv"]
        columns = { user_id = "user", item_id = "sku", action = "what" }
        actions = { view = "click", buy = "buy" }
        """
    )
    bring()
    events = stored(home, EVENTS).sort("ts").select("item_id", "action", "ts").rows()
    start = datetime(2000, 1, 3, tzinfo=UTC)
    assert events == [("i1", "click", start), ("i2", "buy", start + timedelta(milliseconds=1))]
    assert stored(home, ITEMS).sort("item_id")["title"].to_list() == ["i1", "i2"]
    assert dataset.load(home).split == "leave_last_out"


def test_what_fits_together_badly_is_noted(shop: Path, bring: Bring) -> None:
    (shop / "events.csv").write_text(
        "id,user,sku,what,when,search\ne1,u1,i1,view,2024-03-01,s1\ne2,u1,i9,view,2024-03-01,s9\n"
    )
    (shop / "shop.toml").write_text(
        MAPPING.replace('ts = "when" }\nactions', 'ts = "when", search_id = "search" }\nactions')
    )
    assert bring().notes == [
        "1 items of the events are not in the catalogue: their events stay, no search finds them",
        "1 searches that events name are not in the files",
        "the events begin on 2024-03-01 and validation on 2024-02-17: no day is left to train on; "
        "set test_days and validation_days",
    ]


def test_times_shift_to_now_by_whole_weeks_if_the_mapping_says_so(
    home: Settings, shop: Path, bring: Bring
) -> None:
    (shop / "shop.toml").write_text(
        MAPPING.replace("[items]", "[dataset]\nshift_to_now = true\n[items]")
    )
    outcome = bring()
    assert outcome.shift_days == 14  # 2024-03-02 + 14 days lies in the week before 2024-03-20
    assert stored(home, EVENTS)["ts"].max() == datetime(2024, 3, 16, 10, tzinfo=UTC)
    assert dataset.load(home).last_day == date(2024, 3, 16)
    # The recorded shift is used again ...
    (shop / "events.csv").write_text(EVENTS_CSV + "e3,u2,i1,view,2024-03-05\n")
    assert bring().shift_days == 14
    # ... unless it would lead into the future.
    (shop / "events.csv").write_text(EVENTS_CSV + "e3,u2,i1,view,2024-03-08\n")
    with pytest.raises(InputError, match="Import with --shift-anew"):
        bring()
    assert bring(shift_anew=True).shift_days == 7


@pytest.mark.skipif(not TAOBAO.exists(), reason="needs Taobao's sample in ../shared/data")
def test_taobaos_own_sample_comes_in_through_a_mapping(home: Settings, tmp_path: Path) -> None:
    for file in TAOBAO.glob("*.gz"):
        (tmp_path / file.name).symlink_to(file)
    (tmp_path / "taobao.toml").write_text(example("taobao.toml"))
    source = Files(tmp_path / "taobao.toml", scratch=home.scratch)
    outcome = run_import(home, source)
    source.close()
    events = stored(home, EVENTS)
    assert len(events) == events["event_id"].n_unique() == 85_213
    assert outcome.tables["events"].rejected == outcome.tables["items"].rejected == 0
    assert set(events["action"]) == {"click", "collect", "cart", "buy"}
    assert events["user_id"].n_unique() == 1_476
    week = (NOW.now(UTC).date() - dataset.load(home).last_day).days
    assert 1 <= week <= 7
    items = stored(home, ITEMS)
    assert items["brand"].null_count() > 0.9 * len(items)  # "0" means none there


def test_the_example_of_the_docs_is_a_mapping_that_works(
    home: Settings, shop: Path, bring: Bring
) -> None:
    (shop / "shop.toml").write_text(example("shop.toml"))
    (shop / "items").mkdir()
    (shop / "items" / "2024.csv").write_text(
        "sku;name;maker;kind;euro;left;changed;fit\n"
        "i1;Red shoe;Acme;Shoes;10.50;yes;2024-02-01 08:00;slim\n"
    )
    (shop / "clicks.csv.gz").write_bytes(
        __import__("gzip").compress(
            b"uid,sku,what,unix,query_id,rank\nu1,i1,view,1709287200,q1,1\n"
        )
    )
    pl.DataFrame(
        {
            "query_id": ["q1"],
            "uid": ["u1"],
            "words": ["red shoe"],
            "at": [datetime(2024, 3, 1, 9, 59, tzinfo=UTC)],
        }
    ).write_parquet(shop / "searches.parquet")
    outcome = bring()
    assert not outcome.problems
    assert stored(home, EVENTS).row(0, named=True)["search_id"] == "q1"
    assert stored(home, ITEMS).row(0, named=True)["updated_at"] == datetime(
        2024, 2, 1, 7, tzinfo=UTC
    )


def example(name: str) -> str:
    """The mapping file of that name in docs/your-own-data.md."""
    page = (Path(__file__).parents[2] / "docs" / "your-own-data.md").read_text()
    return page.split(f"```toml\n# {name}\n")[1].split("```")[0]
