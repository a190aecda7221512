"""Checkpoints: all that training goes on from, in one safetensors file. No pickle."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pagoda import whole

_MODEL, _OPTIMISER = "model.", "optimiser."
_RANDOM, _LOSSES = "random", "losses"


class Kept(Protocol):
    """Anything else that training goes on from."""

    def tensors(self) -> dict[str, Tensor]:
        """What to keep, by name."""

    def take_up(self, kept: dict[str, Tensor]) -> None:
        """Go on with it."""


def write(
    path: Path,
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    others: Mapping[str, Kept],
    losses: list[float],
) -> float:
    """Write whole or not at all; how many seconds it took.

    Args:
        others: what else is kept, each under a name of its own.
    """
    began = time.monotonic()
    tensors: dict[str, Tensor] = {
        f"{_MODEL}{name}": each.contiguous() for name, each in model.state_dict().items()
    }
    for number, state in optimiser.state_dict()["state"].items():
        tensors |= {f"{_OPTIMISER}{number}.{name}": each for name, each in state.items()}
    for part, other in others.items():
        tensors |= {f"{part}.{name}": each for name, each in other.tensors().items()}
    tensors[_RANDOM] = torch.get_rng_state()
    tensors[_LOSSES] = torch.tensor(losses, dtype=torch.float64)
    with whole.file(path, durable=True) as draft:
        save_file(tensors, draft)
    return time.monotonic() - began


def rest_s(took_s: float) -> float:
    """For how long none is written after one that took so long.

    It holds all rows of the tables, however few a step has touched: with millions of items one
    every so many steps would take most of the time, and so it has a twentieth at most.
    """
    return 0.0 if took_s < 1 else 20 * took_s


def restore(
    path: Path,
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    others: Mapping[str, Kept],
) -> list[float]:
    """Take up the checkpoint; returns the losses so far, none where there is no checkpoint."""
    if not path.exists():
        return []
    tensors = load_file(path)
    model.load_state_dict(_of(tensors, _MODEL))
    for part, other in others.items():
        other.take_up(_of(tensors, f"{part}."))
    states: dict[int, dict[str, Tensor]] = {}
    for key, each in _of(tensors, _OPTIMISER).items():
        number, name = key.split(".", 1)
        states.setdefault(int(number), {})[name] = each
    optimiser.load_state_dict({**optimiser.state_dict(), "state": states})
    torch.set_rng_state(tensors[_RANDOM])
    found: list[float] = tensors[_LOSSES].tolist()
    return found


def _of(tensors: dict[str, Tensor], part: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(part): each for name, each in tensors.items() if name.startswith(part)
    }
