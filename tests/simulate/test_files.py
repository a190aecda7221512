"""A simulation as files that the import takes as they stand, and straight into a lake: the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from contextlib import closing
from datetime import date
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from jobs.imports.files import Files
from jobs.imports.run import Outcome, run_import
from jobs.simulate import files, tables
from jobs.simulate.behaviour import Behaviour, Simulation
from jobs.simulate.catalogue import Catalogue
from jobs.simulate.source import Simulated
from pagoda.errors import InputError
from pagoda.lake import open_table
from pagoda.schemas import EVENTS, IDS, ITEMS, REJECTED, SEARCHES, Table
from pagoda.settings import Settings, load

SIMULATION = Simulation(
    seed=7, users=400, days=4, first_day=date(2026, 2, 26), behaviour=Behaviour(robots=0.02)
)


@pytest.fixture(scope="module")
def folder(catalogue: Catalogue, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("simulated") / "shop"
    files.write(SIMULATION, catalogue, made)
    return made


@pytest.fixture(scope="module")
def imported(folder: Path, new_home: Callable[[], Settings]) -> tuple[Settings, Outcome]:
    """A home into which the files were imported with the mapping that lies beside them."""
    home = new_home()
    with closing(Files(folder / f"{SIMULATION.name}.toml", scratch=home.scratch)) as source:
        return home, run_import(home, source)


def stored(settings: Settings, table: Table) -> list[dict[str, Any]]:
    """The rows of a table in an order of their own; an item's attributes in theirs, too."""
    rows = open_table(settings, table).scan().to_arrow().to_pylist()
    for row in rows:
        if "attributes" in row:
            row["attributes"] = sorted(row["attributes"] or [])
    return sorted(rows, key=str)


def test_the_mapping_beside_the_files_imports_all_of_them(
    folder: Path, imported: tuple[Settings, Outcome]
) -> None:
    _, outcome = imported
    counts = json.loads((folder / files.MANIFEST).read_text())["counts"]
    assert outcome.tables["events"].written == counts["events"] > 10_000
    assert outcome.tables["searches"].written == counts["searches"] > 1_000
    assert list(outcome.problems) == []
    record = outcome.dataset
    assert record.query_protocol.startswith("simulated")
    assert (record.first_day, record.last_day) == (date(2026, 2, 26), date(2026, 3, 1))
    assert (record.validation_from, record.test_from) == (date(2026, 2, 28), date(2026, 3, 1))


def test_straight_into_a_lake_gives_the_same_tables_as_by_files(
    catalogue: Catalogue, imported: tuple[Settings, Outcome], new_home: Callable[[], Settings]
) -> None:
    by_files, outcome = imported
    straight = new_home()
    source = Simulated(SIMULATION, catalogue)
    record = run_import(straight, source).dataset
    for table in (ITEMS, EVENTS, SEARCHES, REJECTED):
        assert stored(straight, table) == stored(by_files, table), table.name
    assert record == outcome.dataset.model_copy(update={"fingerprint": record.fingerprint})
    known = {(row["kind"], row["id"]): row["key"] for row in stored(straight, IDS)}
    needed = {(row["kind"], row["id"]): row["key"] for row in stored(by_files, IDS)}
    assert needed.items() <= known.items()  # also those who never came
    again = run_import(straight, source)
    assert {counts.written for counts in again.tables.values()} == {0}


def test_the_same_simulation_gives_the_same_bytes(
    folder: Path, catalogue: Catalogue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the chunks it is made and written in."""
    of_day = tables.of_day
    monkeypatch.setattr(tables, "of_day", lambda *given: of_day(*given, chunk_users=93))
    files.write(SIMULATION, catalogue, tmp_path / "again")
    for name in (files.MANIFEST, "README.md", f"{SIMULATION.name}.toml"):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()
    manifest = json.loads((folder / files.MANIFEST).read_text())
    found = {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in folder.rglob("*")
        if file.is_file() and file.name != files.MANIFEST
    }
    assert found == manifest["sha256"]
    assert sum(name.startswith("truth/") for name in found) == SIMULATION.days + 1


def test_row_groups_do_not_depend_on_the_pieces(tmp_path: Path, catalogue: Catalogue) -> None:
    made = next(tables.of_day(SIMULATION, catalogue, 0)).events
    written = []
    for number, size in enumerate((len(made), 1_000, 37)):
        path = tmp_path / str(number)
        with files.Parts(path, tables.EVENTS, group_rows=2_048) as parts:
            for start in range(0, len(made), size):
                parts.add(made.slice(start, size))
        written.append(path.read_bytes())
    assert len(set(written)) == 1


def test_everything_says_that_it_is_simulated(folder: Path) -> None:
    manifest = json.loads((folder / files.MANIFEST).read_text())
    assert manifest["simulated"] is True
    assert (manifest["seed"], manifest["users"], manifest["days"]) == (7, 400, 4)
    assert manifest["behaviour"]["click_noise"] == SIMULATION.behaviour.click_noise
    assert "no person did any of this" in (folder / "README.md").read_text()
    assert "simulated" in (folder / f"{SIMULATION.name}.toml").read_text()


def test_impressions_can_be_left_out_and_nothing_else_changes(
    folder: Path, catalogue: Catalogue, tmp_path: Path
) -> None:
    files.write(SIMULATION, catalogue, tmp_path / "less", impressions=False)
    whole, less = (
        pl.read_parquet(each / "events" / "*.parquet").with_columns(
            pl.col("action").cast(pl.String)
        )
        for each in (folder, tmp_path / "less")
    )
    assert less.equals(whole.filter(pl.col("action") != "impression"))
    for name in ("searches", "truth/impressions"):
        for file in (folder / name).iterdir():
            assert (tmp_path / "less" / name / file.name).read_bytes() == file.read_bytes()


def test_a_folder_with_other_things_in_it_is_left_alone(
    catalogue: Catalogue, tmp_path: Path
) -> None:
    (tmp_path / "thesis.txt").write_text("three years")
    with pytest.raises(InputError, match="holds no simulation"):
        files.write(SIMULATION, catalogue, tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.txt"]


def test_what_was_cut_short_leaves_no_folder(catalogue: Catalogue, tmp_path: Path) -> None:
    def full(_: int) -> None:
        raise OSError("No space left on device")

    with pytest.raises(OSError, match="No space"):
        files.write(SIMULATION, catalogue, tmp_path / "shop", advance=full)
    assert list(tmp_path.iterdir()) == []


def test_a_lake_with_another_data_set_is_left_alone(
    catalogue: Catalogue, imported: tuple[Settings, Outcome]
) -> None:
    home, _ = imported
    before = stored(home, EVENTS)
    with pytest.raises(InputError, match="another data set"):
        run_import(load(home=home.home), Simulated(Simulation(seed=8, users=5), catalogue))
    assert stored(home, EVENTS) == before
