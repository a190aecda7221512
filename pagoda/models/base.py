"""What every model is."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from pagoda.models.inputs import ItemBatch, UserBatch


class TwoTowers(nn.Module, ABC):
    """Two towers over one width; the score is the inner product of their vectors."""

    @property
    def device(self) -> torch.device:
        """Where its weights are, and what it encodes must be (`inputs.moved`)."""
        return next(self.parameters()).device

    @abstractmethod
    def encode_user(self, batch: UserBatch) -> Tensor:
        """User vectors, one a line, [B, D]."""

    @abstractmethod
    def encode_item(self, items: ItemBatch) -> Tensor:
        """Item vectors, [M, D]."""

    def own_loss(
        self,
        items: ItemBatch,  # noqa: ARG002
        positive_B: Tensor,  # noqa: ARG002
        dice: torch.Generator,  # noqa: ARG002
    ) -> Tensor | None:
        """What a model wants to learn besides, added to the loss; most want nothing.

        Args:
            items: the batch's M items. positive_B: each line's item among them.
            dice: for whatever is drawn, the processor's; the same step gives the same.
        """
        return None
