"""`pagoda reproduce mgdspr` from an empty home: data set, features, rows, towers, report."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import orjson
import pytest

from pagoda.settings import PROJECT_ROOT, Settings
from training.reproduce.variants import BASE, BASELINE

pytestmark = pytest.mark.spark
_ASKED = ("--size=small", "--only=final", "--seeds=2")


def reproduce(home: Path, *options: str) -> str:
    """What the command prints, in that home."""
    done = subprocess.run(
        [sys.executable, "-m", "training.reproduce.cli", "mgdspr", *_ASKED, *options],
        cwd=PROJECT_ROOT,
        env={**os.environ, "PAGODA_HOME": str(home), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4_000:]
    return done.stdout


def left(home: Path) -> list[tuple[str, int, int]]:
    """Of each part: its name, how many runs it has, how many are done."""
    rows: list[dict[str, Any]] = json.loads(reproduce(home, "--plan", "--json"))
    return [(row["part"], row["runs"], row["done"]) for row in rows]


def test_one_command_makes_the_data_the_models_and_the_report(
    settings: Settings, tmp_path: Path
) -> None:
    """Two seeds at once, of which one waits for the other's rows."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "jars").symlink_to(settings.jars)
    assert left(home) == [("final", 4, 0)]
    reproduce(home, "--processes=2")
    assert left(home) == [("final", 4, 4)]
    folder = home / "reproduce" / "small"
    said = orjson.loads((folder / "report.json").read_bytes())
    seeds = {
        row["variant"]: len(row["share"]["seeds"])
        for row in said["tables"]
        if (row["metric"], row["rows"]) == ("R@100", "all") and row["beside"]
    }
    assert seeds == {BASE.name: 2, BASELINE: 2}
    assert said["facts"]["final"]["judged_on"].endswith("2017-12-25 to 2018-01-01")
    assert f'<th scope="row">{BASELINE}</th>' in (folder / "report.html").read_text()
