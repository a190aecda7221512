"""Two trainings of one content share a folder: one at a time, across processes."""

from __future__ import annotations

import subprocess
import sys

import pytest

from pagoda.errors import Conflict
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
    first.kill()
    first.wait()
    with scratch.held(made, "train-x") as folder:
        assert folder == made.scratch / "train-x"
