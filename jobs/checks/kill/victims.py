"""Finding a process group of the world and ending it with SIGKILL, at a chosen instant."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

from pagoda import faults
from pagoda.errors import CheckFailed
from pagoda.servers.supervisor import Supervisor
from pagoda.settings import Settings

_WAIT_S = 60.0
_POLL_S = 0.01
_SYNC_S = 1.0  # Redis syncs its log once a second


def group_of(settings: Settings, process: str) -> int:
    """The process group of a supervised process, which leads it; waits until it runs."""
    supervisor = Supervisor(settings)

    def running() -> int:
        for info in supervisor.processes():
            if info["name"] == process and info["pid"]:
                return int(info["pid"])
        return 0

    return wait_for(running, what=f"{process} runs")


def kill(group: int) -> None:
    """SIGKILL to the whole group."""
    with suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


def kill_alone(pid: int) -> None:
    """SIGKILL to a process, not to those that it started."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def kill_at(
    folder: Path,
    point: str,
    *,
    passages: int,
    groups: tuple[int, ...] = (),
    within_s: float = _WAIT_S,
) -> bool:
    """Kill whoever passes the point, or these groups instead; whether it came to that in time."""
    armed = faults.arm(folder, point, passages=passages, kill=groups)
    give_up = time.monotonic() + within_s
    while armed.exists():
        if time.monotonic() > give_up:
            armed.unlink(missing_ok=True)
            return False
        time.sleep(_POLL_S)
    return True


class RedisLog:
    """Watches Redis's append-only file, to take away what a machine's crash would have taken.

    kill -9 alone loses nothing that Redis has handed to the system. A power cut loses what was not
    synced: up to the last second.
    """

    def __init__(self, settings: Settings) -> None:
        """Watch until `stop`."""
        self._path = settings.data("redis") / "appendonly.aof"
        self._sizes: deque[tuple[float, int]] = deque(maxlen=2_000)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def crash(self, group: int, *, hang_s: float = 0.0) -> int:
        """Stop Redis dead, cut its log back by a second, kill it; returns the bytes cut off."""
        os.killpg(group, signal.SIGSTOP)
        stopped_at = time.monotonic()
        self.stop()
        time.sleep(hang_s)
        size = self._path.stat().st_size
        synced = [at for when, at in self._sizes if when <= stopped_at - _SYNC_S]
        keep = min(synced[-1] if synced else size, size)
        os.truncate(self._path, keep)
        kill(group)
        return size - keep

    def stop(self) -> None:
        """No longer watch."""
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.01):
            with suppress(FileNotFoundError):
                self._sizes.append((time.monotonic(), self._path.stat().st_size))


def wait_for(found: Callable[[], int], *, what: str, within_s: float = _WAIT_S) -> int:
    """Ask until the answer is not zero. Raises: CheckFailed."""
    give_up = time.monotonic() + within_s
    while not (answer := found()):
        if time.monotonic() > give_up:
            raise CheckFailed(f"did not happen within {within_s:.0f} s: {what}")
        time.sleep(_POLL_S)
    return answer


def ended(pid: int) -> bool:
    """Whether a process has ended."""
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True
