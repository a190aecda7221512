"""How long searches take, by step: `python -m tests.serving.latency URL --user 1899 "fluid milk"`.

Not a test: figures depend on the machine. docs/serving.md says what they were on ours.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated

import httpx
import numpy as np
import psutil
import typer

from pagoda.console import emit_table


def main(
    url: str,
    queries: list[str],
    user: Annotated[list[str] | None, typer.Option(help="Users, in turn; none: anonymous.")] = None,
    requests: int = 500,
    at_once: int = 1,
    k: int = 20,
    pid: Annotated[list[int] | None, typer.Option(help="Processes to count CPU time of.")] = None,
) -> None:
    """Ask the running service, and show p50 and p99 of every step and CPU time a request."""
    processes = [psutil.Process(each) for each in pid or []]
    users: list[str | None] = [*user] if user else [None]
    bodies: list[dict[str, object]] = [
        {"query": queries[n % len(queries)], "user_id": users[n % len(users)], "k": k}
        for n in range(requests)
    ]
    with httpx.Client(base_url=url, timeout=30) as client, ThreadPoolExecutor(at_once) as pool:
        list(pool.map(lambda body: _ask(client, body), bodies[:50]))  # warm
        before_s = [_cpu_s(process) for process in processes]
        steps = list(pool.map(lambda body: _ask(client, body), bodies))
    emit_table(
        {
            "step": name,
            "p50 ms": f"{np.percentile([each[name] for each in steps], 50):.1f}",
            "p99 ms": f"{np.percentile([each[name] for each in steps], 99):.1f}",
        }
        for name in steps[0]
    )
    for process, cpu_s in zip(processes, before_s, strict=True):
        typer.echo(f"{process.name()}: {(_cpu_s(process) - cpu_s) / requests * 1000:.1f} ms CPU")


def _ask(client: httpx.Client, body: dict[str, object]) -> dict[str, float]:
    started = time.perf_counter()
    answer = client.post("/search", json=body)
    taken_ms = (time.perf_counter() - started) * 1000
    answer.raise_for_status()
    return {**answer.json()["timings_ms"], "seen by the client": taken_ms}


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


if __name__ == "__main__":
    typer.run(main)
