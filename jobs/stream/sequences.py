"""Keep `user_intraday` current online: events and searches in, merged rows out.

    poll -> decode -> merge into Redis -> rejected topic -> commit

The state lives in Redis and the position in Kafka, committed after the writes; merging is
idempotent (law 2). So a crash anywhere, a restart, or Redis and Kafka being away cost time and
nothing else.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import structlog
import typer
from kafka import KafkaProducer
from kafka.errors import KafkaError
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from jobs.stream.merge import Arrivals
from jobs.stream.readiness import ReadyFile
from jobs.stream.rejects import RejectedRecord, RejectedSink
from jobs.stream.source import SESSION_TIMEOUT_S, Record, Source
from pagoda import dataset, topics
from pagoda.console import run
from pagoda.errors import Conflict, DependencyDown, NothingToDo
from pagoda.features import CANDIDATES, USER_INTRADAY
from pagoda.messages import Rejected, Search, decode_event, decode_search
from pagoda.publisher import open_producer
from pagoda.settings import Settings, load
from pagoda.windows import DAY_MS

if TYPE_CHECKING:
    from feast import FeatureStore

    from jobs.stream.state import OnlineState

log = structlog.get_logger(__name__)
_POLL_S = 0.2
_SHOW_S = 1.0
_BACKOFF_S = (0.2, 0.5, 1.0, 2.0, 5.0)
# A batch that took longer may have lost its partitions to another consumer: it is read again.
_FENCE_S = SESSION_TIMEOUT_S / 2


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Decoded records: what each user did, and what could not be read."""

    arrivals: dict[int, Arrivals] = field(default_factory=dict)
    rejected: list[RejectedRecord] = field(default_factory=list)


def decode(
    records: Collection[Record], *, settings: Settings, click_actions: Collection[str]
) -> Batch:
    """Group a batch by user. Events that are no clicks are read, and move nothing."""
    batch = Batch()
    for record in records:
        reads = decode_search if record.topic == settings.kafka.searches_topic else decode_event
        message = reads(record.value, now_ms=record.taken_ms)
        if isinstance(message, Rejected):
            batch.rejected.append(
                RejectedRecord(
                    topic=record.topic,
                    partition=record.partition,
                    offset=record.offset,
                    rejected=message,
                    taken_ms=record.taken_ms,
                )
            )
        elif isinstance(message, Search):
            arrivals = batch.arrivals.setdefault(message.user_key, Arrivals())
            arrivals.queries.append((message.ts, message.search_key, message.query))
        elif message.action in click_actions:
            arrivals = batch.arrivals.setdefault(message.user_key, Arrivals())
            arrivals.clicks.append((message.ts, message.event_key, message.item_key))
    return batch


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

    def rewind_to(self, since_ms: int) -> None:
        """Read again from that time on."""

    def lags(self) -> Mapping[tuple[str, int], int]:
        """Records that wait, by topic and partition."""


class Rejects(Protocol):
    """Where records go that cannot be read."""

    def write(self, records: list[RejectedRecord]) -> None:
        """Keep them, or raise DependencyDown."""


class Metrics:
    """What the consumer shows on its metrics port."""

    def __init__(self) -> None:
        """A registry of its own: importing this module registers nothing."""
        self.registry = CollectorRegistry()
        self.records = Counter("pagoda_sequences_records", "Records read", registry=self.registry)
        self.rejected = Counter(
            "pagoda_sequences_rejected", "Records that could not be read", registry=self.registry
        )
        self.rows = Counter("pagoda_sequences_rows", "Online rows written", registry=self.registry)
        self.retries = Counter(
            "pagoda_sequences_retries",
            "Batches given back because a server did not answer",
            registry=self.registry,
        )
        self.batch_seconds = Histogram(
            "pagoda_sequences_batch_seconds",
            "From poll to commit",
            registry=self.registry,
            buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
        )
        self.lag = Gauge(
            "pagoda_sequences_lag",
            "Records that wait",
            ["topic", "partition"],
            registry=self.registry,
        )


class ClickActions:
    """Which actions count as clicks: the data set says, also one imported while we run."""

    def __init__(self, settings: Settings) -> None:
        """Without a data set only `click` counts."""
        self._settings = settings
        self._stamp: float | None = None
        self.current: frozenset[str] = frozenset({"click"})
        self.refresh()

    def refresh(self) -> bool:
        """Read the record again if it changed; True if the actions did."""
        path = dataset.path(self._settings)
        stamp = path.stat().st_mtime if path.exists() else None
        if stamp == self._stamp:
            return False
        self._stamp = stamp
        try:
            found = frozenset(dataset.load(self._settings).click_actions)
        except NothingToDo:
            found = frozenset({"click"})
        changed, self.current = found != self.current, found
        log.info("click_actions", actions=sorted(found))
        return changed


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
        self._store_was_away = False
        self._actions_changed = False

    def step(self) -> int:
        """One batch: poll, decode, merge, reject, commit. Returns the records it held.

        Raises: DependencyDown after giving the batch back; the next step reads it again.
        """
        self._actions_changed |= self._click_actions.refresh()
        if self._actions_changed:
            self._source.rewind_to(self._clock_ms() - CANDIDATES.stream_days * DAY_MS)
            self._actions_changed = False
        records = self._source.poll(_POLL_S)
        if not records:
            return 0
        started = time.monotonic()
        try:
            rows, rejected = self._handle(records, started)
        except (DependencyDown, Conflict):
            self._source.give_back()
            self._store_was_away = True
            self._metrics.retries.inc()
            raise
        self._metrics.records.inc(len(records))
        self._metrics.rows.inc(rows)
        self._metrics.rejected.inc(rejected)
        self._metrics.batch_seconds.observe(time.monotonic() - started)
        if self._store_was_away:
            self._store_was_away = False
            self._source.rewind()
        return len(records)

    def show_lag(self) -> None:
        """Refresh the lag metric."""
        for (topic, partition), lag in self._source.lags().items():
            self._metrics.lag.labels(topic, str(partition)).set(lag)

    def _handle(self, records: list[Record], started: float) -> tuple[int, int]:
        batch = decode(records, settings=self._settings, click_actions=self._click_actions.current)
        rows = self._state.merge(
            batch.arrivals,
            now_ms=self._clock_ms(),
            may_write=lambda: time.monotonic() - started < _FENCE_S,
        )
        if batch.rejected:
            self._rejects.write(batch.rejected)
            first = batch.rejected[0]
            log.warning(
                "records_rejected",
                count=len(batch.rejected),
                first=first.place,
                reason=first.rejected.reason,
            )
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
            consumer.show_lag()
            if source.joined:
                ready.write(source.positions())
            else:
                ready.remove()


app = typer.Typer(add_completion=False)


@app.callback(invoke_without_command=True)
def sequences() -> None:
    """Keep real-time sequences current online until SIGTERM."""
    settings = load()
    stop = threading.Event()
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, lambda *_: stop.set())
    ready = ReadyFile(settings, "sequences")
    metrics = Metrics()
    if settings.stream.metrics_port:
        start_http_server(settings.stream.metrics_port, addr="127.0.0.1", registry=metrics.registry)
    parts = _open_until(stop, settings)
    if parts is None:
        return
    source, state, rejects = parts
    consumer = Consumer(
        settings=settings,
        source=source,
        state=state,
        rejects=rejects,
        clock_ms=lambda: time.time_ns() // 1_000_000,
        click_actions=ClickActions(settings),
        metrics=metrics,
    )
    try:
        follow(consumer, source=source, ready=ready, stop=stop)
    finally:
        ready.remove()
        source.close()
        log.info("stopped")


def _open_until(
    stop: threading.Event, settings: Settings
) -> tuple[Source, OnlineState, RejectedSink] | None:
    """Everything the consumer needs, as soon as all servers answer; None if stopped before."""
    # Feast imports torch where it finds it: 480 MB that a consumer of events has no use for.
    sys.modules.setdefault("torch", None)  # type: ignore[arg-type]
    from jobs.stream.state import OnlineState

    waits = iter(_BACKOFF_S)
    while not stop.is_set():
        try:
            topics.ensure(settings)
            state = OnlineState(settings, _applied_store(settings), CANDIDATES)
            state.ping()
            rejects = RejectedSink(settings.kafka, _producer(settings))
            return Source(settings), state, rejects
        except DependencyDown as error:
            wait_s = next(waits, _BACKOFF_S[-1])
            log.warning("waiting", reason=str(error), retry_in_s=wait_s)
            stop.wait(wait_s)
    return None


def _applied_store(settings: Settings) -> FeatureStore:
    """The feature store, with the registry filled if nobody did it yet."""
    from feast.errors import FeatureViewNotFoundException

    from pagoda.store import apply, open_store

    store = open_store(settings, offline=False)
    try:
        store.get_feature_view(USER_INTRADAY.name)
    except FeatureViewNotFoundException:
        apply(settings)
        store = open_store(settings, offline=False)
    return store


def _producer(settings: Settings) -> KafkaProducer:
    try:
        return open_producer(settings)
    except KafkaError as error:
        raise DependencyDown("kafka", f"{type(error).__name__}: {error}") from error


if __name__ == "__main__":
    run(app)
