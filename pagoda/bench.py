"""What every `pagoda bench` shares: what a run took, on which machine, as a table and as JSON.

Machines are noisy, so no figure stands alone: the contestants run in turn, round after round, in
the same minutes, and what counts is the ratio of their medians. What a contestant needs once (a
Spark session, a client's connection) is started outside of `Watch` and reported apart.
"""

from __future__ import annotations

import os
import platform
import statistics
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import orjson
import psutil

from pagoda.console import emit_json, emit_table, people
from pagoda.settings import Settings

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


def interleaved(
    contestants: Mapping[str, Callable[[], Cost]], *, rounds: int
) -> dict[str, list[Cost]]:
    """Let each run once a round, each round beginning with another; costs in order of rounds."""
    costs: dict[str, list[Cost]] = {name: [] for name in contestants}
    names = list(contestants)
    for number in range(rounds):
        turn = number % len(names)
        for name in (*names[turn:], *names[:turn]):
            people.print(f"round {number + 1} of {rounds}: {name}", highlight=False)
            costs[name].append(contestants[name]())
    return costs


def median(costs: Sequence[Cost]) -> Cost:
    """The median of each figure by itself; of memory the largest."""
    return Cost(
        seconds=statistics.median(each.seconds for each in costs),
        cpu_seconds=statistics.median(each.cpu_seconds for each in costs),
        peak_mb=max(each.peak_mb for each in costs),
    )


def machine() -> dict[str, Any]:
    """What it ran on, and how busy that was when the bench ended."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "load": [round(each, 1) for each in os.getloadavg()],
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
    }


def report(
    settings: Settings,
    name: str,
    rows: Sequence[Mapping[str, Any]],
    *,
    facts: Mapping[str, Any],
    as_json: bool,
) -> Path:
    """Print the figures, and write them with the machine and the time to `reports/bench`.

    Args:
        facts: what was measured on what: sizes, rounds, skew, start-up seconds, goals.
    """
    now = datetime.now(UTC)
    said = {
        "bench": name,
        "at": now.isoformat(timespec="seconds"),
        "machine": machine(),
        "facts": dict(facts),
        "rows": list(rows),
    }
    folder = settings.reports / "bench"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{now:%Y%m%dT%H%M%SZ}.json"
    path.write_bytes(orjson.dumps(said, option=orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY))
    if as_json:
        emit_json(said)
    else:
        emit_table(rows)
        for key, value in {**facts, **machine()}.items():
            people.print(f"{key}: {value}", highlight=False, markup=False)
        people.print(f"written to {path}", highlight=False, markup=False)
    return path


def _cpu_model() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
