"""What every `pagoda bench` shares: what a run took, on which machine, as a table and as JSON.

Machines are noisy, so no figure stands alone: the contestants run in turn, round after round, in
the same minutes, and what counts is the ratio of their medians. What a contestant needs once (a
Spark session, a client's connection) is started outside of `pagoda.watch` and reported apart.
"""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

import orjson
import psutil

from pagoda.console import emit_json, emit_table, people
from pagoda.settings import Settings
from pagoda.watch import Cost


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
    further: Mapping[str, Sequence[Mapping[str, Any]]] = MappingProxyType({}),
) -> Path:
    """Print the figures, and write them with the machine and the time to `reports/bench`.

    Args:
        facts: what was measured on what: sizes, rounds, skew, start-up seconds, goals.
        further: tables beside the figures, by their titles.
    """
    now = datetime.now(UTC)
    said = {
        "bench": name,
        "at": now.isoformat(timespec="seconds"),
        "machine": machine(),
        "facts": dict(facts),
        "rows": list(rows),
        "further": dict(further),
    }
    folder = settings.reports / "bench"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{now:%Y%m%dT%H%M%SZ}.json"
    path.write_bytes(orjson.dumps(said, option=orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY))
    if as_json:
        emit_json(said)
    else:
        for title, each in further.items():
            emit_table(each, title=title)
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
