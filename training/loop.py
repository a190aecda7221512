"""The training loop: batch, forward, loss, step, log, checkpoint."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from pagoda.errors import InputError
from pagoda.models.base import TwoTowers
from pagoda.models.catalogue import Catalogue
from training import checkpoints, processes
from training.data.batches import Examples, Requests, batch_size, batches, steps_per_epoch
from training.loop_config import LoopConfig
from training.negatives import Negatives
from training.objective import Objective
from training.optimisers import descend


@dataclass(frozen=True, kw_only=True)
class Step:
    """What one step did."""

    step: int
    of: int
    lines: int
    loss: float
    gradient_norm: float


def train(
    model: TwoTowers,
    examples: Examples,
    catalogue: Catalogue,
    config: LoopConfig,
    *,
    checkpoint: Path | None = None,
    on_step: Callable[[Step], None] | None = None,
) -> list[float]:
    """Train in place, from the checkpoints if there are any; the losses of all steps.

    On the device that the model is on. On the processor resumed training goes on bit for bit as if
    it had not been interrupted; on a card sums vary, and dropout's noise is another.

    With several processes (`training.processes`) each calls it with the same arguments; the first
    writes the checkpoints.

    Args:
        checkpoint: where; that of the finish lies beside it.

    Raises: CheckFailed before the step whose loss is not finite; InputError if a batch has fewer
        requests than there are processes, or one alone to tell its items from nothing, or if a
        source of negatives would begin after the end.
    """
    phases = _phases(examples, config)
    _require_trainable(config.negatives, phases)
    of = sum(each.steps for each in phases)
    losses: list[float] = []
    for each in phases:
        losses += _train(
            model,
            examples,
            catalogue,
            each,
            before=len(losses),
            of=of,
            checkpoint=checkpoint and checkpoint.with_stem(f"{checkpoint.stem}{each.suffix}"),
            on_step=on_step,
        )
    model.eval()
    return losses


@dataclass(frozen=True, kw_only=True)
class _Phase:
    """Epochs with an optimiser of their own.

    Attributes:
        among: the requests that are gone through; None: all. requests: how many.
        suffix: of the checkpoint's name.
    """

    config: LoopConfig
    epochs: range
    among: Requests | None
    requests: int
    suffix: str

    @property
    def per_epoch(self) -> int:
        """Steps."""
        return steps_per_epoch(self.requests, self.config.requests_per_batch)

    @property
    def steps(self) -> int:
        """Of all its epochs."""
        return len(self.epochs) * self.per_epoch


def _require_trainable(negatives: Negatives, phases: Sequence[_Phase]) -> None:
    """Raises: InputError naming all for which nothing, or something else, would be learned."""
    requests = min(batch_size(each.requests, each.config.requests_per_batch) for each in phases)
    steps, epochs = sum(each.steps for each in phases), phases[-1].epochs.stop
    problems = []
    if requests < processes.count():
        problems.append(
            f"a batch has {requests} requests for {processes.count()} processes: start fewer, or "
            "raise loop.requests_per_batch"
        )
    if requests == 1 and negatives.batch and not negatives.uniform:
        problems.append(
            "a request alone has nothing to tell its items from: train on more days, or draw items "
            "from the pool by loop.negatives.uniform"
        )
    if negatives.memory and negatives.memory_after >= steps:
        problems.append(
            "loop.negatives.memory_after: the memory would never be used; expected fewer than the "
            f"{steps} steps that there are, found {negatives.memory_after}"
        )
    if negatives.mined and negatives.mined_from >= epochs:
        problems.append(
            "loop.negatives.mined_from: nothing would ever be mined; expected, counted from 0, "
            f"less than the {epochs} epochs that there are, found {negatives.mined_from}"
        )
    if problems:
        raise InputError(
            "towers cannot be trained so",
            problems=problems,
            next_step="`pagoda train --set` changes a recipe's settings.",
        )


def _phases(examples: Examples, config: LoopConfig) -> list[_Phase]:
    first = _Phase(
        config=config,
        epochs=range(config.epochs),
        among=None,
        requests=examples.requests,
        suffix="",
    )
    if not (finish := config.finish):
        return [first]
    among = None if finish.days is None else examples.latest(finish.days)
    last = _Phase(
        config=replace(config, optimiser=finish.optimiser, frequency=config.going_on.frequency),
        epochs=range(config.epochs, config.epochs + finish.epochs),
        among=among,
        requests=examples.requests if among is None else len(among),
        suffix="-finish",
    )
    return [first, last]


def _train(
    model: TwoTowers,
    examples: Examples,
    catalogue: Catalogue,
    phase: _Phase,
    *,
    before: int,
    of: int,
    checkpoint: Path | None,
    on_step: Callable[[Step], None] | None,
) -> list[float]:
    """One phase; its losses. A checkpoint is kept of its last step too: the next begins there.

    Args:
        before: steps of the phases before. of: steps of all.
    """
    config = phase.config
    torch.manual_seed(config.seed + before)
    optimiser = config.optimiser.build(model)
    objective = Objective(config, examples, catalogue, among=phase.among, before=before)
    kept = objective.kept
    losses = checkpoints.restore(checkpoint, model, optimiser, kept) if checkpoint else []
    if processes.rank() or model.device.type != "cpu":
        # Dropout's noise is each process's own, and a checkpoint has the processor's alone.
        rank = processes.rank()
        torch.manual_seed(config.seed + 1_000_003 * rank + before + len(losses))
    model.train()
    rested_at = 0.0
    for epoch in phase.epochs[len(losses) // phase.per_epoch :]:
        first = len(losses) % phase.per_epoch
        if config.negatives.mines(epoch) and not first:
            objective.mined.mine(model, examples, catalogue, seed=(config.seed, epoch))
        for batch in batches(
            examples,
            catalogue,
            requests_per_batch=config.requests_per_batch,
            seed=config.seed,
            epoch=epoch,
            first=first,
            negatives=config.negatives,
            mined_LK=objective.mined.items_LK,
            order=config.order,
            among=phase.among,
        ):
            step = before + len(losses)
            loss = objective.loss(model, batch, step=step)
            norm = descend(
                model,
                optimiser,
                loss,
                clip_norm=config.optimiser.clip_norm,
                where=f"epoch {epoch}, batch {batch.number}",
            )
            losses.append(loss.item())
            if on_step:
                on_step(
                    Step(
                        step=step + 1,
                        of=of,
                        lines=len(batch.positive_B),
                        loss=losses[-1],
                        gradient_norm=norm,
                    )
                )
            due = not len(losses) % config.checkpoint_steps and time.monotonic() >= rested_at
            if checkpoint and not processes.rank() and (due or len(losses) == phase.steps):
                took_s = checkpoints.write(checkpoint, model, optimiser, kept, losses)
                rested_at = time.monotonic() + checkpoints.rest_s(took_s)
    return losses
