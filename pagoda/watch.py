"""What a block of work takes: time, CPU, memory; and how a contestant of a bench says so.

Read in other projects' environments too, where of Pagoda's dependencies only psutil is.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import psutil

SAID = "contestant: "  # what a contestant's line of JSON begins with
_SAMPLE_S = 0.05


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What one run took.

    Attributes:
        seconds: wall clock.
        cpu_seconds: user and system time of the process and its children.
        peak_mb: the most resident memory of all these together, sampled every 50 ms, 10^6 bytes.
    """

    seconds: float
    cpu_seconds: float
    peak_mb: float


class Watch:
    """Measures a block: `with Watch() as watch: ...`, then `watch.cost`.

    Children that live on beside the block (Spark's JVM) count; what they used before does not.
    """

    cost: Cost

    def __init__(self, process: psutil.Process | None = None) -> None:
        """Watch a process and its descendants; by default this one."""
        self._root = process or psutil.Process()
        self._cpu: dict[int, float] = {}
        self._peak = 0
        self._end = threading.Event()
        self._sampler = threading.Thread(target=self._sample_on, daemon=True)

    def __enter__(self) -> Self:
        self._sample()
        self._before = dict(self._cpu)
        self._began = time.perf_counter()
        self._sampler.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        seconds = time.perf_counter() - self._began
        self._end.set()
        self._sampler.join()
        self._sample()
        cpu = sum(used - self._before.get(pid, 0.0) for pid, used in self._cpu.items())
        self.cost = Cost(seconds=seconds, cpu_seconds=cpu, peak_mb=self._peak / 1e6)

    def _sample_on(self) -> None:
        while not self._end.wait(_SAMPLE_S):
            self._sample()

    def _sample(self) -> None:
        resident = 0
        with suppress(psutil.NoSuchProcess):
            for process in (self._root, *self._root.children(recursive=True)):
                with suppress(psutil.NoSuchProcess, psutil.ZombieProcess), process.oneshot():
                    resident += process.memory_info().rss
                    times = process.cpu_times()
                    self._cpu[process.pid] = times.user + times.system
        self._peak = max(self._peak, resident)


@contextmanager
def measured(**beside: Any) -> Iterator[None]:
    """In a contestant's process: the work. What came before it is its start."""
    start_s = time.time() - psutil.Process().create_time()
    with Watch() as watch:
        yield
    said = {"cost": vars(watch.cost), "start_s": round(start_s, 1), **beside}
    sys.stdout.write(SAID + json.dumps(said) + "\n")
