"""Rounds of batch jobs: the build of feature tables, and materialisation.

A job is killed and run again. In between a reader must see the rows of before or those of after,
and afterwards the rows are those that the records say.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jobs.checks.kill import compare, streams, victims
from jobs.checks.kill.compare import Difference
from jobs.checks.kill.ledger import Ledger
from jobs.checks.kill.oracle import DAY_MS, Row, midnight
from jobs.checks.kill.plan import RANDOM, WRITING, Round
from jobs.checks.kill.streams import Outcome
from jobs.checks.kill.world import World
from pagoda import store
from pagoda.features import VIEWS

_DAYS = 3
_START_S = 120.0
MATERIALISED = tuple(view for view in VIEWS if view.online_writer == "materialise")
DAILY = tuple(view for view in VIEWS if view.name != "item_profile")
State = Mapping[str, tuple[dict[Any, Row], dict[Any, int]]]


def run(each: Round, attempt: str, world: World, ledger: Ledger) -> Outcome:
    """One round of batch or materialise; the servers' readers have landed everything."""
    outcome = Outcome()
    streams.send(each, attempt, world, ledger, outcome, count=120, seconds=0.5)
    streams.caught_up(world, outcome, lake=True)
    outcome.differences += streams.judge(world, ledger, lake=True)
    world = world.up(("redis",))  # two Spark jobs at a time do not fit a laptop
    days = days_until_now()
    build = build_command(days)
    if each.kind == "batch":
        before = _state(world)
        _kill_job(each, world, outcome, *build)
        killed = _state(world)
        world.run_job(*build)
        outcome.differences += _halves(before, killed, _state(world))
    else:
        world.run_job(*build)
        ensure_registry(world)
        _kill_job(each, world, outcome, "jobs.batch.materialise")
        world.run_job("jobs.batch.materialise")
    outcome.differences += judge(world, ledger, days, online=each.kind == "materialise")
    return outcome


def days_until_now() -> list[int]:
    """The last days' beginnings, epoch milliseconds."""
    today = midnight(time.time_ns() // 1_000_000)
    return [today - back * DAY_MS for back in range(_DAYS - 1, -1, -1)]


def build_command(days_ms: list[int]) -> tuple[str, ...]:
    """How the features of these days are built."""
    first, last = (_day(each) for each in (days_ms[0], days_ms[-1]))
    return ("jobs.batch.build", "--from", first, "--to", last)


def judge(world: World, ledger: Ledger, days_ms: list[int], *, online: bool) -> list[Difference]:
    """Feature tables against the records, and the online rows against the tables."""
    found = compare.features(world.settings, ledger.oracle(world.settings), days_ms)
    if online:
        now_ms = time.time_ns() // 1_000_000
        found += compare.materialised(world.settings, MATERIALISED, at_ms=now_ms)
    return found


def ensure_registry(world: World) -> None:
    """Feast must know the views before they can be materialised."""
    if not (world.home / "feast" / "registry.db").exists():
        store.apply(world.settings)


def _kill_job(each: Round, world: World, outcome: Outcome, *command: str) -> None:
    """Start a job and kill it at the round's instant."""
    dice = each.dice
    if each.point:
        job = world.start_job(*command)
        reached = victims.kill_at(world.faults, each.point, passages=1, within_s=_START_S)
        if not reached:
            outcome.note = "the point was not reached"
    elif each.instant == WRITING:
        files = _data_files(world)
        job = world.start_job(*command)
        victims.wait_for(
            lambda: int(_data_files(world) > files or job.poll() is not None),
            what="data files are written",
            within_s=_START_S,
        )
        time.sleep(dice.uniform(0.0, 0.3))
    else:
        assert each.instant == RANDOM
        job = world.start_job(*command)
        time.sleep(dice.uniform(8.0, 25.0))
    outcome.kills += _end(job)


def _end(job: subprocess.Popen[bytes]) -> int:
    """Kill what still runs; how many groups were killed by whomever."""
    over_already = job.poll() == 0
    victims.kill(job.pid)
    job.wait()
    return 0 if over_already else 1


def _data_files(world: World) -> int:
    lake = Path(world.settings.lake_folder)
    return sum(1 for view in VIEWS for _ in lake.glob(f"*/{view.name}/data/**/*.parquet"))


def _state(world: World) -> State:
    return {view.name: compare.newest_versions(world.settings, view) for view in DAILY}


def _halves(before: State, killed: State, after: State) -> list[Difference]:
    """Tables that a reader saw half written after the kill."""
    return [
        Difference(where=f"lake:{name}", key="", expected="before or after", found="in between")
        for name in killed
        if killed[name] not in (before[name], after[name])
    ]


def _day(midnight_ms: int) -> str:
    return datetime.fromtimestamp(midnight_ms / 1000, UTC).date().isoformat()
