"""How often an item is taken, estimated from the stream of batches alone.

    gap D of a slot    D <- (1 - rate) D + rate (step - A), A <- step    whenever its item is taken
    chance             p = 1 / D: that a batch holds the item

Nothing is counted beforehand, and the estimate follows when popularity shifts. An item's slot is
a hash of its number; items that share one only shorten its gap, so that of several hashes the
largest gap is the truest.

Source: Yi et al., RecSys 2019, algorithms 2 and 3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from training.negatives import Negatives, Numbers, log_drawn_missed, log_q_of

_PRIME = 2**31 - 1


@dataclass(frozen=True, kw_only=True)
class FrequencyConfig:
    """The estimate's settings.

    Attributes:
        rate: how fast it forgets. first_gap: D of an item never seen, in steps.
        begins: D is the first gap for all, or, where training goes on from a bundle or in its
            finish, what was counted of the requests at hand: a few steps are not enough to leave
            the first gap.
    """

    rate: float = 0.01
    slots: int = 2**16
    hashes: int = 5
    first_gap: float = 100.0
    begins: Literal["unseen", "counted"] = "unseen"

    def __post_init__(self) -> None:
        if not 0 < self.rate <= 1:
            raise ValueError("rate must be above 0 and at most 1")
        if min(self.slots, self.hashes, self.first_gap) < 1:
            raise ValueError("slots, hashes and first_gap must be at least 1")


class Frequency:
    """Arrays A (the step a slot was last taken at) and D (its mean gap), [hashes, slots] each."""

    def __init__(self, config: FrequencyConfig) -> None:
        self._config = config
        shape = (config.hashes, config.slots)
        self._last = np.zeros(shape, np.int64)
        self._gap = np.full(shape, config.first_gap)
        # Always the same hashes: a checkpoint need not keep them.
        dice = np.random.default_rng(0)
        self._factor, self._summand = dice.integers(1, _PRIME, (2, config.hashes, 1))

    def begin(self, chance: npt.NDArray[np.float64]) -> None:
        """Take the gaps of these chances, by item number; what has none is never expected."""
        items = np.flatnonzero(chance)
        self._gap.fill(np.inf)
        for slots, gap in zip(self._slots(items), self._gap, strict=True):
            np.minimum.at(gap, slots, 1 / chance[items])

    def see(self, items: Numbers, *, step: int) -> None:
        """Items that a step has taken, once each; steps count from 1."""
        rate = self._config.rate
        for slots, last, gap in zip(self._slots(items), self._last, self._gap, strict=True):
            gap[slots] = (1 - rate) * gap[slots] + rate * (step - last[slots])
            last[slots] = step

    def chance(self, items: Numbers) -> npt.NDArray[np.float64]:
        """That a batch holds each item, [N]."""
        gap_HN = np.take_along_axis(self._gap, self._slots(items), axis=1)
        chance_N: npt.NDArray[np.float64] = 1 / gap_HN.max(0)
        return chance_N

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint keeps, by name."""
        return {"last": torch.from_numpy(self._last), "gap": torch.from_numpy(self._gap)}

    def take_up(self, kept: dict[str, Tensor]) -> None:
        """Go on with what a checkpoint kept."""
        self._last, self._gap = kept["last"].numpy().copy(), kept["gap"].numpy().copy()

    def _slots(self, items: Numbers) -> npt.NDArray[np.int64]:
        """[hashes, N]."""
        hashed = (self._factor * items.astype(np.int64) + self._summand) % _PRIME
        slots: npt.NDArray[np.int64] = hashed % self._config.slots
        return slots


class EstimatedChances(Frequency):
    """What `negatives.Chances` knows from counting, with the batches' share estimated."""

    def __init__(
        self,
        config: FrequencyConfig,
        *,
        pool: int,
        negatives: Negatives,
        counted: npt.NDArray[np.float64] | None = None,
    ) -> None:
        """Args: counted: chances to begin with, by item number, [pool + 1]."""
        super().__init__(config)
        if counted is not None:
            self.begin(counted)
        self._by_draw = log_drawn_missed(negatives, pool)

    def log_q(self, items: Numbers, *, remembered: int = 0) -> npt.NDArray[np.float32]:
        """Natural log of each item's chance to be among the columns, [N]."""
        with np.errstate(divide="ignore"):
            log_missed = np.log1p(-self.chance(items))
        return log_q_of((1 + remembered) * log_missed + self._by_draw)
