"""Publish searches to Kafka without holding up the request that made them."""

from __future__ import annotations

import queue
import threading

import structlog
from kafka import KafkaProducer
from kafka.errors import KafkaError

from pagoda.messages import Search, encode, record_key
from pagoda.settings import Settings
from pagoda.topics import MAX_REJECTED_BYTES

log = structlog.get_logger(__name__)
_RECONNECT_S = 2.0
_WAKE_S = 0.2
# Kafka may be away for an hour; the bound on memory is `capacity`, not time.
_DELIVERY_TIMEOUT_MS = 3_600_000


def open_producer(settings: Settings) -> KafkaProducer:
    """An idempotent producer, acks=all. Raises: KafkaError if no broker answers."""
    return KafkaProducer(
        bootstrap_servers=settings.kafka.bootstrap_servers,
        acks="all",
        enable_idempotence=True,
        compression_type="lz4",
        linger_ms=5,
        max_request_size=MAX_REJECTED_BYTES,
        delivery_timeout_ms=_DELIVERY_TIMEOUT_MS,
        bootstrap_timeout_ms=5_000,
        max_block_ms=10_000,
        allow_auto_create_topics=False,
    )


class SearchPublisher:
    """A bounded buffer and one thread between requests and Kafka.

    `publish` returns at once. What Kafka has not acknowledged counts against `capacity`; beyond
    it searches are refused and counted, never waited for. Every failure is counted and logged.
    """

    def __init__(self, settings: Settings, *, capacity: int = 10_000) -> None:
        """Start the thread; Kafka need not be there yet."""
        self._settings = settings
        self._capacity = capacity
        self._queue: queue.SimpleQueue[Search] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._pending = 0
        self.published = 0
        self.refused = 0
        self.failed = 0
        self._thread = threading.Thread(target=self._run, name="search-publisher", daemon=True)
        self._thread.start()

    @property
    def pending(self) -> int:
        """Searches taken but not yet acknowledged by Kafka."""
        return self._pending

    def publish(self, search: Search) -> bool:
        """Take a search for publishing; False if the buffer is full. Never blocks."""
        with self._lock:
            if self._closing.is_set() or self._pending >= self._capacity:
                self.refused += 1
                refused = self.refused
            else:
                self._pending += 1
                refused = 0
        if refused:
            if refused & (refused - 1) == 0:  # 1, 2, 4, 8 …: an outage must not flood the log
                log.error("search_refused", pending=self._pending, refused_so_far=refused)
            return False
        self._queue.put(search)
        return True

    def close(self, timeout_s: float = 5.0) -> None:
        """Flush what is buffered, at most for `timeout_s`; what is left counts as failed."""
        self._closing.set()
        self._thread.join(timeout_s)
        with self._lock:
            lost, self._pending = self._pending, 0
            self.failed += lost
        if lost:
            log.error("searches_lost_at_close", count=lost)

    # The thread ---------------------------------------------------------------------------------

    def _run(self) -> None:
        producer = self._connect()
        while producer is not None:
            try:
                search = self._queue.get(timeout=_WAKE_S)
            except queue.Empty:
                if self._closing.is_set():
                    break
                continue
            self._send(producer, search)
        if producer is not None:
            self._finish(producer)

    def _connect(self) -> KafkaProducer | None:
        """A producer as soon as Kafka answers, or None if closed before."""
        while True:
            try:
                return open_producer(self._settings)
            except KafkaError as error:
                log.warning("kafka_down", reason=str(error), pending=self._pending)
            if self._closing.wait(_RECONNECT_S):
                return None

    def _send(self, producer: KafkaProducer, search: Search) -> None:
        topic = self._settings.kafka.searches_topic
        while True:
            try:
                future = producer.send(topic, key=record_key(search), value=encode(search))
            except KafkaError as error:  # no metadata: broker or topic is away
                log.warning("kafka_down", reason=str(error), pending=self._pending)
                if self._closing.wait(_RECONNECT_S):
                    self._settle(error=error)
                    return
                continue
            future.add_callback(lambda _: self._settle())
            future.add_errback(lambda error: self._settle(error=error))
            return

    def _settle(self, *, error: BaseException | None = None) -> None:
        with self._lock:
            self._pending -= 1
            if error is None:
                self.published += 1
            else:
                self.failed += 1
        if error is not None:
            log.error("search_not_published", reason=repr(error))

    def _finish(self, producer: KafkaProducer) -> None:
        try:
            producer.flush(timeout=5)
        except KafkaError as error:
            log.error("flush_failed", reason=str(error), pending=self._pending)
        producer.close(timeout=1)
