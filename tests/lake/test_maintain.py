"""Maintenance changes what a table takes, and no row that it should keep."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import pyarrow as pa
import pytest
from pyspark.sql import SparkSession

from jobs.lake import care
from jobs.lake.state import MIN_SMALL_FILES, due, state_of
from pagoda import lake, pins
from pagoda.errors import Conflict
from pagoda.ids import key_of
from pagoda.schemas import EVENTS, SEARCHES, Table
from pagoda.settings import Retention, Settings
from tests.conftest import Home

pytestmark = pytest.mark.spark

NOW = datetime.now(UTC).replace(microsecond=0)
TODAY = NOW.replace(hour=0, minute=0, second=0)


def searches(names: list[str], at: datetime = TODAY) -> pa.Table:
    rows = [
        {
            "search_id": name,
            "search_key": key_of("search", name),
            "user_id": "u",
            "user_key": key_of("user", "u"),
            "query": "oat milk",
            "ts": at,
            "ingested_at": at,
            "source": "test",
        }
        for name in names
    ]
    return pa.Table.from_pylist(rows, schema=SEARCHES.schema)


def append(settings: Settings, names: list[str], at: datetime = TODAY) -> None:
    lake.open_table(settings, SEARCHES).append(searches(names, at))


def names(settings: Settings, snapshot: int | None = None) -> list[str]:
    rows = lake.open_table(settings, SEARCHES).scan(snapshot_id=snapshot).to_arrow()
    return sorted(rows["search_id"].to_pylist())


def orphan(settings: Settings, table: Table, name: str, *, hours_old: float) -> Path:
    """A file such as a writer that was killed before its commit leaves."""
    folder = Path(urlparse(lake.open_table(settings, table).location()).path) / "data"
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_bytes(b"half a file")
    written = time.time() - hours_old * 3600
    os.utime(path, (written, written))
    return path


@pytest.fixture(scope="module")
def settings_of(home: Home) -> Callable[..., Settings]:
    """Settings of a lake of its own, that forgets at once and keeps searches for ten days."""

    def make(name: str, **update: Any) -> Settings:
        made = home(name)
        forgetful = made.lake.model_copy(update={"history_hours": 0.0})
        kept = {"lake": forgetful, "retention": Retention(searches=10)}
        return made.model_copy(update=kept | update)

    return make


def test_files_are_joined_history_ends_and_what_a_tag_holds_stays(
    spark: SparkSession, settings_of: Callable[..., Settings]
) -> None:
    settings = settings_of("maintained")
    append(settings, ["kept", "tagged"])
    append(settings, ["past"], TODAY - timedelta(days=11))
    append(settings, ["eve"], TODAY - timedelta(days=10))
    table = lake.open_table(settings, SEARCHES)
    trained_on = table.current_snapshot()
    assert trained_on is not None
    with pins.held(settings, "b1", {SEARCHES.name: trained_on.snapshot_id}):
        pass
    table.delete("search_id == 'tagged'")
    for number in range(6):
        append(settings, [f"small{number}"])
    old = orphan(settings, SEARCHES, "old.parquet", hours_old=80)
    young = orphan(settings, SEARCHES, "young.parquet", hours_old=1)
    later = datetime.now(UTC) + timedelta(minutes=1)

    todo = due(settings, SEARCHES, now=later)
    assert (todo.rows_beyond_retention, todo.small_files) == (1, 7)
    assert todo.old_snapshots == state_of(settings, SEARCHES).snapshots - 2
    assert care.orphans(spark, settings, SEARCHES, now=later) == 1
    done = care.maintain(spark, settings, SEARCHES, now=later)

    expected = ["eve", "kept", *(f"small{number}" for number in range(6))]
    assert names(settings) == expected
    assert (done.before.rows, done.after.rows, done.orphans, done.left) == (9, 8, 1, ())
    assert (done.before.files, done.after.files) == (9, 2)
    assert done.after.tags == ("bundle-b1",)
    assert names(settings, trained_on.snapshot_id) == ["eve", "kept", "past", "tagged"]
    assert (old.exists(), young.exists()) == (False, True)
    assert done.after.live_mb < done.before.live_mb

    again = care.maintain(spark, settings, SEARCHES, now=later + timedelta(minutes=1))
    assert (again.after.rows, again.after.files, again.orphans) == (8, 2, 0)
    # Of the steps before only the newest is left, beside the tagged one.
    assert again.after.snapshots == 2
    assert pins.unpin(settings, "b1") == [SEARCHES.name]
    last = care.maintain(spark, settings, SEARCHES, now=later + timedelta(minutes=2))
    assert (last.after.snapshots, last.after.tags) == (1, ())
    assert names(settings) == expected


def test_rows_that_arrive_meanwhile_all_stay_and_readers_see_whole_commits(
    spark: SparkSession, settings_of: Callable[..., Settings]
) -> None:
    settings = settings_of("maintained_live")
    commits, rows_each = 14, 3
    appended = threading.Event()
    seen: list[int] = []
    failures: list[BaseException] = []

    def write() -> None:
        try:
            for number in range(commits):
                append(settings, [f"{number}-{each}" for each in range(rows_each)])
        except BaseException as error:
            failures.append(error)
        finally:
            appended.set()

    def read() -> None:
        try:
            while not appended.is_set():
                seen.append(len(names(settings)))
        except BaseException as error:
            failures.append(error)

    # Readers must be done within history_hours, or files go under their hands.
    patient = settings.model_copy(
        update={"lake": settings.lake.model_copy(update={"history_hours": 1.0})}
    )
    threads = [threading.Thread(target=each) for each in (write, read)]
    for thread in threads:
        thread.start()
    while not appended.is_set():
        care.maintain(spark, patient, SEARCHES)
    for thread in threads:
        thread.join()
    care.maintain(spark, settings, SEARCHES, now=datetime.now(UTC) + timedelta(minutes=1))
    assert failures == []
    assert names(settings) == sorted(
        f"{number}-{each}" for number in range(commits) for each in range(rows_each)
    )
    assert state_of(settings, SEARCHES).files < MIN_SMALL_FILES  # fewer are not worth joining
    assert all(count % rows_each == 0 for count in seen)
    assert seen == sorted(seen)


def test_landing_tends_tables_of_many_snapshots_unless_somebody_else_does(
    spark: SparkSession, settings_of: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_of("tended")
    monkeypatch.setattr(care, "MANY_SNAPSHOTS", 5)
    for number in range(6):
        append(settings, [f"{number}"])
    append(settings, ["event"])
    with care.alone(settings):
        care.tend(spark, settings, [SEARCHES, EVENTS])
        assert state_of(settings, SEARCHES).files == 7
        with pytest.raises(Conflict), care.alone(settings):
            pass
    care.tend(spark, settings, [SEARCHES, EVENTS])
    state = state_of(settings, SEARCHES)
    assert (state.rows, state.files, state.snapshots) == (7, 1, 1)


def test_what_a_failed_training_held_is_let_go_of(settings_of: Callable[..., Settings]) -> None:
    settings = settings_of("unpinned")
    append(settings, ["a"])
    snapshot = lake.open_table(settings, SEARCHES).current_snapshot()
    assert snapshot is not None
    with suppress(KeyError), pins.held(settings, "b", {"searches": snapshot.snapshot_id}):
        assert pins.tables_of(settings, "b") == ["searches"]
        raise KeyError
    assert pins.tables_of(settings, "b") == []
    with pytest.raises(Conflict, match="is gone"), pins.held(settings, "b", {"searches": 1}):
        pass
    with suppress(KeyError), pins.held(settings, "c", {"searches": snapshot.snapshot_id}):
        (settings.bundles / "c").mkdir(parents=True)
        raise KeyError  # what was written before it failed needs its snapshots
    assert pins.tables_of(settings, "c") == ["searches"]


def test_metadata_hold_no_values_of_personal_columns(settings_of: Callable[..., Settings]) -> None:
    settings = settings_of("impersonal")
    append(settings, ["a"])
    table = lake.open_table(settings, SEARCHES)
    ids = {field.name: field.field_id for field in table.schema().fields}
    (task,) = table.scan().plan_files()
    bounded = set(task.file.lower_bounds) | set(task.file.upper_bounds)
    assert bounded == {ids[name] for name in ("ts", "ingested_at", "source")}
