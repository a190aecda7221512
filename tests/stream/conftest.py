"""An installation of this room's own on the session's servers, and its processes to kill."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import pytest
from kafka import KafkaProducer

from jobs.stream import readiness
from pagoda import lake, store, topics
from pagoda.publisher import open_producer
from pagoda.schemas import Table
from pagoda.settings import PROJECT_ROOT, Lake, Robots, Settings, Stream

_START_S = 180.0
MakeHome = Callable[[str], Settings]


@pytest.fixture(scope="session")
def make_home(
    redis_server: Settings, kafka_server: Settings, tmp_path_factory: pytest.TempPathFactory
) -> MakeHome:
    """Makes settings whose topics, group, tables and checkpoints are nobody else's."""

    def make(name: str) -> Settings:
        folder = tmp_path_factory.mktemp(name)
        (folder / "lake").symlink_to(kafka_server.lake_folder)
        (folder / "jars").symlink_to(kafka_server.jars)
        (folder / "secrets").symlink_to(kafka_server.home / "secrets")
        kafka = kafka_server.kafka.model_copy(
            update={
                "events_topic": f"{name}-events",
                "searches_topic": f"{name}-searches",
                "items_topic": f"{name}-items",
                "partitions": 3,
                "stream_group": name,
            }
        )
        made = kafka_server.model_copy(
            update={
                "home": folder,
                "lake": Lake(namespace=name),
                "redis": redis_server.redis,
                "kafka": kafka,
                "stream": Stream(metrics_port=0, landing_trigger_s=1, rewind_s=5, session_s=6),
                # A few users make all the load, for as long as a slow machine needs.
                "robots": Robots(events_per_item=100_000, acts_per_hour=100_000),
            }
        )
        topics.ensure(made)
        return made

    return make


@pytest.fixture(scope="session")
def stream_home(make_home: MakeHome) -> Settings:
    """For tests of the consumer alone, with Feast's registry."""
    made = make_home("stream_tests")
    store.apply(made)
    return made


@pytest.fixture(scope="session")
def road_home(make_home: MakeHome) -> Settings:
    """For tests that land what is sent, with Feast's registry."""
    made = make_home("road_tests")
    lake.create_all(made)
    store.apply(made)
    return made


@pytest.fixture(scope="session")
def producer(kafka_server: Settings) -> Iterator[KafkaProducer]:
    """One producer for all tests."""
    opened = open_producer(kafka_server)
    yield opened
    opened.close(timeout=1)


@pytest.fixture(scope="session")
def jobs(stream_home: Settings) -> Iterator[Jobs]:
    """The consumer on `stream_home`."""
    with _jobs(stream_home) as started:
        yield started


@pytest.fixture(scope="session")
def road_jobs(road_home: Settings) -> Iterator[Jobs]:
    """The consumer and landing on `road_home`."""
    with _jobs(road_home) as started:
        yield started


@contextmanager
def _jobs(settings: Settings) -> Iterator[Jobs]:
    """Those that still run at the end are killed."""
    started = Jobs(settings=settings)
    try:
        yield started
    finally:
        for name in list(started.running):
            started.kill(name)


@dataclass
class Jobs:
    """`sequences`, `sequences-2` and `landing` as processes of their own, as in production."""

    settings: Settings
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, name: str, *, root: Path = PROJECT_ROOT) -> None:
        """Start a job of a checkout unless it runs; wait until it really consumes."""
        if name in self.running:
            return
        job, _, instance = name.partition("-")
        with self.log(name).open("ab") as log:
            self.running[name] = subprocess.Popen(
                [
                    *(sys.executable, "-m", f"jobs.stream.{job}"),
                    *(("--instance", instance) if instance else ()),
                ],
                cwd=root,
                env={**environment(self.settings), "PYTHONPATH": str(root)},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        running = self.running[name]
        until(
            lambda: readiness.read(self.settings, name) is not None,
            within_s=_START_S,
            what=f"{name} consumes",
            alive=lambda: running.poll() is None,
            log=self.log(name),
        )

    def kill(self, name: str) -> None:
        """kill -9 of the job and all that it started."""
        job = self.running.pop(name)
        os.killpg(job.pid, signal.SIGKILL)
        job.wait()
        (self.settings.run / f"{name}.ready").unlink(missing_ok=True)

    def stop(self, name: str) -> float:
        """SIGTERM; returns the seconds it took. The exit status must be 0."""
        job = self.running.pop(name)
        started = time.monotonic()
        job.terminate()
        assert job.wait(timeout=60) == 0, self.log(name).read_text()[-3000:]
        return time.monotonic() - started

    def log(self, name: str) -> Path:
        """What the job says."""
        return self.settings.logs / f"{name}.log"


def environment(settings: Settings) -> dict[str, str]:
    """These settings for a process."""
    return {
        **os.environ,
        "PAGODA_HOME": str(settings.home),
        "PAGODA_LAKE__NAMESPACE": settings.lake.namespace,
        "PAGODA_KAFKA": settings.kafka.model_dump_json(),
        "PAGODA_STREAM": settings.stream.model_dump_json(),
        "PAGODA_REDIS__HOST": settings.redis.host,
        "PAGODA_REDIS__PORT": str(settings.redis.port),
    }


def until(
    reached: Callable[[], bool],
    *,
    within_s: float = 60,
    what: str,
    alive: Callable[[], bool] = lambda: True,
    log: Path | None = None,
) -> None:
    """Wait for something; fail with the log's end if it does not come."""
    give_up = time.monotonic() + within_s
    while not reached():
        if time.monotonic() > give_up or not alive():
            tail = log.read_text()[-3000:] if log else ""
            pytest.fail(f"not reached: {what}\n{tail}")
        time.sleep(0.05)


def send(settings: Settings, producer: KafkaProducer, messages: Iterable[dict[str, Any]]) -> None:
    """Send messages as a client would: JSON, keyed by user."""
    kafka = settings.kafka
    sent = [
        producer.send(
            kafka.searches_topic if "query" in message else kafka.events_topic,
            key=message["user_id"].encode(),
            value=orjson.dumps({"schema": 1, **message}),
        )
        for message in messages
    ]
    for future in sent:
        future.get(timeout=30)


def rows(settings: Settings, table: Table) -> list[dict[str, Any]]:
    """Everything in a lake table."""
    found: list[dict[str, Any]] = lake.open_table(settings, table).scan().to_arrow().to_pylist()
    return found
