"""Keep `user_intraday` current online: events and searches in, merged rows out.

    poll -> decode -> merge into Redis -> rejected topic -> commit

The state lives in Redis and the position in Kafka, committed after the writes; merging is
idempotent (law 2) and rows are swapped, never overwritten. So a crash anywhere, a restart, a
rebalance, or Redis and Kafka being away cost time and nothing else.
"""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from typing import Annotated, Protocol

import structlog
import typer
from filelock import FileLock, Timeout
from kafka import KafkaProducer
from kafka.errors import KafkaError

from jobs.stream.batches import decode
from jobs.stream.click_actions import ClickActions
from jobs.stream.metrics import Metrics
from jobs.stream.readiness import ReadyFile
from jobs.stream.rejects import RejectedRecord, RejectedSink
from jobs.stream.source import Record, Source
from jobs.stream.state import OnlineState
from pagoda import faults, topics
from pagoda.console import run
from pagoda.errors import Conflict, DependencyDown
from pagoda.features import CANDIDATES
from pagoda.publisher import open_producer
from pagoda.settings import Settings, load

log = structlog.get_logger(__name__)
_POLL_S = 0.2
_SHOW_S = 1.0
_BACKOFF_S = (0.2, 0.5, 1.0, 2.0, 5.0)
_STOP_WITHIN_S = 4.0


class RecordSource(Protocol):
    """What the loop needs of `Source`."""

    def poll(self, timeout_s: float) -> list[Record]:
        """The next records."""

    def commit(self) -> None:
        """They are written."""

    def give_back(self) -> None:
        """They are not."""

    def rewind(self) -> None:
        """Read the last seconds' records again."""

    def reread_as(self, read_as: str) -> None:
        """Read those of the stream's days again, as something else."""

    def lags(self) -> Mapping[tuple[str, int], int]:
        """Records that wait, by topic and partition."""


class Rejects(Protocol):
    """Where records go that cannot be read."""

    def write(self, records: list[RejectedRecord]) -> None:
        """Keep them, or raise DependencyDown."""


class Consumer:
    """The loop; everything it touches is an argument."""

    def __init__(
        self,
        *,
        settings: Settings,
        source: RecordSource,
        state: OnlineState,
        rejects: Rejects,
        clock_ms: Callable[[], int],
        click_actions: ClickActions,
        metrics: Metrics,
    ) -> None:
        """Nothing is read before the first `step`."""
        self._settings = settings
        self._source = source
        self._state = state
        self._rejects = rejects
        self._clock_ms = clock_ms
        self._click_actions = click_actions
        self._metrics = metrics

    def step(self) -> int:
        """One batch: poll, decode, merge, reject, commit. Returns the records it held.

        Raises: DependencyDown or Conflict after giving the batch back; the next step reads it
        again, and where Redis was away also what it may have lost.
        """
        if self._click_actions.refresh():
            self._source.reread_as(str(self._click_actions))
        records = self._source.poll(_POLL_S)
        started = time.monotonic()
        try:
            if not records:
                self._state.ping()  # whether it was away meanwhile
                return 0
            faults.point("sequences.polled")
            rows, rejected = self._handle(records)
        except (DependencyDown, Conflict) as error:
            self._source.give_back()
            if isinstance(error, DependencyDown) and error.name == "redis":
                self._source.rewind()
            self._metrics.retries.inc()
            raise
        faults.point("sequences.committed")
        self._metrics.records.inc(len(records))
        self._metrics.rows.inc(rows)
        self._metrics.rejected.inc(rejected)
        self._metrics.batch_seconds.observe(time.monotonic() - started)
        oldest_ms = min(record.taken_ms for record in records)
        self._metrics.delay_seconds.observe(max(self._clock_ms() - oldest_ms, 0) / 1000)
        return len(records)

    def show(self, *, rebalances: int) -> None:
        """Refresh the metrics that are not counted along the way."""
        self._metrics.lag.clear()  # partitions that another consumer has now
        for (topic, partition), lag in self._source.lags().items():
            self._metrics.lag.labels(topic, str(partition)).set(lag)
        self._metrics.rebalances.set(rebalances)

    def _handle(self, records: list[Record]) -> tuple[int, int]:
        batch = decode(records, settings=self._settings, click_actions=self._click_actions.current)
        faults.point("sequences.decoded")
        rows = self._state.merge(batch.arrivals, now_ms=self._clock_ms())
        if batch.rejected:
            self._rejects.write(batch.rejected)
            first = batch.rejected[0]
            log.warning(
                "records_rejected",
                count=len(batch.rejected),
                first=first.place,
                reason=first.rejected.reason,
            )
        faults.point("sequences.rejected")
        self._source.commit()
        return rows, len(batch.rejected)


def follow(consumer: Consumer, *, source: Source, ready: ReadyFile, stop: threading.Event) -> None:
    """Step until `stop`; while a server is away, wait longer each time and try again."""
    failures = 0
    shown_at = 0.0
    while not stop.is_set():
        try:
            consumer.step()
        except (DependencyDown, Conflict) as error:
            wait_s = _BACKOFF_S[min(failures, len(_BACKOFF_S) - 1)]
            failures += 1
            log.warning("waiting", reason=str(error), attempt=failures, retry_in_s=wait_s)
            stop.wait(wait_s)
            continue
        if failures:
            log.info("recovered", attempts=failures)
            failures = 0
        if time.monotonic() - shown_at > _SHOW_S:
            shown_at = time.monotonic()
            consumer.show(rebalances=source.rebalances)
            if source.joined:
                ready.write(source.positions())
            else:
                ready.remove()


app = typer.Typer(add_completion=False)


@app.callback(invoke_without_command=True)
def sequences(
    instance: Annotated[
        int, typer.Option(min=1, help="Which of several on this machine; see docs/streams.md.")
    ] = 1,
) -> None:
    """Keep real-time sequences current online until SIGTERM."""
    settings = load()
    name = instance_name(instance)
    stop = threading.Event()
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, lambda *_: stop.set())
    try:
        with FileLock(settings.run / f"{name}.lock", timeout=0):
            threading.Thread(target=_stop_in_time, args=(stop,), daemon=True).start()
            _run(settings, name, instance, stop)
    except Timeout:
        raise Conflict(
            f"{name} runs already",
            where=str(settings.run / f"{name}.lock"),
            next_step="Another one beside it needs a number of its own: `--instance 2`.",
        ) from None


def instance_name(instance: int) -> str:
    """What the n-th consumer on a PAGODA_HOME is called."""
    return "sequences" if instance == 1 else f"sequences-{instance}"


def _run(settings: Settings, name: str, instance: int, stop: threading.Event) -> None:
    ready = ReadyFile(settings, name)
    metrics = Metrics()
    if settings.stream.metrics_port:
        metrics.serve(settings.stream.metrics_port + instance - 1)
    click_actions = ClickActions(settings)
    parts = _open_until(stop, settings, read_as=str(click_actions), instance=instance)
    if parts is None:
        return
    source, state, rejects = parts
    consumer = Consumer(
        settings=settings,
        source=source,
        state=state,
        rejects=rejects,
        clock_ms=lambda: time.time_ns() // 1_000_000,
        click_actions=click_actions,
        metrics=metrics,
    )
    _collect_seldom()
    try:
        follow(consumer, source=source, ready=ready, stop=stop)
    finally:
        ready.remove()
        source.close()
        log.info("stopped")


def _collect_seldom() -> None:
    """A batch makes some 100,000 objects and no cycles: a third of the time went into looking.

    What is loaded by now stays for good, and is not looked at again.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000)


def _stop_in_time(stop: threading.Event) -> None:
    """A server that is away must not hold up the end: what is not committed is read again."""
    stop.wait()
    time.sleep(_STOP_WITHIN_S)
    log.warning("stopped_at_once", waited_s=_STOP_WITHIN_S)
    os._exit(0)


def _open_until(
    stop: threading.Event, settings: Settings, *, read_as: str, instance: int
) -> tuple[Source, OnlineState, RejectedSink] | None:
    """Everything the consumer needs, as soon as all servers answer; None if stopped before."""
    waits = iter(_BACKOFF_S)
    while not stop.is_set():
        try:
            topics.ensure(settings)
            state = OnlineState(settings, CANDIDATES)
            state.ping()
            rejects = RejectedSink(settings, _producer(settings))
            return Source(settings, read_as=read_as, instance=instance), state, rejects
        except DependencyDown as error:
            wait_s = next(waits, _BACKOFF_S[-1])
            log.warning("waiting", reason=str(error), retry_in_s=wait_s)
            stop.wait(wait_s)
    return None


def _producer(settings: Settings) -> KafkaProducer:
    try:
        return open_producer(settings)
    except KafkaError as error:
        raise DependencyDown("kafka", f"{type(error).__name__}: {error}") from error


if __name__ == "__main__":
    run(app)
