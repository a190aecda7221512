"""Rounds under a stream of messages: the consumer, Redis, the broker, landing."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from kafka.errors import KafkaError

from jobs.checks.kill import compare, shop, victims
from jobs.checks.kill.compare import Difference, until_equal
from jobs.checks.kill.ledger import Ledger, Load
from jobs.checks.kill.plan import HUNG, LOSING, LOSING_IDLE, RANDOM, TWICE, Round
from jobs.checks.kill.world import World
from jobs.checks.positions import Positions
from pagoda import topics
from pagoda.errors import CheckFailed, PagodaError

LOAD_S = 2.0
_CATCH_UP_S = 120.0
_SETTLE_S = 30.0  # a record may be read again after it was committed
_PROCESSES = {"redis": "redis", "broker": "kafka", "landing": "landing"}


@dataclass(kw_only=True)
class Outcome:
    """What became of a round.

    Attributes:
        kills: how many process groups were killed.
        note: what a reader of the report may want to know.
    """

    messages: int = 0
    kills: int = 0
    note: str = ""
    differences: list[Difference] = field(default_factory=list)


def run(each: Round, attempt: str, world: World, ledger: Ledger) -> Outcome:
    """One round of consumer, Redis, broker or landing."""
    outcome = Outcome()
    log = victims.RedisLog(world.settings) if each.kind == "redis" else None
    send(each, attempt, world, ledger, outcome, during=lambda: _strike(each, world, outcome, log))
    if each.instant == LOSING_IDLE:
        assert log is not None
        caught_up(world, outcome)
        cut = log.crash(victims.group_of(world.settings, "redis"))
        outcome.kills, outcome.note = 1, f"{cut} bytes lost"
    if log is not None:
        log.stop()
    lake = each.kind in ("broker", "landing")
    caught_up(world, outcome, lake=lake)
    outcome.differences += judge(world, ledger, lake=lake)
    return outcome


def send(
    each: Round,
    attempt: str,
    world: World,
    ledger: Ledger,
    outcome: Outcome,
    *,
    count: int = 240,
    seconds: float = LOAD_S,
    during: Callable[[], None] = lambda: None,
) -> None:
    """Send a round's messages; meanwhile do something; until all are acknowledged."""
    messages = shop.messages(
        each.dice,
        name=f"r{each.number}{attempt}",
        count=count,
        now_ms=time.time_ns() // 1_000_000,
    )
    load = Load(world.settings, messages, seconds=seconds)
    load.start()
    during()
    ledger.add(load.finish())
    outcome.messages += len(messages)


def caught_up(world: World, outcome: Outcome, *, online: bool = True, lake: bool = False) -> None:
    """Wait until the readers have passed the topics' ends; that they do not is a difference."""
    give_up = time.monotonic() + _CATCH_UP_S
    while True:
        try:
            with topics.admin(world.settings) as admin:
                positions = Positions(world.settings, admin)
                ends = positions.ends()
                if online:
                    positions.wait_consumed(ends, _CATCH_UP_S)
                if lake:
                    positions.wait_landed(ends, _CATCH_UP_S)
            return
        except (PagodaError, KafkaError) as error:
            # A reader that is behind, or the broker itself that is coming up.
            if isinstance(error, CheckFailed) or time.monotonic() > give_up:
                outcome.differences.append(
                    Difference(where="readers", key="", expected="at the end", found=str(error))
                )
                return
            time.sleep(0.5)


def judge(
    world: World, ledger: Ledger, *, online: bool = True, lake: bool = False
) -> list[Difference]:
    """Compare with the ledger, until it is equal or cannot become so any more."""
    oracle, settings = ledger.oracle(world.settings), world.settings
    found: list[Difference] = []
    if online:
        found += until_equal(lambda: compare.sequences(settings, oracle), within_s=_SETTLE_S)
    if lake:
        found += until_equal(lambda: compare.tables(settings, oracle), within_s=_SETTLE_S)
    return found


def _strike(each: Round, world: World, outcome: Outcome, log: victims.RedisLog | None) -> None:
    """Kill what the round says, at its instant, under load."""
    dice, settings = each.dice, world.settings
    consumer = dice.choice(("sequences", "sequences-2"))
    process = _PROCESSES.get(each.kind, consumer)
    if each.point:
        passer = "landing" if each.point.startswith("landing.") else consumer
        groups = () if process in (passer, consumer) else (victims.group_of(settings, process),)
        most = 2 if passer == "landing" else 4  # a micro-batch a second
        reached = victims.kill_at(
            world.faults, each.point, passages=dice.randint(1, most), groups=groups
        )
        outcome.kills += reached
        outcome.note = "" if reached else "the point was not reached"
        return
    if each.instant == LOSING_IDLE:
        return
    time.sleep(dice.uniform(0.1, LOAD_S))
    group = victims.group_of(settings, process)
    if log is not None and each.instant in (LOSING, HUNG):
        hang_s = settings.stream.rewind_s + 2 if each.instant == HUNG else 0
        outcome.note = f"{log.crash(group, hang_s=hang_s)} bytes lost"
    else:
        assert each.instant in (RANDOM, TWICE)
        victims.kill(group)
    outcome.kills += 1
    if each.instant == TWICE:
        victims.wait_for(lambda: victims.ended(group), what=f"{process} has ended")
        again = victims.group_of(settings, process)
        time.sleep(dice.uniform(0.0, 1.5))
        victims.kill(again)
        outcome.kills += 1
