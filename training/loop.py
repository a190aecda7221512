"""The training loop: batch, forward, loss, step, log, checkpoint."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from pagoda.errors import InputError
from pagoda.models.base import TwoTowers
from pagoda.models.catalogue import Catalogue
from pagoda.models.inputs import moved
from pagoda.schemas import ACTIONS
from training import checkpoints, processes
from training.data import (
    Batch,
    Examples,
    Order,
    Requests,
    batch_size,
    batches,
    chances,
    in_batches,
    steps_per_epoch,
)
from training.frequency import EstimatedChances, FrequencyConfig
from training.losses import Mix, mixed, pairwise_hinge, sampled_softmax
from training.mining import Mined
from training.negatives import Chances, Memory, Negatives, Numbers, with_gradient_times
from training.optimisers import AdagradConfig, OptimiserConfig, descend

Precision = Literal["fp32", "bf16"]


@dataclass(frozen=True, kw_only=True)
class Rewards:
    """What a line's loss weighs, by the strongest action on its item."""

    impression: float = 1.0
    click: float = 1.0
    collect: float = 1.0
    cart: float = 2.0
    buy: float = 4.0

    def __post_init__(self) -> None:
        if not all(0 <= getattr(self, action) < math.inf for action in ACTIONS):
            raise ValueError("rewards must not be negative")


@dataclass(frozen=True, kw_only=True)
class Finish:
    """What comes after the epochs: the latest lines once more, in small steps.

    What people take changes with the season, and at a whole rate the weights end somewhere about
    where they would settle.

    Attributes:
        days: of the training days, the last so many; None: all of them.
    """

    days: int | None = None
    epochs: int = 1
    optimiser: OptimiserConfig = field(
        default_factory=lambda: AdagradConfig(embedding_lr=0.02, dense_lr=0.003)
    )

    def __post_init__(self) -> None:
        if self.epochs < 1 or (self.days is not None and self.days < 1):
            raise ValueError("days and epochs of a finish must be at least 1")


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """How long, how fast, and with which loss.

    Attributes:
        requests_per_batch: requests, each with all its lines; of all processes together.
        order: batches from all days, or day after day as the stream had them; then the chances of
            the batch's items cannot be counted beforehand.
        loss: sampled softmax, or the pairwise hinge that the paper compares it with.
        negatives: the sources of what a line's item is told from.
        mix: relevance-improving hard negatives in the softmax's sum, if any.
        temperature: the score's divisor in the softmax; the paper's 2.
        log_q: whose scores are corrected by their chance to be among the columns.
        frequency: chances are estimated from the batches as they come (None: counted beforehand).
        rewards: what lines weigh in the softmax loss (None: all the same).
        margin: of the hinge.
        precision: what towers and scores are computed in; weights, optimiser, log q and losses
            are fp32 in any case.
        finish: what comes after the epochs, if anything.
        checkpoint_steps: steps between checkpoints.
    """

    epochs: int = 1
    requests_per_batch: int = 128
    order: Order = "shuffled"
    loss: Literal["softmax", "hinge"] = "softmax"
    negatives: Negatives = field(default_factory=Negatives)
    mix: Mix | None = None
    temperature: float = 2.0
    log_q: Literal["off", "negatives", "all"] = "all"
    frequency: FrequencyConfig | None = None
    rewards: Rewards | None = None
    margin: float = 1.0
    precision: Precision = "fp32"
    optimiser: OptimiserConfig = field(default_factory=AdagradConfig)
    finish: Finish | None = None
    seed: int = 0
    checkpoint_steps: int = 100

    def __post_init__(self) -> None:
        if not (0 < self.temperature < math.inf and 0 < self.margin < math.inf):
            raise ValueError("temperature and margin must be positive numbers")
        if self.seed < 0:
            raise ValueError("seed must not be negative")
        if min(self.epochs, self.requests_per_batch, self.checkpoint_steps) < 1:
            raise ValueError("epochs, requests_per_batch and checkpoint_steps must be at least 1")
        if self.loss == "hinge" and (self.mix or self.rewards):
            raise ValueError("mixed negatives and rewards are part of the softmax")
        if self.frequency and not self.negatives.batch:
            raise ValueError("an estimate of the batch's chances needs the batch as negatives")
        if self.mix and self.negatives.each:
            raise ValueError("I_mix is mixed from negatives that all lines share")
        counted = self.negatives.batch and self.corrected and not self.frequency
        if counted and self.requests_per_batch == 1 and not self.negatives.uniform:
            raise ValueError("no other request's item can be in a batch of one: draw some, or more")
        if self.order == "stream" and counted:
            raise ValueError(
                "counted chances are those of batches from all days: the stream's order needs "
                'frequency=FrequencyConfig(), or log_q="off"'
            )

    @property
    def corrected(self) -> bool:
        """Whether scores are corrected by log q."""
        return self.loss == "softmax" and self.log_q != "off"

    @property
    def going_on(self) -> LoopConfig:
        """The same for towers that are trained already: their warm-up is over.

        The memory is used as soon as it holds something, the pool is searched from the first epoch,
        and the gaps of a frequency, which no bundle keeps, begin as counted.
        """
        return replace(
            self,
            negatives=replace(self.negatives, memory_after=0, mined_from=0),
            frequency=self.frequency and replace(self.frequency, begins="counted"),
        )


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
        requests than there are processes or has nothing to tell an item from, or if a source of
        negatives would begin after the end.
    """
    phases = _phases(examples, config)
    _require_used(config.negatives, phases)
    _require_others(config.negatives, phases)
    requests = min(batch_size(each.requests, config.requests_per_batch) for each in phases)
    if requests < processes.count():
        raise InputError(
            "a batch has fewer requests than there are processes",
            expected=f"at least {processes.count()}",
            found=str(requests),
            next_step="Start fewer processes, or raise requests_per_batch in the recipe.",
        )
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


def _require_used(negatives: Negatives, phases: Sequence[_Phase]) -> None:
    """Raises: InputError naming each source of negatives that would not be used before the end."""
    steps, epochs = sum(each.steps for each in phases), phases[-1].epochs.stop
    problems = []
    if negatives.memory and negatives.memory_after >= steps:
        problems.append(
            f"loop.negatives.memory_after: expected fewer than the {steps} steps that there are, "
            f"found {negatives.memory_after}"
        )
    if negatives.mined and negatives.mined_from >= epochs:
        problems.append(
            f"loop.negatives.mined_from: counted from 0, expected less than the {epochs} epochs "
            f"that there are, found {negatives.mined_from}"
        )
    if problems:
        raise InputError(
            "negatives that would never be used",
            problems=problems,
            next_step="Set an earlier begin with --set, or leave the source out.",
        )


def _require_others(negatives: Negatives, phases: Sequence[_Phase]) -> None:
    """Raises: InputError if a batch is one request, and nothing else is there to be told from."""
    requests = min(each.requests for each in phases)
    alone = batch_size(requests, phases[0].config.requests_per_batch) == 1
    if alone and negatives.batch and not negatives.uniform:
        raise InputError(
            "a request alone has nothing to tell its items from",
            expected="two requests to train on, or items drawn from the pool",
            found="1 request",
            next_step="Train on more days, or --set loop.negatives.uniform=1024.",
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
            due = len(losses) == phase.steps or not len(losses) % config.checkpoint_steps
            if checkpoint and not processes.rank() and due:
                checkpoints.write(checkpoint, model, optimiser, kept, losses)
    return losses


class Objective:
    """What a batch is judged by, and what that goes on from beside the model.

    Shape legend: B lines, M items of the batch, P of them columns, N columns: these and the
    memory's, K further negatives of a line, D width.
    """

    def __init__(
        self,
        config: LoopConfig,
        examples: Examples,
        catalogue: Catalogue,
        *,
        among: Requests | None = None,
        before: int = 0,
    ) -> None:
        """Judge the batches of one phase.

        Args:
            among: the requests that they are of; None: all. before: steps of the phases before.
        """
        self._config = config
        self._before = before
        self._drawn = min(config.negatives.uniform, len(catalogue))
        self._memory = Memory(config.negatives.memory, after=config.negatives.memory_after)
        self._chances = _chances(examples, catalogue, config, among)
        self.mined = Mined(examples.lines, config.negatives)

    @property
    def kept(self) -> dict[str, checkpoints.Kept]:
        """What a checkpoint keeps of it, by part."""
        parts: dict[str, checkpoints.Kept] = {"memory": self._memory}
        if isinstance(self._chances, EstimatedChances):
            parts["frequency"] = self._chances
        if self._config.negatives.mined:
            parts["mined"] = self.mined
        return parts

    def loss(self, model: TwoTowers, batch: Batch, *, step: int) -> Tensor:
        """The batch's loss, the model's own included; what the batch has taken is remembered.

        Args:
            step: of the whole training, counted from 0.
        """
        dice = torch.Generator().manual_seed(self._config.seed * 1_000_003 + step)
        batch = moved(batch, model.device)
        own = model.own_loss(batch.items, batch.positive_B, dice)
        if own is not None and processes.rank():
            own = own.detach()  # all compute the whole of it: its gradient is the first's
        told = self._told_apart(model, batch, step, dice)
        return told if own is None else told + own

    def _told_apart(
        self, model: TwoTowers, batch: Batch, step: int, dice: torch.Generator
    ) -> Tensor:
        """How badly the lines' items are told from the other columns and from hard negatives."""
        config = self._config
        own_items = batch.items.take(processes.part(len(batch.items.item_M)))
        with self._precision(model.device):
            own_MD = model.encode_item(own_items)
        item_MD = processes.together(own_MD.float())
        items_N = batch.items.item_M[: batch.columns].cpu().numpy()
        item_ND = item_MD[: batch.columns]
        excluded_BN = batch.excluded_BP
        remembered = self._memory.used(step)
        if remembered:
            further, further_ND = self._memory.columns(besides=items_N, device=model.device)
        self._see(batch, item_MD, step)  # before any chance is asked for
        if remembered:
            item_ND = self._weighed_for_memory(item_ND, items_N, remembered)
            items_N, item_ND = np.concatenate([items_N, further]), torch.cat([item_ND, further_ND])
            negative_BN = excluded_BN.new_zeros(len(excluded_BN), len(further))
            excluded_BN = torch.cat([excluded_BN, negative_BN], 1)
        with self._precision(model.device):
            own_BD = model.encode_user(batch.user)
        user_BD = processes.together(own_BD.float())
        with self._precision(model.device):
            score_BN, hard_BK = user_BD @ item_ND.T, _hard(user_BD, item_MD, batch.hard_BK)
        score_BN, hard_BK = score_BN.float(), hard_BK.float()
        if remembered and config.corrected:  # a line's own item is there for certain: it weighs one
            own_B1 = (user_BD * item_MD[batch.positive_B]).sum(1, keepdim=True)
            score_BN = score_BN.scatter(1, batch.positive_B.unsqueeze(1), own_B1)
        if config.loss == "hinge":
            return pairwise_hinge(
                torch.cat([score_BN, hard_BK], 1),
                positive_B=batch.positive_B,
                excluded_BN=torch.cat([excluded_BN, hard_BK.isneginf()], 1),
                margin=config.margin,
            )
        score_BN, hard_BK = score_BN / config.temperature, hard_BK / config.temperature
        log_q_N = None
        if config.corrected:
            log_q_N = torch.from_numpy(self._chances.log_q(items_N, remembered=remembered))
            log_q_N = log_q_N.to(model.device)
        of_positive_B1: Tensor | float = 0.0
        # Of the pool all items are as likely to be drawn for a line as the one that it took.
        if log_q_N is not None and (config.log_q == "all" or config.negatives.each):
            of_positive_B1 = log_q_N[batch.positive_B].unsqueeze(1)
        hard_BK = hard_BK - of_positive_B1
        further_BK = hard_BK
        if config.mix:
            mixed_BK = mixed(
                score_BN,
                positive_B=batch.positive_B,
                excluded_BN=excluded_BN,
                # Without the batch's as negatives, what it has taken are columns all the same.
                negatives=score_BN.shape[1] - 1 if config.negatives.batch else self._drawn,
                mix=config.mix,
                dice=dice,
            )
            if config.mix.corrected:
                mixed_BK = mixed_BK - of_positive_B1
            further_BK = torch.cat([mixed_BK, hard_BK], 1)
        reward_B = None
        if config.rewards:
            by_action = torch.tensor([getattr(config.rewards, action) for action in ACTIONS])
            reward_B = by_action.to(model.device)[batch.action_B]
        return sampled_softmax(
            score_BN,
            positive_B=batch.positive_B,
            excluded_BN=excluded_BN,
            log_q_N=log_q_N,
            correct_positive=config.log_q == "all",
            further_BK=further_BK,
            reward_B=reward_B,
        )

    def _weighed_for_memory(self, item_PD: Tensor, items_P: Numbers, remembered: int) -> Tensor:
        """The batch's columns, into which as much gradient flows as if the memory's had any.

        Log q makes an item weigh one over its chance to be in the batch or the memory. It learns
        from the batch alone, so that it would be pushed away too seldom: the rarer the more so, for
        the popular are in nearly every batch. Where nothing is corrected nothing is weighed.
        """
        if not self._config.corrected:
            return item_PD
        log_q_P = self._chances.log_q(items_P, remembered=remembered)
        weight_P = np.exp(log_q_P - self._chances.log_q(items_P))
        return with_gradient_times(torch.from_numpy(weight_P).to(item_PD.device), item_PD)

    def _precision(self, device: torch.device) -> AbstractContextManager[object]:
        """What is computed under it is in the precision asked for."""
        if self._config.precision == "fp32":
            return nullcontext()
        return torch.autocast(device.type, torch.bfloat16)

    def _see(self, batch: Batch, item_MD: Tensor, step: int) -> None:
        """Remember and count what the batch has taken."""
        taken = torch.unique(batch.positive_B)
        items = batch.items.item_M[taken].cpu().numpy()
        if self._config.negatives.memory:
            self._memory.add(items, item_MD[taken])
        if isinstance(self._chances, EstimatedChances):
            self._chances.see(items, step=step - self._before + 1)


def _hard(user_BD: Tensor, item_MD: Tensor, hard_BK: Tensor) -> Tensor:
    """Scores of the lines' own hard negatives, [B, K]; -inf for none."""
    score_BK = torch.einsum("bd,bkd->bk", user_BD, item_MD[hard_BK.clamp(min=0)])
    return score_BK.masked_fill(hard_BK < 0, -torch.inf)


def _chances(
    examples: Examples, catalogue: Catalogue, config: LoopConfig, among: Requests | None
) -> Chances | EstimatedChances:
    pool, negatives = len(catalogue), config.negatives
    if config.frequency:
        counted = None
        if config.frequency.begins == "counted":
            counted = in_batches(examples, config.requests_per_batch, pool, among=among)
        return EstimatedChances(config.frequency, pool=pool, negatives=negatives, counted=counted)
    return chances(examples, config.requests_per_batch, pool, negatives, among=among)
