"""`pagoda bench train`: samples a CPU second, beside the same towers trained the plain way.

Both train the same model on the same made-up batches, one thread each, in processes of their own;
their losses must be equal, step by step. What is not shared in the plain way says
`training.bench_ways`. A second table says where Pagoda's time goes, and what more items cost.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any, get_args

import numpy as np
import typer

from pagoda import settings
from pagoda.bench import Cost, interleaved, median, report
from pagoda.console import emit_table, people, run
from pagoda.contest import own_home, run_alone
from pagoda.errors import CheckFailed
from pagoda.settings import Settings
from training.bench_ways import PARTS, Kind, Way

WAYS: tuple[Way, ...] = get_args(Way)
# Model, width, lines a batch, and the goals: samples a CPU second, times the plain way.
SHAPES: tuple[tuple[Kind, int, int, int, float | None], ...] = (
    ("mgdspr", 128, 256, 1_200, 4.0),
    ("mgdspr", 64, 1_024, 2_500, None),
    ("alpha_dnn", 64, 1_024, 15_000, None),
)
_LOSSES_DIFFER = 1e-3  # relative; sums go in another order
_GB = 0.1

app = typer.Typer(help="Towers: samples a CPU second, beside the plain way.")


@app.command()
def main(
    steps: Annotated[int, typer.Option(min=2, help="Batches of a run.")] = 20,
    rounds: Annotated[int, typer.Option(min=1, help="Runs of each contestant.")] = 3,
    items: Annotated[int, typer.Option(min=1_000, help="How many items there are.")] = 70_000,
    many: Annotated[
        int, typer.Option(help="How many more cost, shown for width 64; 0: not.")
    ] = 7_000_000,
    seed: Annotated[int, typer.Option(help="Another seed, other rows.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on stdout.")] = False,
) -> None:
    """Towers on one thread: Pagoda's loop, and the same model with nothing shared.

    7 million items take some 9 GB of memory.
    """
    loaded = settings.load()
    with own_home(loaded, keep=None, need_gb=_GB) as home:
        asked = [f"--steps={steps}", f"--seed={seed}"]
        rows = [
            row for shape in SHAPES for row in contest(home, shape, items, asked, rounds=rounds)
        ]
        parts = [
            {"model": kind, "width": width, "batch": batch, **dict.fromkeys(PARTS)}
            | _run(home, "pagoda", kind, width, batch, items, [*asked, "--profile"])[1]["parts"]
            for kind, width, batch, *_ in SHAPES
        ]
        if many:
            rows += more_items(home, (items, many), asked, rounds=rounds)
    facts = {
        "made up": {"items": items, "steps": steps, "seed": seed, "lines a request": 10},
        "rounds": rounds,
        "threads": 1,
        "parts": parts,
        "equal": "the losses of both ways, step by step",
        "goals": ", ".join(
            f"{kind} {width}/{batch}: {goal:,} a CPU s"
            + (f" and {times:g} x plain" if times else "")
            for kind, width, batch, goal, times in SHAPES
        ),
    }
    if not as_json:
        emit_table(parts, title="Share of the time, by part (under a profiler)")
    report(loaded, "train", rows, facts=facts, as_json=as_json)


def contest(
    home: Settings,
    shape: tuple[Kind, int, int, int, float | None],
    items: int,
    asked: Sequence[str],
    *,
    rounds: int,
) -> list[dict[str, Any]]:
    """A line for each way. Raises: CheckFailed if their losses differ."""
    kind, width, batch, *_ = shape
    said: dict[str, dict[str, Any]] = {}

    def once(way: Way) -> Cost:
        cost, said[way] = _run(home, way, kind, width, batch, items, asked)
        return cost

    people.print(f"{kind}, width {width}, {batch} lines a batch", highlight=False)
    costs = interleaved({way: partial(once, way) for way in WAYS}, rounds=rounds)
    require_equal(said)
    speeds = {way: said[way]["samples"] / median(costs[way]).cpu_seconds for way in WAYS}
    return [
        _row(kind, width, batch, items, way, speeds[way], median(costs[way]))
        | {"x plain": round(speeds[way] / speeds["plain"], 1)}
        for way in WAYS
    ]


def require_equal(said: dict[str, dict[str, Any]]) -> None:
    """Raises: CheckFailed if the ways' losses are not those of the first, step by step."""
    (first, one), *others = said.items()
    for name, other in others:
        if not np.allclose(one["losses"], other["losses"], rtol=_LOSSES_DIFFER):
            raise CheckFailed(
                f"losses of {first} and {name} differ",
                expected=str(one["losses"][:5]),
                found=str(other["losses"][:5]),
            )


def more_items(
    home: Settings, counts: tuple[int, int], asked: Sequence[str], *, rounds: int
) -> list[dict[str, Any]]:
    """Pagoda's loop at width 64 on few items and on many."""
    kind, width, batch, *_ = SHAPES[1]
    samples: dict[int, int] = {}

    def once(items: int) -> Cost:
        cost, said = _run(home, "pagoda", kind, width, batch, items, asked)
        samples[items] = said["samples"]
        return cost

    costs = interleaved({f"{each:,} items": partial(once, each) for each in counts}, rounds=rounds)
    found = [median(each) for each in costs.values()]
    return [
        _row(kind, width, batch, items, "pagoda", samples[items] / cost.cpu_seconds, cost)
        | {"x plain": None}
        for items, cost in zip(counts, found, strict=True)
    ]


def _run(
    home: Settings,
    way: Way,
    kind: Kind,
    width: int,
    batch: int,
    items: int,
    asked: Sequence[str],
) -> tuple[Cost, dict[str, Any]]:
    shape = [f"--width={width}", f"--lines-per-batch={batch}", f"--items={items}"]
    return run_alone(home, "training.bench_ways", way, kind, *shape, *asked)


def _row(
    kind: Kind, width: int, batch: int, items: int, way: Way, speed: float, cost: Cost
) -> dict[str, Any]:
    return {
        "model": kind,
        "width": width,
        "batch": batch,
        "items": items,
        "way": way,
        "samples/CPU s": round(speed),
        "peak MB": round(cost.peak_mb),
    }


if __name__ == "__main__":
    run(app)
