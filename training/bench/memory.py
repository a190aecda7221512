"""`pagoda bench memory`: what more negatives cost, remembered, drawn, or by a larger batch.

CBNS (Wang et al., SIGIR 2021) has remembered items so that a batch need not grow. Each source is a
process of its own (`training.bench.sweep`), all on the device of the settings and made-up rows.
"""

from __future__ import annotations

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


@app.command()
def main(
    model: Annotated[Kind, typer.Option(help="Whose towers.")] = "alpha_dnn",
    width: Annotated[int, typer.Option(min=8, help="Of the vectors.")] = 64,
    lines: Annotated[int, typer.Option(min=2 * LINES, help="Lines of a batch.")] = 1_024,
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
    common = [f"--device={device}", f"--width={width}", f"--items={items}", f"--seed={seed}"]
    rows: list[dict[str, Any]] = []
    computed_on = ""
    with own_home(loaded, keep=None, need_gb=_GB) as home:

        def add(name: str, lines: int, *negatives: str) -> int:
            """A row of the table; how many columns there were."""
            nonlocal computed_on
            people.print(name, highlight=False)
            asked = [*common, f"--steps={steps}", f"--batch={lines}", *negatives]
            _, found = run_alone(home, "training.bench.sweep", model, *asked)
            computed_on = found["device"]
            (size,) = found["sizes"]
            rows.append(_row(name, size, rows[0] if rows else None))
            return int(size["columns"])

        alone = add("the batch", lines)
        for batches in remembered or [1, 4, 16]:
            columns = add(f"and {batches} remembered", lines, f"--memory={batches}")
            # So many that the columns are as many: remembered items are often the same ones.
            add("and as many drawn", lines, f"--uniform={columns - alone}")
            add(f"a batch {1 + batches} times as large", (1 + batches) * lines)
    facts = {
        "model": f"{model}, width {width}",
        "device": computed_on,
        "made up": {"items": items, "seed": seed, "lines a request": LINES},
        "steps": f"the median of {steps}, after {WARM} and those that fill the memory",
        "columns": "the softmax's, distinct items",
        "MB": "what the process grew by while it trained, beyond memory freed before",
    }
    report(loaded, "memory", rows, facts=facts, as_json=as_json)


def _row(name: str, size: dict[str, Any], first: dict[str, Any] | None) -> dict[str, Any]:
    step_ms = 1e3 * size["step_s"]
    on_card = {"card MB": round(size["card_mb"])} if size["card_mb"] else {}
    return {
        "negatives": name,
        "lines": size["lines"],
        "columns": size["columns"],
        "step ms": round(step_ms, 1),
        "x": round(step_ms / (first["step ms"] if first else step_ms), 2),
        "samples/s": round(size["lines"] / size["step_s"]),
        "MB": round(size["grew_mb"]),
        **on_card,
    }


if __name__ == "__main__":
    run(app)
