"""`pagoda bench memory`: what more negatives cost, remembered, drawn, or by a larger batch.

CBNS (Wang et al., SIGIR 2021) has remembered items so that a batch need not grow. Each source is a
process of its own (`training.bench.sweep`), all on the device of the settings and made-up rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from pagoda import settings
from pagoda.bench import report
from pagoda.console import people, run
from pagoda.contest import own_home, run_alone
from training import devices
from training.bench.sweep import WARM
from training.bench.ways import LINES, Kind

_GB = 0.1

app = typer.Typer(
    add_completion=False,
    help="More negatives: remembered, drawn, or by a larger batch.",
)


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where a step's negatives come from.

    Attributes:
        lines: of the batch. memory: batches whose items are remembered. uniform: drawn items.
    """

    name: str
    lines: int
    memory: int = 0
    uniform: int = 0


@app.command()
def main(
    model: Annotated[Kind, typer.Option(help="Whose towers.")] = "alpha_dnn",
    width: Annotated[int, typer.Option(min=8, help="Of the vectors.")] = 64,
    lines: Annotated[int, typer.Option(min=LINES, help="Lines of a batch.")] = 1_024,
    remembered: Annotated[
        list[int] | None,
        typer.Option(min=1, help="So many batches; repeatable.", show_default="1, 4, 16"),
    ] = None,
    steps: Annotated[int, typer.Option(min=2, help="Batches of each.")] = 10,
    items: Annotated[int, typer.Option(min=1_000, help="How many items there are.")] = 70_000,
    seed: Annotated[int, typer.Option(help="Another seed, other rows.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on stdout.")] = False,
) -> None:
    """One model's steps with as many further negatives from each source.

    On two cores some two minutes for alpha-DNN.
    """
    loaded = settings.load()
    device = devices.chosen(loaded)
    asked = [f"--device={device}", f"--width={width}", f"--items={items}", f"--seed={seed}"]
    rows: list[dict[str, Any]] = []
    on = ""
    with own_home(loaded, keep=None, need_gb=_GB) as home:
        for source in sources(lines, remembered or [1, 4, 16]):
            people.print(source.name, highlight=False)
            of = [f"--batch={source.lines}", f"--memory={source.memory}"]
            of += [f"--uniform={source.uniform}", f"--steps={steps}"]
            _, said = run_alone(home, "training.bench.sweep", model, *asked, *of)
            (size,) = said["sizes"]
            on = said["device"]
            rows.append(_row(source, size, rows[0] if rows else None))
    facts = {
        "model": f"{model}, width {width}",
        "device": on,
        "made up": {"items": items, "seed": seed, "lines a request": LINES},
        "steps": f"the median of {steps}, after {WARM} and those that fill the memory",
        "MB": "what the process grew by while it trained",
    }
    report(loaded, "memory", rows, facts=facts, as_json=as_json)


def sources(lines: int, remembered: list[int]) -> Iterator[Source]:
    """The batch alone, then each number of batches remembered, drawn, and in the batch itself."""
    yield Source(name="the batch", lines=lines)
    for batches in remembered:
        yield Source(name=f"and {batches} remembered", lines=lines, memory=batches)
        yield Source(name="and as many drawn", lines=lines, uniform=batches * lines)
        yield Source(name=f"a batch {1 + batches} times as large", lines=(1 + batches) * lines)


def _row(source: Source, size: dict[str, Any], first: dict[str, Any] | None) -> dict[str, Any]:
    step_ms = 1e3 * size["step_s"]
    on_card = {"card MB": round(size["card_mb"])} if size["card_mb"] else {}
    return {
        "negatives": source.name,
        "lines": size["lines"],
        "step ms": round(step_ms, 1),
        "x": round(step_ms / (first["step ms"] if first else step_ms), 2),
        "samples/s": round(size["lines"] / size["step_s"]),
        "MB": round(size["grew_mb"]),
        **on_card,
    }


if __name__ == "__main__":
    run(app)
