"""Where towers are trained: on the processor, or on one card."""

from __future__ import annotations

import torch

from pagoda.errors import MachineError, SettingsError
from pagoda.settings import Settings
from training import processes


def chosen(settings: Settings) -> torch.device:
    """The device of the settings.

    Raises: MachineError if it is not there; SettingsError for several processes, whose gradients
        are summed on the processor (`training.processes`).
    """
    device = torch.device(settings.training.device)
    if device.type == "cpu":
        return device
    cards = torch.cuda.device_count()
    if (device.index or 0) >= cards:
        raise MachineError(
            "the card that towers are to be trained on is not there",
            where="setting training.device",
            expected=f"cpu, or one of {cards} cards",
            found=str(device),
            next_step="Set PAGODA_TRAINING__DEVICE=cpu, or see what `nvidia-smi` says.",
        )
    if processes.count() > 1:
        raise SettingsError(
            "several processes train on the processor only",
            where="setting training.device",
            expected="cpu",
            found=str(device),
            next_step="Start one process, or set PAGODA_TRAINING__DEVICE=cpu.",
        )
    return device
