"""The list of stages is true: producers for all that is read, entries that exist."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from pagoda import lake, stages
from pagoda.cli.main import COMMANDS
from pagoda.features import VIEWS

ROOT = Path(__file__).parent.parent


def test_everything_read_is_written_by_a_stage_or_comes_from_outside() -> None:
    written = {name for stage in stages.STAGES for name in stage.writes} | set(stages.OUTSIDE)
    orphans = {
        f"{stage.name} reads {name}"
        for stage in (*stages.STAGES, *stages.CHECKS)
        for name in stage.reads
        if name not in written
    }
    assert not orphans


def test_every_table_of_the_lake_has_a_writer() -> None:
    # Maintenance writes them all, and brings none of what is in them.
    writers = [each for each in (*stages.STAGES, *stages.UPKEEP) if each.name != "maintenance"]
    written = {name for stage in writers for name in stage.writes}
    assert {f"lake:{table.name}" for table in lake.TABLES} <= written


def test_every_view_is_written_online_by_its_one_writer() -> None:
    writers = {
        name: stage.name
        for stage in stages.STAGES
        for name in stage.writes
        if name.startswith("online:")
    }
    expected = {"materialise": "materialise", "stream": "sequences"}
    assert writers == {f"online:{view.name}": expected[view.online_writer] for view in VIEWS}


def test_every_entry_point_is_a_module() -> None:
    missing = [
        stage.entry
        for stage in (*stages.STAGES, *stages.CHECKS)
        if stage.entry and importlib.util.find_spec(stage.entry) is None
    ]
    assert not missing


def test_every_stage_lives_in_its_room() -> None:
    strays = [s.name for s in stages.STAGES if s.entry and not s.entry.startswith(f"{s.room}.")]
    assert not strays


def test_every_command_leads_somewhere() -> None:
    missing = [
        target
        for target, _ in COMMANDS.values()
        if importlib.util.find_spec(target.partition(":")[0]) is None
    ]
    assert not missing


def test_the_readme_shows_the_road_as_the_stages_draw_it() -> None:
    readme = (ROOT / "README.md").read_text()
    assert f"```mermaid\n{stages.draw()}\n```" in readme, (
        "the picture is old: paste `pagoda stages --mermaid` into README.md"
    )
