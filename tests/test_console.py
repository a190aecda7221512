"""How a command ends that is told to, and what long work says where there is no terminal."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pagoda import console

COMMAND = """
import sys, time
from pathlib import Path
from pagoda.console import run

def command():
    try:
        print("begun", flush=True)
        time.sleep(60)
    finally:
        Path(sys.argv[1]).write_text("what it had started was ended")

run(command)
"""


def test_a_polite_kill_leaves_nothing_running(tmp_path: Path) -> None:
    cleaned = tmp_path / "cleaned"
    command = subprocess.Popen(
        [sys.executable, "-c", COMMAND, cleaned], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert command.stdout is not None
    assert command.stdout.readline() == b"begun\n"
    command.terminate()
    assert command.wait(timeout=30) != 0
    assert cleaned.exists()


def test_a_table_shows_text_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    console.emit_table([{"query": "typed by people [de]"}], title="see [/docs/queries]")
    said = capsys.readouterr().out
    assert "typed by people [de]" in said
    assert "see [/docs/queries]" in said


def test_long_work_says_how_far_it_is_where_there_is_no_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = [3, 1, 2]
    assert list(console.watched(steps, "intervals, by rows")) == steps
    assert not capsys.readouterr().err  # it was soon done
    monkeypatch.setattr(console, "LINE_EVERY_S", 0.0)
    assert list(console.watched(steps, "intervals, by rows")) == steps
    said = capsys.readouterr().err.splitlines()
    assert [line.split(" after ")[0] for line in said] == [
        f"intervals, by rows: {done} of 3" for done in range(3)
    ]
