"""Land the topics in the lake with Spark Structured Streaming, each record exactly once.

One query per input topic, and one for the rejected topics. Spark reads Kafka, keeps the offsets in
a checkpoint and decodes in parallel; a micro-batch's rows and its position are then committed to
Iceberg together (`jobs.stream.landed`), so a replayed micro-batch changes nothing.

Records that cannot be read land in the table `rejected`, in the same micro-batch as their
neighbours: another version of the consumer may have read them, and then nobody else keeps them.
The rejected topics, filled by the sequences consumer and for item updates from here, land there
too; each record stands there once.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import structlog
import typer
from filelock import FileLock, Timeout
from kafka import KafkaProducer
from kafka.errors import KafkaError
from py4j.protocol import Py4JError  # type: ignore[import-untyped]

from jobs.lake.care import tend
from jobs.stream import rejects
from jobs.stream.landed import Ids, RejectedTable, land, position, rejected_row
from jobs.stream.readiness import ReadyFile
from jobs.stream.rejects import RejectedRecord, RejectedSink
from jobs.stream.routes import Route, routes
from pagoda import faults, lake, spark, topics
from pagoda.console import run
from pagoda.errors import Conflict, DependencyDown
from pagoda.forgotten import consulted
from pagoda.messages import Rejected
from pagoda.publisher import open_producer
from pagoda.schemas import EVENTS, IDS, ITEMS, REJECTED, SEARCHES
from pagoda.settings import Settings, load
from pagoda.topics import Topic

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession
    from pyspark.sql.streaming.query import StreamingQuery

log = structlog.get_logger(__name__)
TABLES = (EVENTS, SEARCHES, ITEMS, IDS, REJECTED)
_WATCH_S = 1.0
_TEND_S = 300.0
_BACKOFF_S = (1.0, 2.0, 5.0, 10.0, 30.0)
_RECORD = ("value", "partition", "offset", "timestamp")


@dataclass(frozen=True, kw_only=True)
class Flow:
    """One streaming query: topics in, a function per micro-batch."""

    name: str
    topics: tuple[Topic, ...]
    handle: Callable[[DataFrame, int], None]

    @property
    def checkpoint(self) -> str:
        """A topic that was made anew counts from zero again: it needs a checkpoint of its own."""
        return "-".join([self.name, *(topic.topic_id[:8] for topic in self.topics)])


class Landing:
    """The flows of one process and how far they are."""

    def __init__(
        self,
        settings: Settings,
        known: dict[str, Topic],
        rejected_sink: RejectedSink,
    ) -> None:
        """Take the positions that the lake has."""
        self._settings = settings
        self._known = known
        self._rejected_sink = rejected_sink
        self._rejected_table = RejectedTable(settings)
        self._ids = Ids(settings)
        self.positions = {
            route.topic: dict(position(settings, route, known[route.topic]).offsets)
            for route in routes(settings.kafka)
        }

    def flows(self) -> list[Flow]:
        """Events, searches, items, rejected."""
        kafka = self._settings.kafka
        inputs = [
            Flow(
                name=route.topic,
                topics=(self._known[route.topic],),
                handle=self._handler(route),
            )
            for route in routes(kafka)
        ]
        rejected = Flow(
            name="rejected",
            topics=tuple(self._known[kafka.rejected(topic)] for topic in kafka.topics),
            handle=self._land_rejected,
        )
        return [*inputs, rejected]

    def _handler(self, route: Route) -> Callable[[DataFrame, int], None]:
        def handle(records: DataFrame, batch_id: int) -> None:
            rows = _decoded(records, route)
            if len(rows):
                self._land(route, rows, batch_id)

        return handle

    def _land(self, route: Route, rows: pa.Table, batch_id: int) -> None:
        """Everything but the last step may be repeated; the last moves the position."""
        faults.point("landing.decoded")
        bad = rows.filter(rows["reason"].is_valid())
        if len(bad):
            self._reject(route, [_rejected(route, row) for row in bad.to_pylist()])
        with consulted(self._settings) as forgotten:
            good = forgotten.without(rows.filter(rows["reason"].is_null()), "ts")
            self._ids.add(route, good)
            faults.point("landing.ids_added")
            landed = land(self._settings, route, self._known[route.topic], rows, forgotten)
        faults.point("landing.committed")
        reached = self.positions[route.topic]
        for partition, offset in zip(*(rows[c].to_pylist() for c in _RECORD[1:3]), strict=True):
            reached[partition] = max(reached.get(partition, 0), offset + 1)
        log.info("landed", topic=route.topic, batch=batch_id, rows=landed, unreadable=len(bad))

    def _reject(self, route: Route, records: list[RejectedRecord]) -> None:
        now = datetime.now(UTC)
        with consulted(self._settings) as forgotten:
            kept = [each for each in records if not forgotten.names(each.rejected.raw)]
            self._rejected_table.add([rejected_row(each, rejected_at=now) for each in kept])
        if route.table is ITEMS:
            self._rejected_sink.write(records)

    def _land_rejected(self, records: DataFrame, batch_id: int) -> None:
        rows = [
            _rejected_row(each.asDict()) for each in records.select("topic", *_RECORD).collect()
        ]
        with consulted(self._settings) as forgotten:
            kept = [row for row in rows if not forgotten.names(row["raw"])]
            landed = self._rejected_table.add(kept) if kept else 0
        faults.point("landing.rejected_added")
        if rows:
            log.info("landed", topic="rejected", batch=batch_id, rows=landed)


def _decoded(records: DataFrame, route: Route) -> pa.Table:
    from pyspark.sql.pandas.types import from_arrow_schema

    decoded = records.select(*_RECORD).mapInArrow(route.rows, from_arrow_schema(route.schema))
    return decoded.toArrow()


def _rejected(route: Route, row: dict[str, Any]) -> RejectedRecord:
    return RejectedRecord(
        topic=route.topic,
        partition=row["partition"],
        offset=row["offset"],
        rejected=Rejected(reason=row["reason"], raw=row["raw"]),
        taken_ms=round(row["taken_at"].timestamp() * 1000),
    )


def _rejected_row(record: dict[str, Any]) -> dict[str, Any]:
    """A row of `rejected`; what is no such message stands there for itself."""
    raw = bytes(record["value"] or b"")
    try:
        said = rejects.decode(raw)
    except ValueError as error:
        said = RejectedRecord(
            topic=record["topic"],
            partition=record["partition"],
            offset=record["offset"],
            rejected=Rejected(reason=str(error), raw=raw),
        )
    # Spark gives times as this machine's clock shows them, without a zone.
    return rejected_row(said, rejected_at=record["timestamp"].astimezone(UTC))


def start(session: SparkSession, settings: Settings, flow: Flow) -> StreamingQuery:
    """Start a flow from its checkpoint, or from the earliest record there is."""
    return (
        session.readStream.format("kafka")
        .option("kafka.bootstrap.servers", settings.kafka.bootstrap_servers)
        .option("subscribe", ",".join(topic.name for topic in flow.topics))
        .option("startingOffsets", "earliest")
        .option("maxOffsetsPerTrigger", settings.stream.landing_records)
        .load()
        .writeStream.queryName(flow.name)
        .foreachBatch(flow.handle)
        .option("checkpointLocation", str(settings.checkpoints / "landing" / flow.checkpoint))
        .trigger(processingTime=f"{int(settings.stream.landing_trigger_s * 1000)} milliseconds")
        .start()
    )


class Queries:
    """The running queries of all flows; one that failed starts again, later each time."""

    def __init__(self, session: SparkSession, settings: Settings, flows: list[Flow]) -> None:
        """Start every flow."""
        self._session = session
        self._settings = settings
        self._flows = {flow.name: flow for flow in flows}
        self._running = {flow.name: start(session, settings, flow) for flow in flows}
        self._failures = dict.fromkeys(self._running, 0)
        self._due: dict[str, float] = {}

    def watch(self) -> bool:
        """Restart what failed and is due; whether all consume."""
        consuming = [self._watch(name) for name in self._flows]  # each, also after a failed one
        return all(consuming)

    def stop(self) -> None:
        """Stop them all; a micro-batch that is under way is repeated at the next start."""
        for query in self._running.values():
            query.stop()

    def _watch(self, name: str) -> bool:
        query = self._running[name]
        if query.isActive:
            if query.lastProgress is None:
                return False
            self._failures[name] = 0
            return True
        if name not in self._due:
            wait_s = _BACKOFF_S[min(self._failures[name], len(_BACKOFF_S) - 1)]
            self._failures[name] += 1
            self._due[name] = time.monotonic() + wait_s
            log.error("flow_failed", flow=name, reason=_why(query), retry_in_s=wait_s)
        elif time.monotonic() >= self._due[name]:
            del self._due[name]
            self._running[name] = start(self._session, self._settings, self._flows[name])
        return False


def follow(
    session: SparkSession,
    settings: Settings,
    landing: Landing,
    *,
    ready: ReadyFile,
    stop: threading.Event,
) -> None:
    """Keep every flow running until `stop`, and the tables small."""
    queries = Queries(session, settings, landing.flows())
    tend_at = time.monotonic() + _TEND_S
    while not stop.wait(_WATCH_S):
        if queries.watch():
            ready.write(landing.positions)
        else:
            ready.remove()
        if time.monotonic() > tend_at:
            tend_at = time.monotonic() + _TEND_S
            tend(session, settings, TABLES)
    queries.stop()


def _why(query: StreamingQuery) -> str:
    error = query.exception()
    return " ".join(str(error).split())[:600] if error else "stopped"


app = typer.Typer(add_completion=False)


@app.callback(invoke_without_command=True)
def landing() -> None:
    """Land the topics in the lake until SIGTERM."""
    settings = load()
    stop = threading.Event()
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, lambda *_: stop.set())
    try:
        with FileLock(settings.run / "landing.lock", timeout=0):
            _run(settings, stop)
    except Timeout:
        raise Conflict(
            "landing runs already",
            where=str(settings.run / "landing.lock"),
            next_step="One process lands all topics; see `pagoda status`.",
        ) from None


def _run(settings: Settings, stop: threading.Event) -> None:
    ready = ReadyFile(settings, "landing")
    parts = _open_until(stop, settings)
    if parts is None:
        return
    known, producer = parts
    for table in TABLES:
        lake.open_table(settings, table)
    landing = Landing(settings, known, RejectedSink(settings, producer))
    try:
        with spark.session(_light(settings), "landing") as session:
            follow(session, settings, landing, ready=ready, stop=stop)
    except (Py4JError, OSError) as error:
        # A supervisor's SIGTERM reaches the JVM too, which may be gone before its queries are
        # stopped. That is as good as any other end: what was not committed is read again.
        if not stop.is_set():
            raise
        log.info("jvm_ended_first", reason=type(error).__name__)
    finally:
        ready.remove()
        producer.close(timeout=1)
    log.info("stopped")


def _open_until(
    stop: threading.Event, settings: Settings
) -> tuple[dict[str, Topic], KafkaProducer] | None:
    """Kafka, as soon as it answers; None if stopped before."""
    waits: Iterator[float] = iter(_BACKOFF_S)
    while not stop.is_set():
        try:
            return topics.ensure(settings), open_producer(settings)
        except (DependencyDown, KafkaError) as error:
            wait_s = next(waits, _BACKOFF_S[-1])
            log.warning("waiting", reason=str(error), retry_in_s=wait_s)
            stop.wait(wait_s)
    return None


def _light(settings: Settings) -> Settings:
    """Small micro-batches need little: this process runs beside all others."""
    conf = {
        "spark.sql.streaming.noDataProgressEventInterval": "1000",
        "spark.sql.streaming.minBatchesToRetain": "20",
        "spark.sql.streaming.stopTimeout": "10000",
        **settings.spark.conf,
    }
    light = settings.spark.model_copy(update={"driver_memory": "1g", "conf": conf})
    return settings.model_copy(update={"spark": light})


if __name__ == "__main__":
    run(app)
