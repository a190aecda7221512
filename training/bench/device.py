"""`pagoda bench device`: what the device of the settings makes of the towers.

Samples a second by the clock, and the share of what the device reaches in large matrix products of
the same precision, for batches of 256 to 8,192 lines, in fp32 and bf16, as written and compiled.
Each combination is a process of its own (`training.bench.sweep`); losses of the compiled towers
must be those of the others.
"""

from __future__ import annotations

import os
import shutil
from itertools import product
from typing import Annotated, Any, get_args

import numpy as np
import typer

from pagoda import settings
from pagoda.bench import report
from pagoda.console import people, run
from pagoda.contest import own_home, run_alone
from pagoda.errors import CheckFailed, MachineError
from training import devices
from training.bench.sweep import WARM
from training.bench.ways import LINES, Kind
from training.loop_config import Precision

PRECISIONS: tuple[Precision, ...] = get_args(Precision)
_LOSSES_DIFFER = {"fp32": 1e-3, "bf16": 3e-2}  # relative, from eager fp32's
_GB = 0.1

app = typer.Typer(
    add_completion=False,
    help="Towers on the device of the settings: batch sizes, precisions, compiled.",
)


@app.command()
def main(
    model: Annotated[Kind, typer.Option(help="Whose towers.")] = "mgdspr",
    width: Annotated[int, typer.Option(min=8, help="Of the vectors.")] = 64,
    smallest: Annotated[
        int, typer.Option(min=2 * LINES, help="Lines of the smallest batch.")
    ] = 256,
    largest: Annotated[int, typer.Option(help="Of the largest; sizes double.")] = 8_192,
    steps: Annotated[int, typer.Option(min=2, help="Batches of each size.")] = 10,
    items: Annotated[int, typer.Option(min=1_000, help="How many items there are.")] = 70_000,
    compiled: Annotated[bool, typer.Option(help="Compiled towers too.")] = True,
    seed: Annotated[int, typer.Option(help="Another seed, other rows.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on stdout.")] = False,
) -> None:
    """One model's training on `training.device`, on made-up rows as those of `pagoda bench train`.

    On two cores some four minutes for MGDSPR; a compiled model's first step takes 5 to 40 s.
    """
    loaded = settings.load()
    device = devices.chosen(loaded)
    if compiled:
        require_compiler()
    asked = [f"--device={device}", f"--width={width}", f"--steps={steps}"]
    asked += [f"--items={items}", f"--seed={seed}"]
    asked += [f"--batch={lines}" for lines in doubled(smallest, largest)]
    said: dict[tuple[Precision, str], dict[str, Any]] = {}
    with own_home(loaded, keep=None, need_gb=_GB) as home:
        for precision, mode in product(PRECISIONS, ("eager", "compiled")[: 1 + compiled]):
            people.print(f"{precision}, {mode}", highlight=False)
            how = [f"--precision={precision}", *(["--compiled"] if mode == "compiled" else [])]
            _, said[precision, mode] = run_alone(home, "training.bench.sweep", model, *asked, *how)
    require_alike(said)
    peaks = {
        precision: max(each["peak"] for (one, _), each in said.items() if one == precision)
        for precision in PRECISIONS
    }
    rows = [
        _row(precision, mode, size, peaks[precision])
        for (precision, mode), each in said.items()
        for size in each["sizes"]
    ]
    facts = {
        "model": f"{model}, width {width}",
        "device": said["fp32", "eager"]["device"],
        "peak": ", ".join(f"{key} {each / 1e12:.2f} TFLOP/s" for key, each in peaks.items())
        + ": the best of large matrix products in the same processes",
        "made up": {"items": items, "steps": steps, "seed": seed, "lines a request": LINES},
        "steps": f"the median of {steps}, after {WARM} that do not count",
        "loader": "its share of a step by the clock",
    }
    report(loaded, "device", rows, facts=facts, as_json=as_json)


def require_compiler() -> None:
    """Raises: MachineError if there is no C++ compiler, which torch.compile wants on any device."""
    compiler = os.environ.get("CXX", "g++")
    if not shutil.which(compiler):
        raise MachineError(
            "torch.compile needs a C++ compiler",
            expected=compiler,
            found="none of that name",
            next_step="Install g++, name another by CXX, or measure with --no-compiled.",
        )


def doubled(smallest: int, largest: int) -> list[int]:
    """Sizes from the smallest up to the largest, each twice the one before."""
    sizes = [smallest]
    while 2 * sizes[-1] <= largest:
        sizes.append(2 * sizes[-1])
    return sizes


def require_alike(said: dict[tuple[Precision, str], dict[str, Any]]) -> None:
    """Raises: CheckFailed if losses are farther from those of fp32, eager, than precision."""
    reference = said["fp32", "eager"]["sizes"]
    for (precision, mode), each in said.items():
        for size, expected in zip(each["sizes"], reference, strict=True):
            far = ~np.isclose(size["losses"], expected["losses"], rtol=_LOSSES_DIFFER[precision])
            if far.any():
                step = int(far.argmax())
                raise CheckFailed(
                    f"losses of {precision}, {mode}, differ from those of fp32, eager",
                    where=f"{size['lines']} lines a batch, step {step + 1}",
                    expected=str(expected["losses"][step]),
                    found=str(size["losses"][step]),
                )


def _row(precision: str, mode: str, size: dict[str, Any], peak: float) -> dict[str, Any]:
    speed = size["operations"] / size["step_s"]
    on_card = {"card MB": round(size["card_mb"])} if size["card_mb"] else {}
    return {
        "precision": precision,
        "mode": mode,
        "lines": size["lines"],
        "samples/s": round(size["lines"] / size["step_s"]),
        "GFLOP/s": float(f"{speed / 1e9:.3g}"),
        "% of peak": round(100 * speed / peak, 1),
        "loader %": round(100 * size["loading_s"] / size["step_s"], 1),
        "first step s": round(size["first_s"], 1),
        **on_card,
    }


if __name__ == "__main__":
    run(app)
