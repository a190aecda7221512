"""What `pagoda bench device` and `memory` let run: one model on one device, some sizes of batches.

    python -m training.bench.sweep MODEL --device cuda --precision bf16 --compiled --batch 256 ...

In one process, so that towers are compiled once for all sizes.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from itertools import pairwise
from typing import Annotated, Any
from unittest import mock

import psutil
import torch
import typer
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from pagoda.console import run
from pagoda.models.base import TwoTowers
from pagoda.models.catalogue import Catalogue
from pagoda.models.inputs import ItemBatch, UserBatch
from pagoda.watch import Watch, measured
from training.bench.ways import LINES, Kind, built, catalogue, examples, first, loop_of, timed
from training.data.batches import Examples
from training.loop import Step, train
from training.loop_config import LoopConfig, Precision
from training.losses import sampled_softmax
from training.negatives import Negatives

WARM = 3  # steps of each size that do not count: they compile, and allocate
_SIDE = {"cpu": 2_048, "cuda": 8_192}  # of the square matrices that say what the peak is
_PRODUCTS = 10
_DTYPE = {"fp32": torch.float32, "bf16": torch.bfloat16}

app = typer.Typer(add_completion=False)


@app.command()
def main(
    kind: Annotated[Kind, typer.Argument()],
    batch: Annotated[list[int], typer.Option()],
    device: Annotated[str, typer.Option()] = "cpu",
    precision: Annotated[Precision, typer.Option()] = "fp32",
    compiled: Annotated[bool, typer.Option("--compiled")] = False,
    width: Annotated[int, typer.Option()] = 64,
    steps: Annotated[int, typer.Option()] = 10,
    items: Annotated[int, typer.Option()] = 70_000,
    seed: Annotated[int, typer.Option()] = 0,
    memory: Annotated[int, typer.Option()] = 0,
    uniform: Annotated[int, typer.Option()] = 0,
) -> None:
    """Train on batches of each size in turn; says what their steps took, beside the peak."""
    negatives = Negatives(memory=memory, uniform=uniform)
    warm = WARM + memory  # which is full then
    on = torch.device(device)
    made = catalogue(items, seed=seed)
    model = built(kind, made, width=width, seed=seed).to(on)
    trained = Compiled(model) if compiled else model
    weights = deepcopy(model.state_dict())
    sizes: list[dict[str, Any]] = []
    with measured(device=name_of(on), peak=peak(on, precision), sizes=sizes):
        for lines in batch:
            requests = max(lines // LINES, 1)
            rows = examples(made, requests=requests * (warm + steps), seed=seed)
            loop = replace(loop_of(requests, seed=seed, precision=precision), negatives=negatives)
            model.load_state_dict(weights)  # losses say nothing where sizes go on from each other
            said = sweep(trained, rows, made, loop, warm=warm)
            work = operations(lambda: train(model, first(rows, requests), made, loop), on)  # noqa: B023
            sizes.append({"lines": requests * LINES, "operations": work, **said})


def sweep(
    model: TwoTowers, rows: Examples, made: Catalogue, loop: LoopConfig, *, warm: int
) -> dict[str, Any]:
    """Train on the rows; seconds of steps and of the loader, and the memory that steps needed.

    Args:
        warm: steps that do not count.
    """
    device = model.device
    on_card = device.type == "cuda"
    loading: list[float] = []
    ends = [time.perf_counter()]

    def on_step(step: Step) -> None:  # noqa: ARG001
        if on_card:
            torch.cuda.synchronize(device)
        ends.append(time.perf_counter())

    if on_card:
        torch.cuda.reset_peak_memory_stats(device)
    columns: list[int] = []

    def softmax(score_BN: Tensor, **others: Any) -> Tensor:
        columns.append(score_BN.shape[1])
        return sampled_softmax(score_BN, **others)

    held = psutil.Process().memory_info().rss / 1e6
    with (
        mock.patch("training.loop.batches", timed(loading, time.perf_counter)),
        mock.patch("training.objective.sampled_softmax", softmax),
        Watch() as watch,
    ):
        losses = train(model, rows, made, loop, on_step=on_step)
    took = [end - start for start, end in pairwise(ends)]
    return {
        "losses": losses,
        "columns": round(statistics.median(columns[warm:])),
        "step_s": statistics.median(took[warm:]),
        "first_s": took[0],
        "loading_s": statistics.median(loading[warm:]),
        "grew_mb": watch.cost.peak_mb - held,
        "card_mb": torch.cuda.max_memory_allocated(device) / 1e6 if on_card else 0,
    }


class Compiled(TwoTowers):
    """Another model's towers, compiled; lengths and numbers of rows are variables of the code."""

    def __init__(self, inner: TwoTowers) -> None:
        super().__init__()
        self.inner = inner
        self._user = torch.compile(inner.encode_user, dynamic=True)
        self._item = torch.compile(inner.encode_item, dynamic=True)

    def encode_user(self, batch: UserBatch) -> Tensor:
        """As the model does."""
        return self._user(batch)

    def encode_item(self, items: ItemBatch) -> Tensor:
        """As the model does."""
        return self._item(items)


def operations(work: Callable[[], object], device: torch.device) -> int:
    """Floating-point operations of the matrix products within some work, backward included.

    A product of [m, k] and [k, n] counts 2 m k n; what is done element by element counts nothing,
    as usual. Fused recurrent kernels, which the counter does not know, are taken apart meanwhile.
    """
    fused = torch.backends.cudnn if device.type == "cuda" else torch.backends.mkldnn
    with FlopCounterMode(display=False) as counter, fused.flags(enabled=False):
        work()
    return int(counter.get_total_flops())


def peak(device: torch.device, precision: Precision) -> float:
    """Operations a second of a product of large matrices there: the best of some."""
    side = _SIDE[device.type]
    matrix = torch.randn(side, side, device=device, dtype=_DTYPE[precision])
    best = 0.0
    for _ in range(_PRODUCTS):
        began = time.perf_counter()
        matrix @ matrix
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = max(best, 2 * side**3 / (time.perf_counter() - began))
    return best


def name_of(device: torch.device) -> str:
    """What is computed on, and with how many threads if it is the processor."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu, {torch.get_num_threads()} threads"


if __name__ == "__main__":
    run(app)
