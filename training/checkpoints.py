"""Checkpoints: model, optimiser, random state and losses in one safetensors file. No pickle."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

_MODEL, _OPTIMISER, _RANDOM, _LOSSES = "model.", "optimiser.", "random", "losses"


def write(
    path: Path, model: nn.Module, optimiser: torch.optim.Optimizer, losses: list[float]
) -> None:
    """Write whole or not at all."""
    tensors: dict[str, Tensor] = {
        f"{_MODEL}{name}": each.contiguous() for name, each in model.state_dict().items()
    }
    for number, state in optimiser.state_dict()["state"].items():
        tensors |= {f"{_OPTIMISER}{number}.{name}": each for name, each in state.items()}
    tensors[_RANDOM] = torch.get_rng_state()
    tensors[_LOSSES] = torch.tensor(losses, dtype=torch.float64)
    draft = path.with_suffix(".draft")
    save_file(tensors, draft)
    draft.replace(path)


def restore(path: Path, model: nn.Module, optimiser: torch.optim.Optimizer) -> list[float]:
    """Take up the checkpoint; returns the losses so far, none where there is no checkpoint."""
    if not path.exists():
        return []
    tensors = load_file(path)
    model.load_state_dict(
        {
            name.removeprefix(_MODEL): each
            for name, each in tensors.items()
            if name.startswith(_MODEL)
        }
    )
    states: dict[int, dict[str, Tensor]] = {}
    for key, each in tensors.items():
        if key.startswith(_OPTIMISER):
            number, name = key.removeprefix(_OPTIMISER).split(".", 1)
            states.setdefault(int(number), {})[name] = each
    optimiser.load_state_dict({**optimiser.state_dict(), "state": states})
    torch.set_rng_state(tensors[_RANDOM])
    found: list[float] = tensors[_LOSSES].tolist()
    return found
