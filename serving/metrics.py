"""What the service counts, for Prometheus."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pagoda import textfile
from pagoda.publisher import SearchPublisher
from pagoda.settings import Settings
from serving.live import Follower
from serving.schemas import SearchAnswer
from serving.served import ServedLog

_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
_BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)


class Metrics:
    """The service's counters, histograms and gauges."""

    def __init__(
        self,
        settings: Settings,
        *,
        follower: Follower,
        publisher: SearchPublisher,
        served: ServedLog,
    ) -> None:
        self._settings = settings
        self._registry = CollectorRegistry()  # its own: every app starts at 0
        self._requests = Counter(
            "pagoda_requests", "HTTP requests", ["path", "status"], registry=self._registry
        )
        self._steps = Histogram(
            "pagoda_search_step_seconds",
            "Time of each step of a search",
            ["step"],
            buckets=_BUCKETS_S,
            registry=self._registry,
        )
        self._searches = Counter(
            "pagoda_searches",
            "Searches answered",
            ["personalised", "fell_back", "empty"],
            registry=self._registry,
        )
        self._bundle = Gauge(
            "pagoda_bundle_info", "The bundle that serves", ["bundle"], registry=self._registry
        )
        self._follower = follower
        for name, help_text, value in (
            ("published", "Searches that Kafka acknowledged", lambda: publisher.published),
            ("publish_refused", "Searches beyond the buffer", lambda: publisher.refused),
            ("publish_failed", "Searches that Kafka refused", lambda: publisher.failed),
            ("publish_pending", "Searches on their way to Kafka", lambda: publisher.pending),
            ("served_written", "Samples in the lake", lambda: served.written),
            ("served_lost", "Samples lost to a full buffer or the lake", lambda: served.lost),
        ):
            gauge = Gauge(f"pagoda_searches_{name}", help_text, registry=self._registry)
            gauge.set_function(value)

    def count_request(self, path: str, status: int) -> None:
        """One HTTP request; `path` as the route says it."""
        self._requests.labels(path, str(status)).inc()

    def observe_search(self, answer: SearchAnswer, steps_ms: Mapping[str, float]) -> None:
        """One answered search."""
        for step, ms in steps_ms.items():
            self._steps.labels(step).observe(ms / 1000)
        flags = (answer.personalised, answer.fell_back, not answer.results)
        self._searches.labels(*(str(flag).lower() for flag in flags)).inc()

    def text(self) -> bytes:
        """In Prometheus's text format, with what checks have written last."""
        self._bundle.clear()
        if self._follower.name:
            self._bundle.labels(self._follower.name).set(1)
        return generate_latest(self._registry) + textfile.texts(self._settings)


class Observed:
    """Counts every request, and lets no answer run or load anything foreign."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Look at the answer's head as it passes."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def observed(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
                path = getattr(scope.get("route"), "path", "other")
                scope["app"].state.service.metrics.count_request(path, message["status"])
            await send(message)

        await self._app(scope, receive, observed)
