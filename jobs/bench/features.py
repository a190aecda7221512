"""`pagoda bench features`: histories of user-days, by the production job and by two peers.

Each contestant reads the same simulated events from the same Iceberg files and writes the rows of
`user_day` as Parquet; the rows of all are compared one by one. A contestant is a process of its
own, so memory is its own: for Spark the JVM and its Python workers together.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from jobs.bench import shop
from jobs.bench.contestant import NAMES
from pagoda import features, settings
from pagoda.bench import interleaved, median, report
from pagoda.console import people, run
from pagoda.contest import own_home, require_equal, require_peers, run_alone
from pagoda.settings import Settings
from pagoda.watch import Cost

_GB_PER_MILLION = 0.8  # the lake, and three contestants' rows at a time
_GOAL_RATIO, _GOAL_GROWTH = 2.5, 1.1
# Timestamps differ in their Parquet type.
COMPARED = [
    f"epoch_us({column})" if column in ("event_timestamp", "created") else column
    for column in features.USER_DAY.row_schema.names
]

app = typer.Typer(add_completion=False, help="Histories of user-days: Spark, DuckDB, Polars.")


@app.command()
def main(
    events: Annotated[
        list[int] | None, typer.Option(help="How many simulated events; repeatable.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Runs of each contestant.")] = 3,
    seed: Annotated[int, typer.Option(help="Another seed, other events.")] = 1,
    keep: Annotated[
        Path | None, typer.Option(help="Work in this folder and keep the events there.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on stdout.")] = False,
) -> None:
    """Histories of all user-days of a month, by Spark, DuckDB and Polars; 2M and 20M events.

    Takes some 0.8 GB of disk for a million events, under $PAGODA_HOME/scratch unless --keep.
    """
    require_peers()
    loaded = settings.load()
    sizes = sorted(events or [2_000_000, 20_000_000])
    rows: list[dict[str, Any]] = []
    shops = []
    for size in sizes:
        need_gb = 0.5 + size / 1e6 * _GB_PER_MILLION
        people.print(f"{size:,} events: up to {need_gb:.1f} GB of disk", highlight=False)
        with own_home(loaded, keep=keep and keep / str(size), need_gb=need_gb) as home:
            held, costs, starts = contest(home, events=size, seed=seed, rounds=rounds)
        shops.append(asdict(held))
        rows += table(held.events, costs, starts)
    facts = {
        "simulated": shops,
        "rounds": rounds,
        "spark": loaded.spark.model_dump(),
        "goal": f"spark within {_GOAL_RATIO} of the faster peer, growth within {_GOAL_GROWTH}",
        "growth": growth(rows),
        "equal": "all contestants' rows, one by one",
    }
    report(loaded, "features", rows, facts=facts, as_json=as_json)


def contest(
    home: Settings, *, events: int, seed: int, rounds: int
) -> tuple[shop.Shop, dict[str, list[Cost]], dict[str, float]]:
    """Let each contestant run on simulated events, and hold their rows equal.

    Returns: what the events are, the costs, and the seconds each needed to start.
    Raises: CheckFailed naming rows in which contestants differ.
    """
    held = shop.prepare(home, events=events, seed=seed)
    starts: dict[str, float] = {}
    costs = interleaved({name: partial(_run, home, name, starts) for name in NAMES}, rounds=rounds)
    folders = {name: _folder(home, name) for name in NAMES}
    require_equal(folders, COMPARED, ("user_key", "day"))
    for folder in folders.values():
        shutil.rmtree(folder)
    return held, costs, starts


def table(
    events: int, costs: dict[str, list[Cost]], starts: dict[str, float]
) -> list[dict[str, Any]]:
    """A line for each contestant; `ratio` is its time over that of the faster peer."""
    medians = {name: median(each) for name, each in costs.items()}
    faster = min(medians[name].seconds for name in NAMES[1:])
    return [
        {
            "events": events,
            "by": name,
            "seconds": round(cost.seconds, 1),
            "events/s": round(events / cost.seconds),
            "ratio": round(cost.seconds / faster, 2),
            "cpu s": round(cost.cpu_seconds, 1),
            "peak MB": round(cost.peak_mb),
            "start s": starts[name],
        }
        for name, cost in medians.items()
    ]


def growth(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """From the smallest size to the largest: time and memory, over the growth of the events."""
    grown: dict[str, dict[str, float]] = {}
    for name in NAMES:
        small, *_, large = [row for row in rows if row["by"] == name] * 2
        if small is not large:
            linear = large["events"] / small["events"]
            grown[name] = {
                "time, of linear": round(large["seconds"] / small["seconds"] / linear, 2),
                "memory, times": round(large["peak MB"] / small["peak MB"], 2),
            }
    return grown


def _run(home: Settings, name: str, starts: dict[str, float]) -> Cost:
    folder = _folder(home, name)
    shutil.rmtree(folder, ignore_errors=True)
    cost, said = run_alone(home, "jobs.bench.contestant", name, str(folder))
    starts[name] = said["start_s"]
    return cost


def _folder(home: Settings, name: str) -> Path:
    return home.scratch / f"by-{name}"


if __name__ == "__main__":
    run(app)
