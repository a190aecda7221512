"""`pagoda bench stream`: how fast the sequences consumer is, and how soon what it reads is served.

Throughput: topics filled before, the consumer as `pagoda up` starts it, from the moment its group
gives it the partitions to the commit of the last record, its rows written to Redis. Beside it two
bare loops over the same topics (`jobs.bench.loops`). Freshness: the same consumer while messages
come at a rate; from handing a sampled click to the producer to `OnlineReader` showing it.

All messages are made up (`jobs.bench.traffic`), in a private PAGODA_HOME with servers of its own.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Annotated, Any

import numpy as np
import orjson
import psutil
import typer

from jobs.bench.traffic import Traffic, fill
from jobs.checks.positions import Ends, Positions
from jobs.simulate.live import Clock, Outlet, Plan
from jobs.stream import readiness
from jobs.world import World, passing_world
from pagoda import topics
from pagoda.bench import interleaved, median, report
from pagoda.console import run
from pagoda.errors import CheckFailed
from pagoda.features import CANDIDATES, SEQUENCES_V1, USER_INTRADAY
from pagoda.ids import key_of
from pagoda.online import OnlineReader, Row, connect
from pagoda.online_layout import Keys
from pagoda.settings import Settings, load
from pagoda.watch import Cost, Watch

_CONSUMER = "jobs.stream.sequences"
_CONFIG = "[kafka]\npartitions = 4\n[stream]\nmetrics_port = 0\n"
_LOOPS = ("kafka-python", "confluent-kafka")
_OURS = "sequences"
_START_S = 60.0
_LOST_S = 30.0  # what is not shown by then never will be
_FIRST = 20  # messages that no watch runs for: with them a producer learns where topics are
_POLL_S = 0.01  # the watcher must leave the consumer its core
_SLOWEST = 500  # events a second below which a run is given up

app = typer.Typer(add_completion=False)


@dataclass(frozen=True, kw_only=True)
class Load:
    """What is sent: `events` to begin with, then for `seconds` at each of the `rates`."""

    events: int
    users: int
    skew: float
    rates: tuple[float, ...]
    seconds: float
    rounds: int
    seed: int


@app.command()
def main(
    events: Annotated[int, typer.Option(min=1, help="Messages in the topics.")] = 200_000,
    users: Annotated[int, typer.Option(min=1, help="How many users they are of.")] = 10_000,
    skew: Annotated[
        float, typer.Option(min=0, help="Zipf exponent of who does how much; 0: all as much.")
    ] = 0.8,
    rates: Annotated[
        list[float] | None,
        typer.Option("--rate", min=1, help="Messages a second; repeatable. 1,000 and 5,000."),
    ] = None,
    seconds: Annotated[float, typer.Option(min=1, help="How long at each rate.")] = 30,
    rounds: Annotated[int, typer.Option(min=1, help="How often each contestant reads all.")] = 3,
    seed: Annotated[int, typer.Option(help="The same seed makes the same messages.")] = 0,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the private home.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on stdout.")] = False,
) -> None:
    """Throughput beside bare Kafka loops, and how soon an event is served. Messages are made up."""
    settings = load()
    asked = Load(
        events=events,
        users=users,
        skew=skew,
        rates=tuple(rates or (1_000.0, 5_000.0)),
        seconds=seconds,
        rounds=rounds,
        seed=seed,
    )
    with passing_world(settings, keep=keep) as private:
        rows, facts = bench(private.up(["kafka", "redis"], config=_CONFIG), asked)
    report(settings, "stream", rows, facts=facts, as_json=as_json)


def bench(private: World, asked: Load) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The rows of the table, and what is to be known about them."""
    traffic = _traffic(asked, "bench")
    topics.ensure(private.settings)
    fill(private.settings, traffic, count=asked.events, until_ms=_now_ms())
    race = Race(private, asked, traffic)
    costs = interleaved(
        {_OURS: race.sequences, **{name: partial(race.loop, name) for name in _LOOPS}},
        rounds=asked.rounds,
    )
    with race.consumer() as consumer:
        race.wait_until_read()
        fresh = [
            freshness(private, consumer, _traffic(asked, f"live-{number}"), rate, asked.seconds)
            for number, rate in enumerate(asked.rates)
        ]
        race.wait_until_consumed()
    rows = [race.row(name, costs[name]) for name in costs] + fresh
    return rows, _facts(asked, race, rows)


def _traffic(asked: Load, name: str) -> Traffic:
    return Traffic(users=asked.users, skew=asked.skew, seed=asked.seed, name=name)


class Race:
    """The contestants of throughput; each run begins from nothing."""

    def __init__(self, private: World, asked: Load, traffic: Traffic) -> None:
        self._world = private
        self._asked = asked
        self.traffic = traffic
        self._group = 0
        self.start_s: dict[str, list[float]] = {name: [] for name in (_OURS, *_LOOPS)}
        self.redis_s: list[float] = []
        self.clicks_a_row = 0.0
        self._read: list[dict[str, int]] = []

    def sequences(self) -> Cost:
        """The consumer, from its partitions to its last commit, rows from none to all."""
        self._group += 1
        with connect(self._world.settings) as redis:
            redis.delete(*self._row_keys())
            with self.consumer() as consumer:
                before_s = _cpu_s(redis)
                with Watch(consumer) as watch:
                    self.wait_until_consumed()
                self.redis_s.append(_cpu_s(redis) - before_s)
            self._check_rows(redis)
        return watch.cost

    @contextmanager
    def consumer(self) -> Iterator[psutil.Process]:
        """The consumer's process, just given its partitions; ended with the block."""
        log = self._world.log(_CONSUMER)
        log.unlink(missing_ok=True)
        began = time.monotonic()
        job = self._world.start_job(
            _CONSUMER, environment={"PAGODA_KAFKA__STREAM_GROUP": self._settings.kafka.stream_group}
        )
        try:
            while b"partitions_assigned" not in log.read_bytes():
                if job.poll() is not None or time.monotonic() - began > _START_S:
                    said = log.read_text()[-1500:]
                    raise CheckFailed("the consumer does not consume", where=str(log), found=said)
                time.sleep(0.005)
            self.start_s[_OURS].append(time.monotonic() - began)
            yield psutil.Process(job.pid)
        finally:
            job.terminate()
            job.wait()

    def wait_until_consumed(self) -> None:
        """Until the last record is committed. Raises: CheckFailed."""
        with topics.admin(self._settings) as admin:
            positions = Positions(self._settings, admin)
            ends = positions.ends()
            positions.wait_consumed(ends, _START_S + sum(ends.values()) / _SLOWEST)

    def wait_until_read(self) -> None:
        """Until a consumer that was started again has read its last seconds again."""
        with topics.admin(self._settings) as admin:
            ends = Positions(self._settings, admin).ends()
        give_up = time.monotonic() + _START_S
        while not _reached(readiness.read(self._settings, _OURS) or {}, ends):
            if time.monotonic() > give_up:
                raise CheckFailed(f"the consumer did not catch up within {_START_S:g} s")
            time.sleep(0.1)

    def row(self, name: str, costs: list[Cost]) -> dict[str, Any]:
        """A contestant's line in the table."""
        middle, events = median(costs), self._asked.events
        return _row(
            f"{name}, topics filled",
            events_s=round(events / middle.seconds),
            events_cpu_s=_per_cpu_second(events, middle),
            peak_mb=round(middle.peak_mb),
            start_s=round(statistics.median(self.start_s[name]), 2),
        )

    @property
    def _settings(self) -> Settings:
        """With a group of this round's own: it begins at the topics' beginnings."""
        settings = self._world.settings
        group = {"stream_group": f"bench-{self._group}"}
        return settings.model_copy(update={"kafka": settings.kafka.model_copy(update=group)})

    def loop(self, client: str) -> Cost:
        """A bare loop of that client over the same records."""
        began = time.monotonic()
        with subprocess.Popen(
            [sys.executable, "-m", "jobs.bench.loops", client], stdout=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            process.stdout.readline()
            self.start_s[client].append(time.monotonic() - began)
            with Watch(psutil.Process(process.pid)) as watch:
                said = process.stdout.readline()
        self._read.append(orjson.loads(said))
        if self._read[-1] != self._read[0] or self._read[0]["records"] != self._asked.events:
            raise CheckFailed(
                "the loops did not read what was sent",
                expected=f"{self._asked.events} records, each time the same",
                found=str(self._read),
            )
        return watch.cost

    def _row_keys(self) -> list[bytes]:
        """Of everybody who clicked or searched: whoever has a row in the end."""
        keys = Keys(USER_INTRADAY.entity)
        return [keys.of(key_of("user", user)) for user in sorted(self.traffic.movers)]

    def _check_rows(self, redis: Any) -> None:
        found = redis.exists(*self._row_keys())
        if found != len(self.traffic.movers):
            raise CheckFailed(
                "the consumer did not write every row",
                expected=str(len(self.traffic.movers)),
                found=str(found),
            )
        reader = OnlineReader(self._world.settings, SEQUENCES_V1)
        users = sorted(self.traffic.movers)[:: max(len(self.traffic.movers) // 200, 1)]
        rows = reader.read_many([key_of("user", user) for user in users], _now_ms())
        held = [row[USER_INTRADAY.name] for row in rows]
        self.clicks_a_row = round(statistics.mean(len(row["click_ts"]) for row in held if row), 1)


def _reached(positions: Mapping[str, Mapping[int, int]], ends: Ends) -> bool:
    return all(positions.get(at.topic, {}).get(at.partition, 0) >= end for at, end in ends.items())


# Freshness ---------------------------------------------------------------------------------------


@dataclass(kw_only=True)
class Sampled:
    """Clicks on their way, and how long those took that have come.

    Attributes:
        waiting: user key to (event key, its time, when the producer got it); one a user.
        seconds: of those that have come.
    """

    waiting: dict[int, tuple[int, int, float]] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)

    def look(self, reader: OnlineReader) -> None:
        """Read the users that are waited for, as serving does."""
        awaited = list(self.waiting.items())
        if not awaited:
            return
        rows = reader.read_many([user for user, _ in awaited], _now_ms())
        now = time.monotonic()
        for (user, (event, ts, sent)), held in zip(awaited, rows, strict=True):
            row = held[USER_INTRADAY.name]
            if row and (event in row["click_events"] or _left_behind(row, ts)):
                del self.waiting[user]
                self.seconds.append(now - sent)


def _left_behind(row: Row, ts: int) -> bool:
    """Whether the row is full of what came after that moment."""
    return len(row["click_ts"]) >= CANDIDATES.clicks and row["click_ts"][0] > ts


def freshness(
    private: World, consumer: psutil.Process, traffic: Traffic, rate: float, seconds: float
) -> dict[str, Any]:
    """Send for a while, and watch a click of every batch arrive; a line of the table.

    Raises: CheckFailed if one never came.
    """
    reader, sampled = OnlineReader(private.settings, SEQUENCES_V1), Sampled()
    # A process of its own: two busy threads of one would wait for each other, and be measured.
    processes = get_context("spawn")
    said, says = processes.Pipe(duplex=False)
    plan = Plan(rate=rate, seconds=seconds)
    sender = processes.Process(target=_send, args=(private.settings, traffic, plan, says))
    sender.start()
    says.close()
    said.recv()  # it has begun
    sent = None
    with Watch(consumer) as watch:
        while sent is None:
            while sent is None and said.poll():
                heard = said.recv()
                if isinstance(heard, int):
                    sent = heard
                else:
                    user, *followed = heard
                    sampled.waiting.setdefault(user, tuple(followed))
            sampled.look(reader)
            time.sleep(_POLL_S)
    lost_at = time.monotonic() + _LOST_S
    while sampled.waiting:
        if time.monotonic() > lost_at:
            raise CheckFailed(
                f"{len(sampled.waiting)} sampled clicks never came", where=f"{rate:g} a second"
            )
        sampled.look(reader)
        time.sleep(_POLL_S)
    sender.join()
    cost = watch.cost
    p50, p95, p99 = np.percentile(np.array(sampled.seconds) * 1000, (50, 95, 99))
    return _row(
        f"{_OURS}, {rate:,.0f} events/s",
        events_s=round(sent / cost.seconds),
        events_cpu_s=_per_cpu_second(sent, cost),
        peak_mb=round(cost.peak_mb),
        samples=len(sampled.seconds),
        p50_ms=round(p50),
        p95_ms=round(p95),
        p99_ms=round(p99),
    )


def _send(settings: Settings, traffic: Traffic, plan: Plan, says: Connection) -> None:
    """Say None, then of each batch which click to follow, then how many messages were sent."""
    outlet = Outlet(settings)
    outlet.send(traffic.take(_FIRST, at_ms=_now_ms()))
    outlet.flush()
    says.send(None)
    clock = Clock(plan)
    while size := clock.next_size():
        clock.take(size)
        batch = traffic.take(size, at_ms=_now_ms())
        if (click := first_click(batch.values)) is not None:
            says.send((*click, time.monotonic()))
        outlet.send(batch)
    outlet.flush()
    says.send(clock.taken)


def first_click(values: list[str]) -> tuple[int, int, int] | None:
    """User key, event key and time of the first click in a batch."""
    for value in values:
        fields = orjson.loads(value)
        if fields.get("action") == "click":
            user, event = fields["user_id"], fields["event_id"]
            return key_of("user", user), key_of("event", event), fields["ts"]
    return None


# What is shown -----------------------------------------------------------------------------------


def _row(
    what: str,
    *,
    events_s: int,
    events_cpu_s: int | None,
    peak_mb: int,
    start_s: float | None = None,
    samples: int | None = None,
    p50_ms: int | None = None,
    p95_ms: int | None = None,
    p99_ms: int | None = None,
) -> dict[str, Any]:
    return {
        "measured": what,
        "events/s": events_s,
        "events/CPU s": events_cpu_s,
        "peak MB": peak_mb,
        "start s": start_s,
        "clicks followed": samples,
        "p50 ms": p50_ms,
        "p95 ms": p95_ms,
        "p99 ms": p99_ms,
    }


def _facts(asked: Load, race: Race, rows: list[dict[str, Any]]) -> dict[str, Any]:
    ours, plain, librdkafka = (row["events/s"] for row in rows[:3])
    return {
        **asdict(asked),
        "messages": "made up; of ten 7 clicks, 1 search, 1 collect, 1 buy",
        "rows": len(race.traffic.movers),
        "clicks a row at the end": race.clicks_a_row,
        "redis CPU s a run": round(statistics.median(race.redis_s), 2),
        "share of the kafka-python loop": round(ours / plain, 3),
        "share of the confluent-kafka loop": round(ours / librdkafka, 3),
        "goals": "20,000 events/s on one core, 0.25 of the kafka-python loop, p99 below 500 ms",
    }


def _per_cpu_second(events: int, cost: Cost) -> int | None:
    """None where too little was used for the clock of processes, which ticks every 10 ms."""
    return round(events / cost.cpu_seconds) if cost.cpu_seconds else None


def _cpu_s(redis: Any) -> float:
    said = redis.info("cpu")
    return float(said["used_cpu_user"] + said["used_cpu_sys"])


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


if __name__ == "__main__":
    run(app)
