"""The training loop: batch, forward, loss, check, backward, clip, step, log, checkpoint."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from pagoda.errors import CheckFailed
from pagoda.models.base import TwoTowers
from pagoda.models.catalogue import Catalogue
from training import checkpoints
from training.data import Batch, Examples, batches, chances, steps_per_epoch
from training.losses import Mix, mixed, pairwise_hinge, sampled_softmax
from training.negatives import Chances, Memory, Negatives
from training.optimisers import AdagradConfig, clip_gradients


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """How long, how fast, and with which loss.

    Attributes:
        requests_per_batch: requests, each with all its lines.
        loss: sampled softmax, or the pairwise hinge that the paper compares it with.
        negatives: the sources of columns beside a line's own item.
        mix: relevance-improving hard negatives in the softmax's sum, if any.
        temperature: the score's divisor in the softmax; the paper's 2.
        log_q: whose scores are corrected by their chance to be among the columns.
        margin: of the hinge.
        checkpoint_steps: steps between checkpoints.
    """

    epochs: int = 1
    requests_per_batch: int = 128
    loss: Literal["softmax", "hinge"] = "softmax"
    negatives: Negatives = field(default_factory=Negatives)
    mix: Mix | None = None
    temperature: float = 2.0
    log_q: Literal["off", "negatives", "all"] = "all"
    margin: float = 1.0
    optimiser: AdagradConfig = field(default_factory=AdagradConfig)
    seed: int = 0
    checkpoint_steps: int = 100

    def __post_init__(self) -> None:
        if min(self.temperature, self.margin) <= 0:
            raise ValueError("temperature and margin must be positive")
        if min(self.epochs, self.requests_per_batch, self.checkpoint_steps) < 1:
            raise ValueError("epochs, requests_per_batch and checkpoint_steps must be at least 1")
        if self.loss == "hinge" and self.mix:
            raise ValueError("mixed negatives are part of the softmax")


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
    memory = Memory(config.negatives.memory)
    losses = checkpoints.restore(checkpoint, model, optimiser, memory) if checkpoint else []
    per_epoch = steps_per_epoch(examples, config.requests_per_batch)
    held = chances(examples, config.requests_per_batch, len(catalogue), config.negatives)
    model.train()
    for epoch in range(len(losses) // per_epoch, config.epochs):
        for batch in batches(
            examples,
            catalogue,
            requests_per_batch=config.requests_per_batch,
            seed=config.seed,
            epoch=epoch,
            first=len(losses) - epoch * per_epoch,
            negatives=config.negatives,
        ):
            loss = _loss(model, batch, config, held, memory, step=len(losses))
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
                checkpoints.write(checkpoint, model, optimiser, memory, losses)
    model.eval()
    return losses


def _loss(
    model: TwoTowers,
    batch: Batch,
    config: LoopConfig,
    held: Chances,
    memory: Memory,
    *,
    step: int,
) -> Tensor:
    """The batch's loss; what it has taken is remembered.

    Shape legend: B lines, P items of the batch, N columns: these and the memory's, D width.
    """
    item_PD = model.encode_item(batch.items)
    items_N, item_ND, excluded_BN = batch.items.item_M.numpy(), item_PD, batch.excluded_BP
    remembered = config.negatives.remembered(step)
    if remembered:
        further, further_ND = memory.columns(besides=items_N)
        items_N, item_ND = np.concatenate([items_N, further]), torch.cat([item_PD, further_ND])
        negative_BN = torch.zeros(len(excluded_BN), len(further), dtype=torch.bool)
        excluded_BN = torch.cat([excluded_BN, negative_BN], 1)
    if config.negatives.memory:
        taken = torch.unique(batch.positive_B)
        memory.add(batch.items.item_M[taken].numpy(), item_PD[taken])
    score_BN = model.encode_user(batch.user) @ item_ND.T
    if config.loss == "hinge":
        return pairwise_hinge(
            score_BN, positive_B=batch.positive_B, excluded_BN=excluded_BN, margin=config.margin
        )
    score_BN = score_BN / config.temperature
    mixed_BK = None
    if config.mix:
        mixed_BK = mixed(
            score_BN,
            positive_B=batch.positive_B,
            excluded_BN=excluded_BN,
            mix=config.mix,
            dice=torch.Generator().manual_seed(config.seed * 1_000_003 + step),
        )
    log_q_N = None
    if config.log_q != "off":
        log_q_N = torch.from_numpy(held.log_q(items_N, remembered=remembered))
    return sampled_softmax(
        score_BN,
        positive_B=batch.positive_B,
        excluded_BN=excluded_BN,
        log_q_N=log_q_N,
        correct_positive=config.log_q == "all",
        mixed_BK=mixed_BK,
    )


def _diverged(loss: float, epoch: int, batch: int) -> CheckFailed:
    return CheckFailed(
        f"the loss is {loss}; the model was not stepped",
        where=f"epoch {epoch}, batch {batch}",
        next_step="Lower the learning rates or the gradient's bound in the recipe.",
    )
