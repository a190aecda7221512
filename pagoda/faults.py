"""Places at which the kill -9 harness ends a process, or a server under its hands, in mid-step.

`point("sequences.written")` does nothing unless PAGODA_FAULTS names a folder that holds a file of
that name: `arm` puts it there, and the passage that it asks for takes it away and kills. Production
code has no other part in it; `pagoda check kill` sets the variable for servers of its own.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from pagoda import whole

FOLDER = "PAGODA_FAULTS"


def point(name: str) -> None:
    """A step begins or ends here."""
    folder = os.environ.get(FOLDER)
    if folder:
        _pass(Path(folder) / name)


def arm(folder: Path, name: str, *, passages: int = 1, kill: Collection[int] = ()) -> Path:
    """Kill at the given passage of a point.

    Args:
        kill: process groups; without any the one that passes.
    Returns: a file that is gone once it has happened.
    """
    armed = folder / name
    _write(armed, passages, list(kill))
    return armed


def _pass(armed: Path) -> None:
    try:
        said = json.loads(armed.read_text())
    except FileNotFoundError:
        return
    if said["passages"] > 1:
        _write(armed, said["passages"] - 1, said["kill"])
        return
    armed.unlink()
    for group in said["kill"] or [os.getpgrp()]:
        with suppress(ProcessLookupError):  # it has ended by itself
            os.killpg(group, signal.SIGKILL)


def _write(armed: Path, passages: int, kill: list[int]) -> None:
    whole.write(armed, json.dumps({"passages": passages, "kill": kill}))
