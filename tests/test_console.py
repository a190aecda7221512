"""How a command ends that is told to."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

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
