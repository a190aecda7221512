"""What must hold when an import is cut off, raced or starved."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest
from filelock import FileLock

from jobs.imports import lake
from jobs.imports.files import Files
from jobs.imports.run import Outcome, run_import
from pagoda import dataset, forgotten, ids
from pagoda import settings as pagoda_settings
from pagoda.errors import Conflict, InputError
from pagoda.lake import open_table
from pagoda.schemas import EVENTS, IDS, ITEMS, RAW_TABLES, REJECTED, SEARCHES, Table
from pagoda.settings import Settings
from tests.imports.conftest import EVENTS_CSV, NOW, snapshots, stored

COMMAND = [sys.executable, "-m", "jobs.imports.cli", "completejourney", "--households", "3"]
ROOT = Path(__file__).parents[2]


class Interrupted(Files):
    """Files whose import is cut off in the middle of a table."""

    def batches(self, table: Table, shift_days: int) -> Iterator[pa.Table]:
        yield from super().batches(table, shift_days)
        if table is EVENTS:
            raise KeyboardInterrupt


def test_an_interrupted_import_goes_on_where_it_stopped(
    home: Settings, shop: Path, bring: Callable[..., Outcome]
) -> None:
    source = Interrupted(shop / "shop.toml", scratch=home.scratch, now=NOW)
    with pytest.raises(KeyboardInterrupt):
        run_import(home, source, now=NOW)
    assert not dataset.path(home).exists()
    assert snapshots(home, (EVENTS, SEARCHES)) == {"events": None, "searches": None}
    before = snapshots(home, (IDS, ITEMS))
    outcome = bring()
    assert snapshots(home, (IDS, ITEMS)) == before
    assert (outcome.tables["items"].unchanged, outcome.tables["events"].written) == (2, 2)
    assert dataset.load(home).name == "shop"


def test_a_shift_of_a_cut_off_import_is_kept(home: Settings, shop: Path) -> None:
    mapping = (shop / "shop.toml").read_text()
    (shop / "shop.toml").write_text("dataset.shift_to_now = true\n" + mapping)
    with pytest.raises(KeyboardInterrupt):
        run_import(home, Interrupted(shop / "shop.toml", scratch=home.scratch, now=NOW), now=NOW)
    later = NOW.replace(month=5)
    source = Files(shop / "shop.toml", scratch=home.scratch, now=later)
    assert run_import(home, source, now=later).shift_days == 14
    source.close()


def test_an_import_brings_back_nobody_who_was_forgotten(
    home: Settings, shop: Path, bring: Callable[..., Outcome]
) -> None:
    (shop / "events.csv").write_text(
        EVENTS_CSV + "e3,u2,i1,view,2024-03-01T11:00:00\ne4,u1,i1,view,never\n"
    )
    forgotten.add(home, ids.key_of("user", "u1"), now_ms=round(NOW.timestamp() * 1000))
    outcome = bring()
    assert stored(home, EVENTS)["user_id"].to_list() == ["u2"]
    assert stored(home, SEARCHES).is_empty()
    assert stored(home, REJECTED).is_empty()  # its raw line names the user
    users = stored(home, IDS).filter(pl.col("kind") == "user")
    assert users["id"].to_list() == ["u2"]
    assert "what 1 forgotten users did before is left out" in outcome.notes


def test_an_import_that_is_killed_leaves_the_same_lake_when_it_is_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lakes = []
    for name in ("killed", "whole"):
        monkeypatch.setenv("PAGODA_HOME", str(tmp_path / name))
        if name == "killed":
            kill_after(line="table='items'")
        subprocess.run(COMMAND, cwd=ROOT, check=True, capture_output=True)
        settings = pagoda_settings.load()
        lakes.append([stored(settings, table).sort(by="*") for table in (EVENTS, SEARCHES, IDS)])
        assert len(list(open_table(settings, ITEMS).snapshots())) == 1
    for killed, whole in zip(*lakes, strict=True):
        assert killed.equals(whole)


def kill_after(*, line: str) -> None:
    with subprocess.Popen(COMMAND, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        for said in process.stderr:
            if line in said:
                os.kill(process.pid, signal.SIGKILL)
                break
    assert process.returncode == -signal.SIGKILL


def test_a_full_disk_is_one_clear_message_and_the_import_goes_on_later(home: Settings) -> None:
    def small_files() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))

    starved = subprocess.run(
        COMMAND, cwd=ROOT, capture_output=True, text=True, preexec_fn=small_files, check=False
    )
    said = " ".join(starved.stderr.split())
    assert starved.returncode == 3
    assert "the lake cannot be written: " in said
    assert "Traceback" not in said
    assert subprocess.run(COMMAND, cwd=ROOT, capture_output=True, check=False).returncode == 0
    assert len(stored(home, EVENTS))


def test_two_imports_at_once_are_refused(home: Settings, bring: Callable[..., Outcome]) -> None:
    with FileLock(home.run / "import.lock"), pytest.raises(Conflict, match="another import"):
        bring()


def test_ids_that_share_a_key_are_refused_with_both_strings_before_anything_is_written(
    home: Settings, shop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = pa.table({"kind": ["user"], "id": ["zoe"], "key": [ids.key_of("user", "u1")]})
    open_table(home, IDS).append(known.cast(IDS.schema))
    before = snapshots(home, RAW_TABLES)
    with pytest.raises(InputError, match="user 'u1' and 'zoe': key"):
        run_import(home, Files(shop / "shop.toml", scratch=home.scratch, now=NOW), now=NOW)
    assert snapshots(home, RAW_TABLES) == before


def test_rows_are_not_doubled_if_the_table_forgot_its_import(
    home: Settings, bring: Callable[..., Outcome]
) -> None:
    bring()
    table = open_table(home, ITEMS)
    with table.transaction() as transaction:
        transaction.set_properties({f"{lake.PREFIX}shop": "{}"})
    assert lake.held(table) == {}
    assert bring().tables["items"].written == 2
    assert len(stored(home, ITEMS)) == 2
