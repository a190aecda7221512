"""Tasks of a reproduction: whole, side by side, stopped together. The commands are small ones."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import psutil
import pytest
import typer

from pagoda import settings
from training.reproduce import tasks
from training.reproduce.claims import CLAIMS
from training.reproduce.plan import SIZES
from training.reproduce.runs import SAYS
from training.reproduce.tasks import Job, jobs_of, side_by_side, tasks_of

_MEET = """
import sys, time, pathlib
mine, other = map(pathlib.Path, sys.argv[1:])
mine.touch()
while not other.exists(): time.sleep(0.01)
"""

_ENDLESS = """
import os, sys, time, pathlib
pathlib.Path(sys.argv[1]).write_text(str(os.getpid()))
time.sleep(600)
"""


def _job(name: str, script: str, *arguments: object) -> Job:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return Job(name=name, command=command, environment=dict(os.environ))


@pytest.mark.parametrize("size", SIZES)
def test_tasks_have_each_run_of_the_plan_once(size: str, tmp_path: Path) -> None:
    parts = SIZES[size].parts
    found = tasks_of(tmp_path, parts, 3)
    runs = [
        (task.part.name, run.variant, run.recipe.loop.seed) for task in found for run in task.runs
    ]
    assert len(set(runs)) == len(runs)
    compared = {name for claim in CLAIMS for name in claim.pair}
    assert set(runs) == {
        (part.name, variant, seed)
        for part in parts
        for variant in part.variants
        for seed in range(3 if variant in compared else 2)
    }
    for task in found:
        read = {(run.recipe.service, run.recipe.windows, run.recipe.tokenizer) for run in task.runs}
        assert len(read) == 1
        assert {run.recipe.loop.seed for run in task.runs} == {task.seed}
        assert task.seconds > 0


def test_a_task_lives_in_its_own_home_and_is_told_where_to_train(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What else this process knows of Pagoda stays behind."""
    monkeypatch.setenv("PAGODA_KAFKA__PARTITIONS", "7")
    (part,) = (each for each in SIZES["small"].parts if each.name == "ablations")
    (job, *_) = jobs_of(
        tasks_of(tmp_path, [part], 1),
        {part.name: tmp_path / "home"},
        tmp_path,
        size="small",
        seeds=1,
        processes=1,
        device="cuda:1",
    )
    for name, value in job.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("PAGODA_KAFKA__PARTITIONS")
    assert "PAGODA_KAFKA__PARTITIONS" not in job.environment
    assert settings.load().home == tmp_path / "home"
    assert settings.load().training.device == "cuda:1"


def test_two_are_at_work_at_the_same_time(tmp_path: Path) -> None:
    """Each waits for the other: one after the other they would never end."""
    one, other = tmp_path / "one", tmp_path / "other"
    jobs = [_job("one", _MEET, one, other), _job("other", _MEET, other, one)]
    side_by_side(jobs, tmp_path / "logs", processes=2)


def test_no_more_than_asked_for_are_at_work_and_all_come_to_an_end(tmp_path: Path) -> None:
    alone = """
import sys, time, pathlib
folder = pathlib.Path(sys.argv[1])
(folder / "at work").mkdir()  # fails beside another
time.sleep(0.05)
(folder / "at work").rmdir()
(folder / sys.argv[2]).touch()
"""
    jobs = [_job(str(number), alone, tmp_path, number) for number in range(3)]
    side_by_side(jobs, tmp_path / "logs", processes=1)
    assert all((tmp_path / str(number)).exists() for number in range(3))


def test_one_that_fails_stops_the_others_and_says_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fails = f"""
import sys, time, pathlib
print({SAYS!r} + "it went well so far", flush=True)
while not pathlib.Path(sys.argv[1]).exists(): time.sleep(0.01)
time.sleep(0.1)
sys.exit("no rows on this day")
"""
    pid = tmp_path / "pid"
    jobs = [_job("endless", _ENDLESS, pid), _job("fails", fails, pid), _job("never", _ENDLESS, pid)]
    with pytest.raises(typer.Exit):
        side_by_side(jobs, tmp_path / "logs", processes=2)
    said = capsys.readouterr().err
    assert "it went well so far" in said
    assert "no rows on this day" in said
    assert str(tmp_path / "logs" / "fails.log") in said
    assert not (tmp_path / "logs" / "never.log").exists()
    assert not psutil.pid_exists(int(pid.read_text()))


def test_all_are_told_to_stop_before_any_is_waited_for(tmp_path: Path) -> None:
    """Each ends when the other was told: told one after the other, they would never end."""
    stubborn = """
import signal, sys, time, pathlib
mine, other = map(pathlib.Path, sys.argv[1:])
def told(*_):
    mine.touch()
    while not other.exists(): time.sleep(0.01)
    sys.exit(1)
signal.signal(signal.SIGTERM, told)
pathlib.Path(f"{mine}-ready").touch()
while True: time.sleep(0.01)
"""
    fails = """
import sys, time, pathlib
while not all(pathlib.Path(f"{each}-ready").exists() for each in sys.argv[1:]): time.sleep(0.01)
sys.exit(1)
"""
    one, other = tmp_path / "one", tmp_path / "other"
    jobs = [
        _job("one", stubborn, one, other),
        _job("other", stubborn, other, one),
        _job("fails", fails, one, other),
    ]
    with pytest.raises(typer.Exit):
        side_by_side(jobs, tmp_path / "logs", processes=3)
    assert one.exists()
    assert other.exists()


def test_an_interrupt_stops_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pid = tmp_path / "pid"

    def interrupted(_: float) -> None:
        while not (pid.exists() and pid.read_text()):
            pause(0.01)
        raise KeyboardInterrupt

    pause = time.sleep
    monkeypatch.setattr(tasks.time, "sleep", interrupted)
    with pytest.raises(KeyboardInterrupt):
        side_by_side([_job("endless", _ENDLESS, pid)], tmp_path / "logs", processes=1)
    assert not psutil.pid_exists(int(pid.read_text()))
