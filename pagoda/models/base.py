"""What every model is."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from pagoda.models.inputs import ItemBatch, UserBatch


class TwoTowers(nn.Module, ABC):
    """Two towers over one width; the score is the inner product of their vectors."""

    @abstractmethod
    def encode_user(self, batch: UserBatch) -> Tensor:
        """User vectors, one a line, [B, D]."""

    @abstractmethod
    def encode_item(self, items: ItemBatch) -> Tensor:
        """Item vectors, [M, D]."""
