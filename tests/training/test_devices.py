"""Where towers are trained is a setting; a card that is not there is told before anything runs."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from pagoda.errors import MachineError, SettingsError
from pagoda.settings import Settings, Training
from training import devices, processes


def test_the_processor_is_the_default() -> None:
    assert devices.chosen(Settings()) == torch.device("cpu")


@pytest.mark.parametrize("wrong", ["gpu", "cuda:", "cuda:x", "cuda:01", "cuda:200", "mps", ""])
def test_other_words_are_refused(wrong: str) -> None:
    with pytest.raises(ValidationError, match="device"):
        Training(device=wrong)


def test_a_card_that_is_not_there_is_told() -> None:
    cards = torch.cuda.device_count()
    with pytest.raises(MachineError, match=rf"one of {cards} cards, found cuda:{cards}"):
        devices.chosen(Settings(training=Training(device=f"cuda:{cards}")))


def test_several_processes_stay_on_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    asked = Settings(training=Training(device="cuda"))
    assert devices.chosen(asked) == torch.device("cuda")
    monkeypatch.setattr(processes, "count", lambda: 2)
    with pytest.raises(SettingsError, match="several processes train on the processor only"):
        devices.chosen(asked)
    assert devices.chosen(Settings()) == torch.device("cpu")
