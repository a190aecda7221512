"""Finding every process of a PAGODA_HOME, also when its supervisor is gone.

Each supervised process carries a mark in its environment, which all its descendants inherit:
Airflow's tasks, Spark's JVMs, their Python workers, whatever process group they made.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import psutil

MARK = "PAGODA_PROCESS_OF"


def mark(home: Path, server: str) -> str:
    """What the environment of that server's processes says."""
    return f"{home.resolve()}|{server}"


def owner(pid: int) -> tuple[str, str] | None:
    """Home and server that a process belongs to; None if to none, or if it has ended."""
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        home, found, server = process.environ().get(MARK, "").rpartition("|")
    except (psutil.Error, OSError):
        return None
    return (home, server) if found else None


def of(home: Path, servers: Iterable[str] | None = None) -> dict[int, str]:
    """Process id to server, of all that live; this process and its ancestors are left out."""
    wanted = None if servers is None else set(servers)
    spared = {os.getpid(), *(each.pid for each in psutil.Process().parents())}
    found = {}
    for pid in psutil.pids():
        belongs = owner(pid) if pid not in spared else None
        if belongs is None or belongs[0] != str(home.resolve()):
            continue
        if wanted is None or belongs[1] in wanted:
            found[pid] = belongs[1]
    return found


def homes(server: str) -> set[Path]:
    """Every PAGODA_HOME on this machine that has a living process of that server."""
    owners = filter(None, map(owner, psutil.pids()))
    return {Path(home) for home, found in owners if found == server}


def end(find: Callable[[], Iterable[int]], *, grace_s: float) -> set[int]:
    """Ask processes to end, SIGKILL what still lives after the grace.

    Args:
        find: called again and again, for a dying process may start another.
    Returns: those that live on nevertheless.
    """
    asked: set[int] = set()
    deadline = time.monotonic() + grace_s
    while living := set(find()):
        late = time.monotonic() >= deadline
        for pid in living if late else living - asked:
            with suppress(psutil.Error):
                process = psutil.Process(pid)
                process.kill() if late else process.terminate()
        asked |= living
        if time.monotonic() >= deadline + 5:
            return set(find())
        time.sleep(0.1)
    return set()


def describe(pid: int | None) -> str:
    """A process in words: whose it is, and its command."""
    if pid is None:
        return "a process that cannot be seen from here"
    try:
        command = " ".join(psutil.Process(pid).cmdline())[:120]
    except psutil.Error:
        return f"process {pid}"
    belongs = owner(pid)
    whose = f"{belongs[1]} of the Pagoda in {belongs[0]}, " if belongs else ""
    return f"{whose}process {pid}: {command}"
