"""`python -m training.reproduce.runs PART`: train variants of a part and judge each, once.

A finished run is a file (`training.reproduce.record`); what is there already is not run again, so
a part that was stopped goes on. It runs in a process and in a PAGODA_HOME of its own
(`training.reproduce.tasks`).

Shape legend: B lines of one pass, N candidates, K first ones.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
import typer

from pagoda import settings as settings_module
from pagoda.bundle import as_json
from pagoda.console import people
from pagoda.console import run as run_app
from pagoda.errors import Conflict
from pagoda.models.base import TwoTowers
from pagoda.models.mgdspr import Mgdspr
from training import devices, loop, negatives
from training.data import scratch
from training.evaluation import scores
from training.evaluation.metrics import ranks_of
from training.evaluation.scores import Columns
from training.recipes import Recipe, seeded
from training.reproduce import ground as grounds
from training.reproduce import plan, record
from training.reproduce.attention import zero_weights
from training.reproduce.ground import KS, Ground, listed
from training.reproduce.plan import Part
from training.reproduce.record import RunRecord, ZeroShare
from training.reproduce.variants import BASE, HINGE, SOFTMAX
from training.vectors import encode_items, encode_lines

# Whose recall is measured while they learn, on people's data: it takes a third of their time.
TRACED = (BASE.name, SOFTMAX, HINGE)
_TRACED_REQUESTS = 250  # some 2,000 lines of completejourney
_TRACED_STEPS = 10
_LOSSES = 100  # kept of each run
_ATTENDED_REQUESTS = 500
SAYS = "· "  # what a line begins with that whoever started this process shows
_SAY_S = 60.0

app = typer.Typer(add_completion=False)


@dataclass(frozen=True, kw_only=True)
class Run:
    """A variant with a seed, and where its record belongs.

    Attributes:
        traced: its recall is measured while it learns.
    """

    variant: str
    recipe: Recipe
    path: Path
    traced: bool = False

    @property
    def done(self) -> bool:
        """Whether it is there."""
        return self.path.exists()


def runs_of(part: Part, folder: Path, seeds: int) -> list[Run]:
    """All runs of a part, seed by seed, so that a part that was stopped has whole seeds.

    Args:
        folder: of the ground they stand on.
    """
    found = []
    for seed in range(seeds):
        for variant in part.variants:
            if seed >= part.seeds_of(variant, seeds):
                continue
            recipe = seeded(part.recipe(variant), seed)
            path = record.path(folder, variant, recipe)
            traced = variant in TRACED and part.noise is None
            found.append(Run(variant=variant, recipe=recipe, path=path, traced=traced))
    return found


def do(
    missing: Sequence[Run],
    ground: Ground,
    *,
    advance: Callable[[Run, float], None],
    device: torch.device,
) -> None:
    """Train and judge each, and write its record.

    Args:
        advance: told which run is at work and what share of its steps is done.
    """
    for each in missing:
        record.write(each.path, once(each, ground, partial(advance, each), device=device))


def once(
    run: Run, ground: Ground, advance: Callable[[float], None], *, device: torch.device
) -> RunRecord:
    """Train a model on a device and judge it."""
    trial, config = ground.trial, run.recipe.loop
    torch.manual_seed(config.seed)
    model = run.recipe.model.build(ground.sizes).to(device)
    began = time.perf_counter()
    judging_s = 0.0
    recalls: list[tuple[int, float]] = []
    some = _draw(ground, _TRACED_REQUESTS)

    def on_step(step: loop.Step) -> None:
        nonlocal judging_s
        if run.traced and step.step in _traced(step.of):
            paused = time.perf_counter()
            model.eval()
            ranks = np.concatenate([rank_B for _, rank_B, _ in _judged(model, ground, some)])
            recalls.append((step.step, float((ranks < KS[-1]).mean())))
            model.train()
            judging_s += time.perf_counter() - paused
        advance(step.step / step.of)

    losses = loop.train(model, ground.train, trial.catalogue, config, on_step=on_step)
    trained = time.perf_counter()
    rank_B = np.empty(trial.examples.lines, np.int64)
    good_KB = np.empty((len(KS), trial.examples.lines), np.int64)
    for lines, of_lines, good in _judged(model, ground):
        rank_B[lines], good_KB[:, lines] = of_lines, good
    zero, empty = _zero_shares(model.cpu(), ground) if run.variant == BASE.name else ([], {})
    return RunRecord(
        variant=run.variant,
        seed=config.seed,
        recipe=dict(as_json(run.recipe)),
        train_lines=ground.train.lines,
        steps=len(losses),
        seconds={
            "train": round(trained - began - judging_s, 1),
            "judge": round(time.perf_counter() - trained + judging_s, 1),
        },
        losses=thinned(losses, _LOSSES),
        recalls=recalls,
        ranks=listed(rank_B),
        good={k: good_B.tolist() for k, good_B in zip(KS, good_KB, strict=True)},
        zero=zero,
        empty=empty,
        device=str(device),
    )


def thinned(losses: Sequence[float], most: int) -> list[tuple[int, float]]:
    """(last step, mean) of consecutive parts of the losses, as many as asked for at most."""
    parts = np.array_split(np.arange(len(losses)), min(most, len(losses)))
    return [(int(part[-1]) + 1, float(np.mean([losses[at] for at in part]))) for part in parts]


def _traced(steps: int) -> set[int]:
    """At which steps recall is measured: evenly by their logarithm, the last one too."""
    return set(np.geomspace(min(8, steps), steps, _TRACED_STEPS).round().astype(int).tolist())


def _judged(
    model: TwoTowers, ground: Ground, requests: Columns | None = None
) -> Iterator[tuple[Columns, npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
    """Some lines, their ranks [B], and how many of the first K are on the wanted shelf [K's, B]."""
    trial, leaf_N = ground.trial, torch.from_numpy(ground.leaves)
    ks = [min(k, len(leaf_N)) for k in KS]
    users = encode_lines(model, trial.examples, trial.catalogue, requests=requests)
    vectors = encode_items(model, trial.catalogue)
    for lines, score_BN in scores.by_towers(trial, model, vectors, users=users):
        first_BK = torch.from_numpy(score_BN).topk(ks[-1]).indices
        wanted_B = torch.from_numpy(ground.wanted.leaf_B[lines])
        good_BK = (leaf_N[first_BK] == wanted_B.unsqueeze(1)).cumsum(1)
        good = torch.stack([good_BK[:, k - 1] for k in ks])
        yield lines, ranks_of(score_BN, trial.targets[lines]), good.numpy()


def _draw(ground: Ground, requests: int) -> Columns:
    """The same judged requests every time, all if there are no more."""
    return negatives.draw(requests, pool=ground.trial.examples.requests, seed=(0,)) - 1


def _zero_shares(model: TwoTowers, ground: Ground) -> tuple[list[ZeroShare], dict[str, float]]:
    """By sequence: the zero vector's weight, with and without related events; and the share of
    lines that have no event in it."""
    assert isinstance(model, Mgdspr)
    told = zero_weights(
        model,
        ground.trial.examples,
        ground.trial.catalogue,
        requests=_draw(ground, _ATTENDED_REQUESTS),
        wanted_B=ground.wanted.leaf_B,
    )
    shares = (
        told.filter("filled")
        .group_by("sequence", "related", maintain_order=True)
        .agg(lines=pl.len(), share=pl.col("zero").mean())
    )
    empty = told.group_by("sequence", maintain_order=True).agg((~pl.col("filled")).mean())
    return [ZeroShare(**row) for row in shares.to_dicts()], dict(empty.iter_rows())


class _Told:
    """Says which run is at work, and every minute how far it is."""

    def __init__(self, part: Part, count: int) -> None:
        self._part, self._count = part, count
        self._run: Run | None = None
        self._number = 0
        self._said = 0.0

    def __call__(self, run: Run, share: float) -> None:
        begins = run is not self._run
        if not begins and time.monotonic() - self._said < _SAY_S:
            return
        self._run, self._said = run, time.monotonic()
        self._number += begins
        at = f"{run.variant}, seed {run.recipe.loop.seed}, run {self._number} of {self._count}"
        done = "" if begins else f", {share:.0%}"
        people.print(f"{SAYS}{self._part.name}: {at}{done}", highlight=False, soft_wrap=True)


@app.command()
def main(
    name: Annotated[str, typer.Argument(metavar="PART")],
    rows: Annotated[int, typer.Option(help="Which of the part's rows.")],
    seed: Annotated[int, typer.Option(help="Of the models.")],
    size: Annotated[str, typer.Option()],
    seeds: Annotated[int, typer.Option()],
    folder: Annotated[Path, typer.Option()],
) -> None:
    """Runs of one seed that are missing of a part, on the data set of this PAGODA_HOME."""
    settings = settings_module.load()
    (part,) = (each for each in plan.SIZES[size].parts if each.name == name)
    groups = part.by_rows()
    read = [grounds.read(settings, each, _any_recipe(each)) for each in groups]
    place = folder / part.name / "-".join(inputs.fingerprint for inputs in read)
    if (place / record.GROUND).exists():
        (place / record.GROUND).touch()  # the newest is what the report is about
    some = groups[rows]
    of_seed = [each for each in runs_of(some, place, seeds) if each.recipe.loop.seed == seed]
    missing = [each for each in of_seed if not each.done]
    if not missing:
        return
    people.print(f"{SAYS}{part.name}: rows …")
    name_of_rows = f"reproduce-{read[rows].fingerprint}"
    with scratch.held(settings, f"{name_of_rows}-{seed}") as encoded:
        with scratch.held(settings, name_of_rows, wait=True) as fetched:  # by one of the seeds
            ground = grounds.build(
                settings, some, _any_recipe(some), read[rows], fetched, encoded=encoded
            )
            _judged_alike(place, ground.record())
        do(missing, ground, advance=_Told(some, len(missing)), device=devices.chosen(settings))


def _judged_alike(place: Path, told: record.GroundRecord) -> None:
    """Keep what runs are judged on, with the first of them. Raises: Conflict if it was another."""
    if not (place / record.GROUND).exists():
        record.write(place / record.GROUND, told)
    if record.read_ground(place).judged != told.judged:
        raise Conflict(
            "variants that are compared were judged on other lines",
            where=str(place),
            next_step="Delete that folder and start again.",
        )


def _any_recipe(part: Part) -> Recipe:
    """One of a part whose variants all read the same rows."""
    return part.recipe(next(iter(part.variants)))


if __name__ == "__main__":
    run_app(app)
