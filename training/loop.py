"""The training loop: batch, forward, loss, check, backward, clip, step, log, checkpoint."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch

from pagoda.errors import CheckFailed
from pagoda.models.base import TwoTowers
from pagoda.models.catalogue import Catalogue
from training import checkpoints
from training.data import Examples, batches, steps_per_epoch
from training.losses import in_batch_softmax
from training.optimisers import AdagradConfig, clip_gradients


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """How long, how fast, and with which loss.

    Attributes:
        requests_per_batch: requests, each with all its lines.
        temperature: the score's divisor in the loss; the paper's 2.
        log_q: whose scores are corrected by their chance to be in the batch.
        checkpoint_steps: steps between checkpoints.
    """

    epochs: int = 1
    requests_per_batch: int = 128
    temperature: float = 2.0
    log_q: Literal["off", "negatives", "all"] = "all"
    optimiser: AdagradConfig = field(default_factory=AdagradConfig)
    seed: int = 0
    checkpoint_steps: int = 100

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise ValueError("temperature must be positive")
        if min(self.epochs, self.requests_per_batch, self.checkpoint_steps) < 1:
            raise ValueError("epochs, requests_per_batch and checkpoint_steps must be at least 1")


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
    """Train in place, from the checkpoint if there is one; the losses of all steps.

    Resumed training goes on bit for bit as if it had not been interrupted.

    Raises: CheckFailed before the step whose loss is not finite.
    """
    torch.manual_seed(config.seed)
    optimiser = config.optimiser.build(model)
    losses = checkpoints.restore(checkpoint, model, optimiser) if checkpoint else []
    per_epoch = steps_per_epoch(examples, config.requests_per_batch)
    model.train()
    for epoch in range(len(losses) // per_epoch, config.epochs):
        for batch in batches(
            examples,
            catalogue,
            requests_per_batch=config.requests_per_batch,
            seed=config.seed,
            epoch=epoch,
            first=len(losses) - epoch * per_epoch,
        ):
            loss = in_batch_softmax(
                model.encode_user(batch.user),
                model.encode_item(batch.items),
                positive_B=batch.positive_B,
                false_negative_BP=batch.false_negative_BP,
                log_q_P=None if config.log_q == "off" else batch.log_q_P,
                correct_positive=config.log_q == "all",
                temperature=config.temperature,
            )
            if not math.isfinite(loss.item()):
                raise _diverged(loss.item(), epoch, batch.number)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            norm = clip_gradients(model, config.optimiser.clip_norm)
            optimiser.step()
            losses.append(loss.item())
            if on_step:
                on_step(
                    Step(
                        step=len(losses),
                        of=config.epochs * per_epoch,
                        lines=len(batch.positive_B),
                        loss=losses[-1],
                        gradient_norm=norm,
                    )
                )
            if checkpoint and len(losses) % config.checkpoint_steps == 0:
                checkpoints.write(checkpoint, model, optimiser, losses)
    model.eval()
    return losses


def _diverged(loss: float, epoch: int, batch: int) -> CheckFailed:
    return CheckFailed(
        f"the loss is {loss}; the model was not stepped",
        where=f"epoch {epoch}, batch {batch}",
        next_step="Lower the learning rates or the gradient's bound in the recipe.",
    )
