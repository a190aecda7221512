"""`pagoda bench pit`: the point-in-time join of training, beside two peers and Feast's own.

All join the same simulated requests with the same feature tables by the same rule (strictly
before t, as known then, no older than the view's TTL); their rows are compared one by one. A
contestant is a process of its own, so memory is its own: for Spark the JVM counts too.
"""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from pagoda import settings, store
from pagoda.bench import interleaved, median, report
from pagoda.console import people, run
from pagoda.contest import own_home, require_equal, require_peers, run_alone
from pagoda.settings import Settings
from pagoda.watch import Cost
from training.bench import made_rows

NAMES = ("pagoda", "feast", "duckdb", "polars")
_GB_PER_MILLION = 3.0  # the lake, and four contestants' rows
_GOAL_RATIO = 5.0
COMPARED = ["user_key", "t_ms"] + [
    f"{view.name}__{column}" for view in made_rows.SERVICE.views for column in view.columns
]

app = typer.Typer(add_completion=False, help="The point-in-time join: Feast, Polars, DuckDB.")


@app.command()
def main(
    rows: Annotated[int, typer.Option(help="How many requests (user, t).")] = 200_000,
    feature_rows: Annotated[int, typer.Option(help="How many rows of features.")] = 2_000_000,
    rounds: Annotated[int, typer.Option(min=1, help="Runs of each contestant.")] = 3,
    seed: Annotated[int, typer.Option(help="Another seed, other rows.")] = 1,
    keep: Annotated[
        Path | None, typer.Option(help="Work in this folder and keep the features there.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on stdout.")] = False,
) -> None:
    """Features of requests as known then: Pagoda's plan, Feast's own, DuckDB's, Polars'.

    Takes some 3 GB of disk for a million rows of features and requests, under
    $PAGODA_HOME/scratch unless --keep.
    """
    require_peers()
    loaded = settings.load()
    need_gb = 0.5 + (rows + feature_rows) / 1e6 * _GB_PER_MILLION
    people.print(f"up to {need_gb:.1f} GB of disk", highlight=False)
    folder = keep and keep / f"{feature_rows}-{seed}"
    with own_home(loaded, keep=folder, need_gb=need_gb) as home:
        held, costs, starts = contest(
            home, requests=rows, feature_rows=feature_rows, seed=seed, rounds=rounds
        )
    facts = {
        "simulated": {"seed": seed, "requests": rows, "feature rows": held},
        "rounds": rounds,
        "spark": loaded.spark.model_dump(),
        "goal": f"pagoda within {_GOAL_RATIO} of duckdb",
        "equal": "all contestants' rows, one by one",
    }
    report(loaded, "pit", table(rows, costs, starts), facts=facts, as_json=as_json)


def contest(
    home: Settings, *, requests: int, feature_rows: int, seed: int, rounds: int
) -> tuple[dict[str, int], dict[str, list[Cost]], dict[str, float]]:
    """Let each contestant join, and hold their rows equal.

    Returns: rows of each view, the costs, and the seconds each needed to start.
    Raises: CheckFailed naming rows in which contestants differ.
    """
    held = made_rows.fill(home, rows=feature_rows, seed=seed)
    store.apply(home)
    asked = home.scratch / "asked.parquet"
    made_rows.requests(home, count=requests, seed=seed).write_parquet(asked)
    starts: dict[str, float] = {}
    costs = interleaved(
        {name: partial(_run, home, name, asked, starts) for name in NAMES}, rounds=rounds
    )
    require_equal({name: _folder(home, name) for name in NAMES}, COMPARED, ("user_key", "t_ms"))
    return held, costs, starts


def table(
    requests: int, costs: dict[str, list[Cost]], starts: dict[str, float]
) -> list[dict[str, Any]]:
    """A line for each contestant; ratios are to DuckDB."""
    medians = {name: median(each) for name, each in costs.items()}
    peer = medians["duckdb"]
    return [
        {
            "by": name,
            "seconds": round(cost.seconds, 1),
            "requests/s": round(requests / cost.seconds),
            "ratio": round(cost.seconds / peer.seconds, 2),
            "cpu s": round(cost.cpu_seconds, 1),
            "cpu ratio": round(cost.cpu_seconds / peer.cpu_seconds, 2),
            "peak MB": round(cost.peak_mb),
            "start s": starts[name],
        }
        for name, cost in medians.items()
    ]


def _run(home: Settings, name: str, asked: Path, starts: dict[str, float]) -> Cost:
    folder = _folder(home, name)
    shutil.rmtree(folder.parent, ignore_errors=True)
    cost, said = run_alone(home, "training.bench.joins", name, str(asked), str(folder))
    starts[name] = said["start_s"]
    return cost


def _folder(home: Settings, name: str) -> Path:
    return home.scratch / f"by-{name}" / "rows"


if __name__ == "__main__":
    run(app)
