"""Tasks: runs of a seed on the same rows, each task in a process of its own, several at a time.

Models of this width gain little from a second thread, so a process has its share of the cores and
another task runs beside it. What a task says is kept in a log of its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import typer
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from pagoda import private_home
from pagoda.console import people
from pagoda.settings import PROJECT_ROOT
from training.reproduce import record
from training.reproduce.plan import Part
from training.reproduce.runs import SAYS, Run, runs_of

# What a run takes on one thread, roughly: used until some of the task have been timed.
_S_PER_LINE, _S_PER_JUDGED_LINE = 1 / 5_000, 1 / 1_500
# completejourney's year and a week of it, and the same of a hundred households.
_ALL_LINES, _WEEK_LINES = 1_400_000, 25_000
_FEW_LINES, _FEW_OF_WEEK = 50_000, 1_000
_TASK_GB = 8  # what a task may need: its rows, and Spark while they are fetched
_LOOK_S = 0.5
_LAST_LINES = 15


@dataclass(frozen=True, kw_only=True)
class Task:
    """The runs of a part that stand on the same rows and have the same seed.

    Attributes:
        part: with no other variants. rows: its number among those of the whole part.
        seed: of all its runs.
        runs: all of them. seconds: that those may take that are not done.
    """

    part: Part
    rows: int
    seed: int
    runs: Sequence[Run]
    seconds: float

    @property
    def missing(self) -> list[Run]:
        """Runs that are not done."""
        return [each for each in self.runs if not each.done]


def tasks_of(folder: Path, parts: Sequence[Part], seeds: int) -> list[Task]:
    """The tasks of these parts, in order.

    Args:
        folder: where runs lie; those count as done that stand on the rows used last.
    """
    found = []
    for part in parts:
        ground = record.newest_ground(folder, part.name)
        for number, some in enumerate(part.by_rows()):
            runs = runs_of(some, ground or folder, seeds)
            for seed in range(seeds):
                of_seed = [each for each in runs if each.recipe.loop.seed == seed]
                took = _seconds(some, of_seed, runs)
                found.append(Task(part=some, rows=number, seed=seed, runs=of_seed, seconds=took))
    return [each for each in found if each.runs]


def _seconds(part: Part, runs: Sequence[Run], others: Sequence[Run]) -> float:
    """What the missing runs take: an epoch the mean of those that are done, or a guess.

    Args:
        others: on the same rows, these among them.
    """
    left = [each for each in runs if not each.done]
    epochs = sum(each.recipe.loop.epochs for each in left)
    if done := [each for each in others if each.done]:
        took = sum(sum(each.seconds.values()) for each in record.read_runs(e.path for e in done))
        return epochs * took / sum(each.recipe.loop.epochs for each in done)
    all_lines, week = (_FEW_LINES, _FEW_OF_WEEK) if part.small else (_ALL_LINES, _WEEK_LINES)
    lines, judged = part.rows or all_lines, part.judged or week
    return lines * epochs * _S_PER_LINE + len(left) * judged * _S_PER_JUDGED_LINE


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def at_once() -> int:
    """How many tasks this machine has room for: a core for each, and memory."""
    return max(1, min(_cores(), int(psutil.virtual_memory().total / 1e9 / _TASK_GB)))


@dataclass(frozen=True, kw_only=True)
class Job:
    """A command to be run, and what it finds in its environment."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]


def jobs_of(
    tasks: Sequence[Task],
    homes: Mapping[str, Path],
    folder: Path,
    *,
    size: str,
    seeds: int,
    processes: int,
    device: str,
) -> list[Job]:
    """Their commands: seed by seed, the longest first.

    So whole seeds are done first, tasks seldom wait for each other to fetch the same rows, and the
    last ones are short, which shares the cores evenly.

    Args:
        homes: of the parts' data sets, by the part's name. folder: below which runs and logs lie.
        processes: how many are to be at work at a time. device: setting `training.device`.
    """
    at_work = max(1, min(processes, len(tasks)))
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, _cores() // at_work))
    further = {"OMP_NUM_THREADS": threads, "PAGODA_TRAINING__DEVICE": device}
    jobs = []
    for task in sorted(tasks, key=lambda task: (task.seed, -task.seconds)):
        command = [sys.executable, "-m", "training.reproduce.runs", task.part.name]
        command += [f"--rows={task.rows}", f"--size={size}", f"--seed={task.seed}"]
        command += [f"--seeds={seeds}"]
        jobs.append(
            Job(
                name=f"{task.part.name}-{task.rows}-{task.seed}".replace(" ", "-"),
                command=[*command, f"--folder={folder / 'runs'}"],
                environment=private_home.environment_of(homes[task.part.name], further),
            )
        )
    return jobs


def side_by_side(jobs: Sequence[Job], logs: Path, *, processes: int) -> None:
    """Run commands in this order, some at a time.

    If one fails, or this is interrupted, the others are stopped.

    Raises: typer.Exit with the code of the one that fails.
    """
    logs.mkdir(parents=True, exist_ok=True)
    waiting = list(reversed(jobs))
    running: list[_Running] = []
    with _shown() as progress:
        try:
            while waiting or running:
                while waiting and len(running) < processes:
                    running.append(_Running(waiting.pop(), logs, progress))
                time.sleep(_LOOK_S)
                running = [each for each in running if not each.ended()]
        finally:
            for each in running:
                each.tell_to_stop()
            for each in running:
                each.wait()


class _Running:
    """A job at work: what it says of itself is shown, all that it says is in its log."""

    def __init__(self, job: Job, logs: Path, progress: Progress) -> None:
        self._log = logs / f"{job.name}.log"
        self._progress, self._row = progress, progress.add_task(job.name, total=None)
        self._read = 0
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                job.command, cwd=PROJECT_ROOT, env=job.environment, stdout=log, stderr=log
            )

    def ended(self) -> bool:
        """Whether it has come to its end. Raises: typer.Exit with its code if it failed."""
        code = self._process.poll()
        self._show()
        if code is None:
            return False
        self._progress.remove_task(self._row)
        if code:
            last = self._log.read_text(errors="replace").splitlines()[-_LAST_LINES:]
            people.print("\n".join(last), markup=False, highlight=False, soft_wrap=True)
            people.print(
                f"stopped: all of it is in {self._log}. The same command goes on from here.",
                highlight=False,
                soft_wrap=True,
            )
            raise typer.Exit(code)
        return True

    def tell_to_stop(self) -> None:
        """It ends soon, if it has not ended yet."""
        self._process.terminate()

    def wait(self) -> None:
        """Until it has ended."""
        self._process.wait()

    def _show(self) -> None:
        with self._log.open("rb") as log:
            log.seek(self._read)
            text = log.read()
        whole = text[: text.rfind(b"\n") + 1]
        self._read += len(whole)
        for line in whole.decode(errors="replace").splitlines():
            if line.startswith(SAYS):
                self._progress.update(self._row, description=line)
                if not people.is_terminal:
                    people.print(line, highlight=False, soft_wrap=True)


@contextmanager
def _shown() -> Iterator[Progress]:
    """A row for each task at work on a terminal; a log has their lines."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=people, transient=True) as progress:
        yield progress
