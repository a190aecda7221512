"""`pagoda bench device` and `memory`: operations are counted right, compiled towers are alike."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from pagoda.errors import CheckFailed, MachineError
from training.bench import device, memory, sweep, ways
from training.bench.device import doubled, require_alike, require_compiler
from training.loop import train
from training.loop_config import LoopConfig

CPU = torch.device("cpu")


def test_operations_are_those_of_the_products_forward_and_back() -> None:
    layers = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3))
    x_BD = torch.randn(11, 5)

    def forward_and_back() -> None:
        layers(x_BD).sum().backward()

    forward = 2 * 11 * (5 * 7 + 7 * 3)
    # Back: the same twice, but for what nobody asks for, the gradient of the input.
    assert sweep.operations(forward_and_back, CPU) == 3 * forward - 2 * 11 * 5 * 7


def test_operations_of_a_fused_lstm_are_counted() -> None:
    lstm = nn.LSTM(5, 7, batch_first=True)
    x_BTD = torch.randn(3, 11, 5)
    with torch.no_grad():
        found = sweep.operations(lambda: lstm(x_BTD), CPU)
    assert found == 2 * 3 * 11 * 4 * 7 * (5 + 7)


def test_a_step_of_twice_the_lines_is_at_least_twice_the_work() -> None:
    made = ways.catalogue(50, seed=0)
    model = ways.built("alpha_dnn", made, width=16, seed=0)
    found = []
    for requests in (4, 8):
        rows = ways.examples(made, requests=requests, seed=0)
        loop = LoopConfig(requests_per_batch=requests)
        found.append(sweep.operations(lambda: train(model, rows, made, loop), CPU))  # noqa: B023
    assert found[1] > 1.9 * found[0] > 0


def test_sizes_double_up_to_the_largest() -> None:
    assert doubled(256, 8_192) == [256, 512, 1_024, 2_048, 4_096, 8_192]
    assert doubled(20, 79) == [20, 40]
    assert doubled(50, 20) == [50]


def test_other_losses_are_told_and_precision_is_forgiven() -> None:
    def one(losses: list[float]) -> dict[str, Any]:
        return {"sizes": [{"lines": 20, "losses": losses}]}

    fine = {("fp32", "eager"): one([5.0, 4.0]), ("bf16", "eager"): one([5.05, 4.0])}
    require_alike(fine)
    with pytest.raises(CheckFailed, match="fp32, compiled, differ"):
        require_alike(fine | {("fp32", "compiled"): one([5.05, 4.0])})
    with pytest.raises(CheckFailed, match="bf16, eager, differ"):
        require_alike(fine | {("bf16", "eager"): one([6.0, 4.0])})


def test_no_compiler_is_told_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(MachineError, match=r"torch\.compile needs a C\+\+ compiler"):
        require_compiler()


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_every_combination_is_measured_and_learns_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PAGODA_HOME", str(tmp_path / "home"))
    asked = "--model alpha_dnn --width 8 --smallest 20 --largest 40 --steps 2 --items 1000 --json"
    ran = CliRunner().invoke(device.app, asked.split())
    assert ran.exit_code == 0, ran.stderr
    said = json.loads(ran.stdout)
    rows = said["rows"]
    assert [(row["precision"], row["mode"], row["lines"]) for row in rows] == [
        (precision, mode, lines)
        for precision in ("fp32", "bf16")
        for mode in ("eager", "compiled")
        for lines in (20, 40)
    ]
    for row in rows:
        assert row["samples/s"] > 0
        assert row["GFLOP/s"] > 0
        assert 0 <= row["% of peak"] < 100
        assert 0 < row["loader %"] < 100
        assert "card MB" not in row
    assert said["facts"]["device"].startswith("cpu")


def test_each_source_of_negatives_is_measured_beside_the_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PAGODA_HOME", str(tmp_path / "home"))
    asked = "--width 8 --lines 20 --remembered 2 --steps 2 --items 1000 --json"
    ran = CliRunner().invoke(memory.app, asked.split())
    assert ran.exit_code == 0, ran.stderr
    rows = json.loads(ran.stdout)["rows"]
    assert [(row["negatives"], row["lines"]) for row in rows] == [
        ("the batch", 20),
        ("and 2 remembered", 20),
        ("and as many drawn", 20),
        ("a batch 3 times as large", 60),
    ]
    assert rows[0]["x"] == 1
    assert all(row["step ms"] > 0 and row["samples/s"] > 0 for row in rows)
    alone, remembered, drawn, larger = (row["columns"] for row in rows)
    assert alone < remembered <= alone + 2 * 20
    assert alone < drawn <= remembered + 2
    assert alone < larger
