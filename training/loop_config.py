"""How long, how fast and with which loss towers are trained: a recipe's part for the loop."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Literal

from pagoda.schemas import ACTIONS
from training.data.batches import Order
from training.frequency import FrequencyConfig
from training.losses import Mix
from training.negatives import Negatives
from training.optimisers import AdagradConfig, OptimiserConfig

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
        checkpoint_steps: steps between checkpoints; more where they take long (`rest_s`).
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
