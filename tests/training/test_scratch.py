"""Two trainings of one content share a folder: one at a time, across processes."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pagoda.errors import Conflict
from pagoda.settings import Settings
from tests.conftest import Home
from training.data import scratch

_HOLDS = """
import sys
from pathlib import Path
from pagoda.settings import load
from training.data import scratch

with scratch.held(load(home=Path(sys.argv[1])), "train-x") as folder:
    print(folder, flush=True)
    sys.stdin.read()
"""


def test_a_second_process_is_refused_until_the_first_is_gone_however_it_went(home: Home) -> None:
    made = home("scratch")
    first = subprocess.Popen(
        [sys.executable, "-c", _HOLDS, made.home],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert first.stdout
    assert first.stdout.readline().strip() == str(made.scratch / "train-x")
    with pytest.raises(Conflict, match="another process trains on the same rows"):
        scratch.held(made, "train-x").__enter__()
    with scratch.held(made, "train-y"):
        pass
    waiting = ThreadPoolExecutor(1).submit(_waits, made)
    with pytest.raises(TimeoutError):
        waiting.result(timeout=0.3)
    first.kill()
    first.wait()
    assert waiting.result(timeout=30) == made.scratch / "train-x"


def _waits(settings: Settings) -> Path:
    with scratch.held(settings, "train-x", wait=True) as folder:
        return folder
