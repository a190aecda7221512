"""Rounds of Airflow's scheduler: it dies in the middle of a run, which still does its work."""

from __future__ import annotations

import time

from jobs.checks.kill import batches, streams, victims
from jobs.checks.kill.compare import Difference
from jobs.checks.kill.ledger import Ledger
from jobs.checks.kill.plan import RANDOM, Round
from jobs.checks.kill.streams import Outcome
from jobs.checks.kill.world import World
from pagoda.airflow import Airflow, Run
from pagoda.errors import PagodaError

_DAG = "features"
_SCHEDULER = "airflow-scheduler"
_RUN_S = 900.0


def run(each: Round, attempt: str, world: World, ledger: Ledger) -> Outcome:
    """New messages, a run of the DAG `features`, the scheduler killed meanwhile."""
    outcome = Outcome()
    streams.send(each, attempt, world, ledger, outcome, count=120, seconds=0.5)
    streams.caught_up(world, outcome, online=False, lake=True)
    outcome.differences += streams.judge(world, ledger, online=False, lake=True)
    world = world.up(("redis", "airflow"))
    days = batches.days_until_now()
    _, _, first, _, last = batches.build_command(days)
    with Airflow(world.settings) as airflow:
        _only_features(airflow)
        started = airflow.trigger(_DAG, {"from": first, "to": last})
        time.sleep(each.dice.uniform(3.0, 40.0))
        pid = victims.group_of(world.settings, _SCHEDULER)
        (victims.kill_alone if each.instant == RANDOM else victims.kill)(pid)
        outcome.kills += 1
        ended = _follow(airflow, started)
    outcome.note = f"the run took {ended.seconds or 0:.0f} s"
    if ended.state != "success":
        outcome.differences.append(
            Difference(where="airflow", key=_DAG, expected="success", found=ended.state)
        )
    outcome.differences += batches.judge(world, ledger, days, online=True)
    return outcome


def _only_features(airflow: Airflow) -> None:
    """Let no other DAG start: not what follows by assets, nor what has a schedule."""
    victims.wait_for(lambda: _DAG in airflow.dags(), what=f"Airflow knows {_DAG}", within_s=120)
    for dag in airflow.dags():
        if dag != _DAG:
            airflow.pause(dag)


def _follow(airflow: Airflow, started: Run) -> Run:
    """The run at its end, or as it is when it takes too long."""
    give_up = time.monotonic() + _RUN_S
    seen = started
    while not seen.finished and time.monotonic() < give_up:
        time.sleep(2)
        try:
            seen = airflow.run(started)
        except PagodaError:
            continue  # the API server may be slow while the scheduler starts
    return seen
