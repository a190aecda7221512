"""Ends the servers of a PAGODA_HOME when its tests have ended, in whatever way they did.

    python -m tests.guard HOME      waits until its standard input is closed

A process of its own, because a worker of pytest-xdist is given ten seconds after Ctrl-C, and
SIGKILL gives none.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path


def main(home: Path) -> None:
    """Wait for the end, stop the servers, delete the home."""
    sys.stdin.read()
    # Only now: a guard waits for most of an hour.
    from pagoda import servers
    from pagoda.settings import load

    servers.down(load(home=home))
    shutil.rmtree(home)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
