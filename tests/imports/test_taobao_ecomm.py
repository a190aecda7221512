from __future__ import annotations

import gzip
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from jobs.imports.cli import app
from jobs.imports.run import Outcome, run_import
from jobs.imports.taobao_ecomm import TaobaoEcomm
from pagoda import dataset
from pagoda.errors import InputError
from pagoda.schemas import EVENTS, ITEMS, RAW_TABLES, REJECTED, SEARCHES
from pagoda.settings import Settings
from tests.imports.conftest import NOW, snapshots, stored

SAMPLE = Path(__file__).parents[3] / "shared" / "data" / "taobao_ecomm"
EDGES = "7\t31\t1\t20190618\n7\t31\t1\t20190618\n8\t32\t4\t20190619\n"
PAIRS = (
    "7\t32\t1\t2\n"  # an edge to test
    "7\t31\t0\t2\n8\t31\t1\t1\n8\t31\t0\t1\n8\t32\t1\t0\n"
)
ITEMS_TEXT = "31\t33\t501\t0\t21.8\n32\t33\t502\t77\t145\n"
Bring = Callable[..., Outcome]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "ecomm"
    made.mkdir()
    (made / "ecomm_edge_train.txt.gz").write_bytes(gzip.compress(EDGES.encode()))
    (made / "ecomm_edge_val_lr_train_test.txt").write_text(PAIRS)
    (made / "ecomm_item_feature.txt").write_text(ITEMS_TEXT)
    return made


@pytest.fixture
def bring(home: Settings, folder: Path) -> Bring:
    def bring(**options: bool) -> Outcome:
        source = TaobaoEcomm(
            folder, scratch=home.scratch, now=NOW, shifted=options.pop("shifted", False)
        )
        try:
            return run_import(home, source, now=NOW, **options)
        finally:
            source.close()

    return bring


def test_edges_are_events_at_the_beginning_of_their_day(home: Settings, bring: Bring) -> None:
    """Two equal edges are two events; the edge to test is of the last day."""
    bring()
    rows = stored(home, EVENTS).sort("ts", "action")
    assert rows.select("user_id", "item_id", "action", "ts").rows() == [
        ("7", "31", "click", datetime(2019, 6, 17, 16, tzinfo=UTC)),
        ("7", "31", "click", datetime(2019, 6, 17, 16, tzinfo=UTC)),
        ("8", "32", "buy", datetime(2019, 6, 18, 16, tzinfo=UTC)),
        ("7", "32", "click", datetime(2019, 6, 19, 16, tzinfo=UTC)),
    ]
    assert rows["event_id"].is_unique().all()
    assert stored(home, SEARCHES).is_empty()


def test_items_have_their_features_and_ids_for_titles(home: Settings, bring: Bring) -> None:
    bring()
    columns = ("item_id", "title", "first_category", "leaf_category", "brand", "price")
    assert stored(home, ITEMS).sort("item_id").select(columns).rows() == [
        ("31", "31", "33", "501", None, 21.8),
        ("32", "32", "33", "502", "77", 145.0),
    ]


def test_the_last_day_tests_and_the_day_before_it_validates(home: Settings, bring: Bring) -> None:
    outcome = bring()
    record = dataset.load(home)
    assert (record.split, record.times, record.requests) == ("time", "real", "events")
    assert (record.validation_from, record.test_from) == (date(2019, 6, 18), date(2019, 6, 19))
    assert record.last_day == record.test_from
    assert outcome.notes[:3] == [
        "days alone are known: what a user did on a day has one time, the day's beginning in "
        "Shanghai; titles are made up: items' ids",
        "the edges to test are clicks of 20190620, before any shift: the files say neither their "
        "kind nor their day",
        "left out: 4 pairs of the last day (no edges, or edges to validate or to train a "
        "classifier on), and users' features, for which the lake has no table",
    ]


def test_bad_lines_are_rejected_with_reason_and_place(
    home: Settings, folder: Path, bring: Bring
) -> None:
    (folder / "ecomm_edge_val_lr_train_test.txt").write_text(PAIRS + "7\t31\t2\t2\n7\t31\t1\n")
    with gzip.open(folder / "ecomm_edge_train.txt.gz", "at") as file:
        file.write("7\t\t9\tyesterday\n")
    (folder / "ecomm_item_feature.txt").write_text(ITEMS_TEXT + "33\t33\t501\t0\tcheap\n")
    bring()
    assert dict(stored(home, REJECTED).select("place", "reason").rows()) == {
        "ecomm_edge_train.txt.gz:4": "item_id is empty; action is unknown: '9'; ts is not a time "
        "(%Y%m%d, Asia/Shanghai): 'yesterday'",
        "ecomm_edge_val_lr_train_test.txt:6": "label or split is unknown: '2 2'",
        "ecomm_edge_val_lr_train_test.txt:7": "wrong number of fields: 3, expected 4",
        "ecomm_item_feature.txt:3": "price is not a number: 'cheap'",
    }
    assert stored(home, EVENTS).height == 4


def test_missing_files_are_all_named(home: Settings, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="files not found") as refused:
        TaobaoEcomm(tmp_path, scratch=home.scratch)
    for name in ("ecomm_edge_train", "ecomm_edge_val_lr_train_test", "ecomm_item_feature"):
        assert f"{name}.txt" in str(refused.value)


def test_a_second_import_changes_nothing_and_times_move_to_now(
    home: Settings, bring: Bring
) -> None:
    assert bring(shifted=True).shift_days > 0
    before = snapshots(home, RAW_TABLES)
    assert bring(shifted=True).tables["events"].unchanged == 4
    assert snapshots(home, RAW_TABLES) == before
    assert 1 <= (NOW.date() - dataset.load(home).last_day).days <= 7


def test_the_command_imports_a_folder(home: Settings, folder: Path) -> None:
    result = CliRunner().invoke(app, ["taobao-ecomm", str(folder), "--no-shift"])
    assert result.exit_code == 0, result.output
    assert "validation from 2019-06-18, test from 2019-06-19" in result.output
    assert stored(home, EVENTS).height == 4


@pytest.mark.skipif(not SAMPLE.exists(), reason="needs Taobao's sample in ../shared/data")
def test_the_published_sample_is_read_whole(home: Settings) -> None:
    source = TaobaoEcomm(SAMPLE, scratch=home.scratch, shifted=False)
    outcome = run_import(home, source, dry_run=True)
    source.close()
    written = {name: counts.written for name, counts in outcome.tables.items()}
    # 85,213 edges and the 2,334 to test of 6,932 pairs.
    assert (written["events"], written["items"], written["rejected"]) == (87_547, 36_224, 0)
    assert "left out: 4,598 pairs" in outcome.notes[2]
    assert not any("not in the catalogue" in note for note in outcome.notes)
    record = outcome.dataset
    assert (record.first_day, record.test_from) == (date(2019, 6, 9), date(2019, 6, 19))
