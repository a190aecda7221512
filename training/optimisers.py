"""Optimisers with sparse rows for embeddings and another rate for dense layers; a step of them.

AdaGrad is what the recipes have. Embeddings want a rate of 0.1 and an accumulator that starts at 0,
so that a rare row's first step is a full one; the same rate on dense layers makes MGDSPR diverge.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

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

    def __post_init__(self) -> None:
        _require_usable(self.embedding_lr, self.dense_lr, clip_norm=self.clip_norm)
        if not 0 <= self.initial_accumulator < math.inf:
            raise ValueError("initial_accumulator must be at least 0")

    def build(self, model: nn.Module) -> torch.optim.Adagrad:
        """The optimiser; embedding tables form its first group."""
        return torch.optim.Adagrad(
            _groups(model, self.embedding_lr, self.dense_lr),
            initial_accumulator_value=self.initial_accumulator,
        )


@dataclass(frozen=True, kw_only=True)
class AdamConfig:
    """Rates, what the moments keep of themselves at a step, the bound on the gradient's L2 norm."""

    embedding_lr: float = 0.001
    dense_lr: float = 0.001
    mean_decay: float = 0.9
    square_decay: float = 0.999
    clip_norm: float = 3.0

    def __post_init__(self) -> None:
        _require_usable(self.embedding_lr, self.dense_lr, clip_norm=self.clip_norm)
        if not (0 <= self.mean_decay < 1 and 0 <= self.square_decay < 1):
            raise ValueError("mean_decay and square_decay must be at least 0 and below 1")

    def build(self, model: nn.Module) -> RowAdam:
        """The optimiser; embedding tables form its first group."""
        return RowAdam(
            _groups(model, self.embedding_lr, self.dense_lr),
            mean_decay=self.mean_decay,
            square_decay=self.square_decay,
        )


OptimiserConfig = AdagradConfig | AdamConfig


def _require_usable(*rates: float, clip_norm: float) -> None:
    if not all(0 <= each < math.inf for each in rates):  # 0: what has that rate stays
        raise ValueError("rates must not be negative")
    if not 0 < clip_norm < math.inf:
        raise ValueError("clip_norm must be positive")


def _groups(model: nn.Module, embedding_lr: float, dense_lr: float) -> list[dict[str, Any]]:
    # Said explicitly, or torch warns at every sparse gradient.
    torch.sparse.check_sparse_tensor_invariants.disable()  # type: ignore[no-untyped-call]
    tables = [each.weight for each in model.modules() if isinstance(each, nn.Embedding)]
    known = {id(table) for table in tables}
    dense = [each for each in model.parameters() if id(each) not in known]
    groups = [{"params": tables, "lr": embedding_lr}, {"params": dense, "lr": dense_lr}]
    return [group for group in groups if group["params"]]


class RowAdam(torch.optim.Optimizer):
    """Adam; of a table only rows that have a gradient are stepped, and their moments kept up.

    torch's Adam refuses sparse gradients, its SparseAdam dense ones, and the latter's count of
    steps is no tensor: here one optimiser has both, and a checkpoint all of its state.

    Source: Kingma & Ba, ICLR 2015, algorithm 1; for rows as `torch.optim.SparseAdam`.
    """

    _EPSILON = 1e-8

    def __init__(
        self, groups: list[dict[str, Any]], *, mean_decay: float, square_decay: float
    ) -> None:
        super().__init__(groups, {"decays": (mean_decay, square_decay)})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step; a parameter without a gradient stays."""
        with torch.enable_grad():
            loss = None if closure is None else closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._step(parameter, parameter.grad, group["lr"], *group["decays"])
        return loss

    def _step(
        self, parameter: Tensor, gradient: Tensor, lr: float, mean_decay: float, square_decay: float
    ) -> None:
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros(())
            state["mean"], state["square"] = (torch.zeros_like(parameter) for _ in range(2))
        state["step"] += 1
        steps = state["step"].item()
        rows: Any = ...
        if gradient.is_sparse:
            gradient = gradient.coalesce()
            rows, gradient = gradient.indices()[0], gradient.values()
        mean = state["mean"][rows].lerp(gradient, 1 - mean_decay)
        square = state["square"][rows].lerp(gradient * gradient, 1 - square_decay)
        state["mean"][rows], state["square"][rows] = mean, square
        root = (square / (1 - square_decay**steps)).sqrt().add_(self._EPSILON)
        parameter[rows] -= lr / (1 - mean_decay**steps) * mean / root


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
