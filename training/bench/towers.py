"""`pagoda bench train`: samples a CPU second, beside the same towers trained the plain way.

Both train the same model on the same made-up batches, one thread each, in processes of their own;
their losses must be equal, step by step. What is not shared in the plain way says
`training.bench.ways`. `sasrec` has a peer beside it, RecBole's, of the same form on the same
samples, if the peers' environment is there. A second table says where Pagoda's time goes, and what
more items cost.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, get_args

import numpy as np
import typer

from pagoda import settings
from pagoda.bench import interleaved, median, report
from pagoda.console import people, run
from pagoda.contest import own_home, run_alone
from pagoda.errors import CheckFailed
from pagoda.settings import PROJECT_ROOT, Settings
from pagoda.watch import Cost
from training.bench import sequences
from training.bench.ways import LINES, PARTS, Kind, Way

PEERS = PROJECT_ROOT / ".venv-peers" / "bin" / "python"
_LOSSES = "sasrec is told from the batch's items, RecBole's by CE from all, by BPR from one"
# The losses of RecBole's SASRec: over all items, its default, and over one other.
PEER = {"CE": "RecBole's SASRec, CE", "BPR": "RecBole's SASRec, BPR"}
WAYS: tuple[Way, ...] = get_args(Way)
Shape = tuple[Kind, int, int, int | None, float | None]
# Model, width, lines a batch, and the goals: samples a CPU second, times the plain way.
SHAPES: tuple[Shape, ...] = (
    ("mgdspr", 128, 256, 1_200, 4.0),
    ("mgdspr", 64, 1_024, 2_500, None),
    ("alpha_dnn", 64, 1_024, 15_000, None),
    ("sasrec", 64, 1_024, None, None),
)
_LOSSES_DIFFER = 1e-3  # relative; sums go in another order
_GB = 0.1
_PARTS = "share of the time, by part, under a profiler"
_LINES = f"{LINES}; sasrec 1"
_NO_PEERS = "RecBole has an environment of its own, which `make peers` makes"

app = typer.Typer(add_completion=False, help="Towers: samples a CPU second, beside the plain way.")


@app.command()
def main(
    steps: Annotated[int, typer.Option(min=2, help="Batches of a run.")] = 20,
    rounds: Annotated[int, typer.Option(min=1, help="Runs of each contestant.")] = 3,
    items: Annotated[int, typer.Option(min=1_000, help="How many items there are.")] = 70_000,
    many: Annotated[
        int, typer.Option(help="What so many cost MGDSPR, width 64, too (9 GB); 0: not.")
    ] = 7_000_000,
    seed: Annotated[int, typer.Option(help="Another seed, other rows.")] = 0,
    model: Annotated[Kind | None, typer.Option(help="Only this one.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on stdout.")] = False,
) -> None:
    """Towers on one thread: Pagoda's loop, the same model with nothing shared, RecBole's SASRec."""
    loaded = settings.load()
    shapes = [shape for shape in SHAPES if model in (None, shape[0])]
    with own_home(loaded, keep=None, need_gb=_GB) as home:
        asked = [f"--steps={steps}", f"--seed={seed}"]
        for batch in (each[2] for each in shapes if each[0] == "sasrec"):
            samples = steps * batch
            sequences.write(_sequences(home), items=items, samples=samples, seed=seed)
        rows = [
            row for shape in shapes for row in contest(home, shape, items, asked, rounds=rounds)
        ]
        shares = {
            f"{kind} {width}/{batch}": _run(
                home, "pagoda", kind, width, batch, items, [*asked, "--profile"]
            )[1]["parts"]
            for kind, width, batch, *_ in shapes
        }
        if many and model in (None, SHAPES[1][0]):
            rows += more_items(home, (items, many), asked, rounds=rounds)
    facts = {
        "made up": {"items": items, "steps": steps, "seed": seed, "lines a request": _LINES},
        "rounds": rounds,
        "threads": 1,
        "equal": "the losses of both ways, step by step; the samples of sasrec and RecBole's",
        "peer": _LOSSES if PEERS.exists() else f"none: {_NO_PEERS}",
        "goals": ", ".join(
            f"{kind} {width}/{batch}: {goal:,} a CPU s"
            + (f" and {times:g} x plain" if times else "")
            for kind, width, batch, goal, times in shapes
            if goal
        ),
    }
    parts = [
        {"part": part} | {shape: shares[shape].get(part) for shape in shares} for part in PARTS
    ]
    report(loaded, "train", rows, facts=facts, as_json=as_json, further={_PARTS: parts})


def contest(
    home: Settings, shape: Shape, items: int, asked: Sequence[str], *, rounds: int
) -> list[dict[str, Any]]:
    """A line for each way and each loss of the peer. Raises: CheckFailed, see `require_equal`."""
    kind, width, batch, *_ = shape
    said: dict[str, dict[str, Any]] = {}

    loading: dict[str, list[float]] = defaultdict(list)

    def once(way: Way) -> Cost:
        cost, said[way] = _run(home, way, kind, width, batch, items, asked)
        loading[way].append(100 * sum(said[way]["loading"]) / cost.cpu_seconds)
        return cost

    def peer(loss: str) -> Cost:
        given = [str(_sequences(home)), loss, str(width), str(batch)]
        cost, said[PEER[loss]] = run_alone(home, "training.bench.by_recbole", *given, python=PEERS)
        return cost

    people.print(f"{kind}, width {width}, {batch} lines a batch", highlight=False)
    contestants: dict[str, Callable[[], Cost]] = {way: partial(once, way) for way in WAYS}
    if kind == "sasrec" and PEERS.exists():
        contestants |= {PEER[loss]: partial(peer, loss) for loss in PEER}
    elif kind == "sasrec":
        people.print(f"no peer: {_NO_PEERS}", highlight=False)
    costs = interleaved(contestants, rounds=rounds)
    require_equal(said)
    speeds = {name: said[name]["samples"] / median(costs[name]).cpu_seconds for name in contestants}
    return [
        _row(kind, width, batch, items, name, speeds[name], median(costs[name]))
        | {
            "x plain": round(speeds[name] / speeds["plain"], 1),
            "loader %": round(statistics.median(loading[name]), 1) if name in loading else None,
        }
        for name in contestants
    ]


def require_equal(said: dict[str, dict[str, Any]]) -> None:
    """Raises: CheckFailed if somebody's samples are not those of the first, or its losses, step by
    step, where the model is the same.
    """
    (first, one), *others = said.items()
    for name, other in others:
        if other.get("rows") != one.get("rows"):
            raise CheckFailed(f"samples of {first} and {name} differ")
        if "losses" in other and not np.allclose(
            one["losses"], other["losses"], rtol=_LOSSES_DIFFER
        ):
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
        | {"x plain": None, "loader %": None}
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
    if kind == "sasrec":
        shape.append(f"--folder={_sequences(home)}")
    return run_alone(home, "training.bench.ways", way, kind, *shape, *asked)


def _sequences(home: Settings) -> Path:
    return home.scratch / sequences.NAME


def _row(
    kind: Kind, width: int, batch: int, items: int, way: str, speed: float, cost: Cost
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
