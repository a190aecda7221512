"""A step of AdaGrad as MGDSPR needs it: sparse rows for embeddings, a lower rate for dense layers.

Embeddings want a rate of 0.1 and an accumulator that starts at 0, so that a rare row's first step
is a full one; the same rate on dense layers makes MGDSPR diverge.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pagoda.errors import CheckFailed
from training import processes


@dataclass(frozen=True, kw_only=True)
class AdagradConfig:
    """Rates and the bound on the gradient's L2 norm."""

    embedding_lr: float = 0.1
    dense_lr: float = 0.01
    initial_accumulator: float = 0.0
    clip_norm: float = 3.0

    def build(self, model: nn.Module) -> torch.optim.Adagrad:
        """The optimiser; embedding tables form its first group."""
        # Said explicitly, or torch warns at every sparse gradient.
        torch.sparse.check_sparse_tensor_invariants.disable()  # type: ignore[no-untyped-call]
        tables = [each.weight for each in model.modules() if isinstance(each, nn.Embedding)]
        known = {id(table) for table in tables}
        dense = [each for each in model.parameters() if id(each) not in known]
        groups = [
            {"params": tables, "lr": self.embedding_lr},
            {"params": dense, "lr": self.dense_lr},
        ]
        return torch.optim.Adagrad(
            [group for group in groups if group["params"]],
            initial_accumulator_value=self.initial_accumulator,
        )


def descend(
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    loss: Tensor,
    *,
    clip_norm: float,
    where: str,
) -> float:
    """One step down a loss; the gradient's L2 norm as it was before it was clipped.

    The gradient is the sum over all processes.

    Args:
        where: which batch, for people.

    Raises: CheckFailed before the step if the loss or the gradient is not finite.
    """
    _require_finite("loss", loss.item(), where)
    optimiser.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    processes.sum_gradients(model)
    norm = clip_gradients(model, clip_norm)
    _require_finite("gradient's norm", norm, where)
    optimiser.step()
    return norm


def _require_finite(what: str, value: float, where: str) -> None:
    if not math.isfinite(value):
        raise CheckFailed(
            f"the {what} is {value}; the model was not stepped",
            where=where,
            next_step="Lower the learning rates or the gradient's bound in the recipe.",
        )


def clip_gradients(model: nn.Module, max_norm: float) -> float:
    """Scale all gradients so that their L2 norm is at most `max_norm`; returns it as it was.

    torch's own refuses sparse gradients. Repeated rows are summed first: only then is a sparse
    gradient's norm that of its values.
    """
    parts: list[Tensor] = []
    for parameter in model.parameters():
        if parameter.grad is None:
            continue
        if parameter.grad.is_sparse:
            parameter.grad = parameter.grad.coalesce()
            parts.append(parameter.grad.values())
        else:
            parts.append(parameter.grad)
    norm = float(torch.stack([part.norm() for part in parts]).norm())
    if norm > max_norm:
        for part in parts:
            part.mul_(max_norm / norm)
    return norm
