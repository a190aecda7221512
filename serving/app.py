"""The HTTP service: `create_app(settings)` gives a FastAPI app that answers searches.

Handlers are plain functions on FastAPI's worker threads: every step blocks (Redis, torch,
Milvus), and all of them release the GIL while they wait or compute.
"""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import redis
from fastapi import FastAPI, Response
from fastapi import Path as InPath
from fastapi.responses import FileResponse
from fastapi.staticfiles import StaticFiles
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.concurrency import run_in_threadpool

from pagoda import online
from pagoda.ann import Searcher
from pagoda.errors import DependencyDown, PagodaError
from pagoda.messages import Id, Search
from pagoda.publisher import SearchPublisher
from pagoda.settings import Settings
from serving import refusals
from serving.examples import ExampleUsers
from serving.live import Follower
from serving.metrics import Metrics, Observed
from serving.schemas import (
    Dependency,
    EmbedAnswer,
    EmbedRequest,
    ExampleUser,
    Health,
    Readiness,
    SearchAnswer,
    SearchRequest,
    Sequences,
    refused,
    search_request,
)
from serving.search import Embedded, Engine, Timings, sequences
from serving.served import Served, ServedLog

PAGE = Path(__file__).parent / "page"
_DESCRIPTION = """Personalised product search; recommendation where the live model reads no queries.

`POST /search` answers; `POST /embed` gives the vector to rankers that query Milvus themselves.
Every refusal has one body (`Refusal`): 422 lists all problems of a request, 503 names the
dependency that does not answer and is worth another try.
"""


class Service:
    """What lives as long as the process."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.redis = online.connect(settings)
        self.searcher = Searcher(settings)
        self.engine = Engine(settings, self.searcher)
        self.follower = Follower(settings, self.redis)
        self.publisher = SearchPublisher(settings)
        self.served = ServedLog(settings)
        self.examples = ExampleUsers(settings)
        self.metrics = Metrics(
            settings, follower=self.follower, publisher=self.publisher, served=self.served
        )

    def close(self) -> None:
        """Stop the threads; what is buffered is sent and written first."""
        self.follower.close()
        self.publisher.close()
        self.served.close()
        self.searcher.close()
        self.redis.close()

    def search(self, request: SearchRequest) -> SearchAnswer:
        """Answer, then tell Kafka, the sample and the metrics."""
        live = self.follower.live()
        timings = Timings()
        answer, embedded = self.engine.search(live, request, timings)
        self.metrics.observe_search(answer, timings.steps_ms)
        self._record(request, answer, embedded)
        return answer

    def readiness(self) -> Readiness:
        """Ask every dependency once."""
        found = {
            "bundle": self._try(lambda: self.follower.live(), self.follower.name or ""),
            "redis": self._try(self._ping_redis, "answers"),
            "milvus": self._try(lambda: self.engine.ping(self.follower.now), "answers"),
            "kafka": self._try(
                self._reach_kafka, f"{self.publisher.pending} searches pending", needed=False
            ),
        }
        if self.follower.problem:
            found["bundle"] = found["bundle"].model_copy(
                update={"detail": str(self.follower.problem)}
            )
        live = self.follower.now
        return Readiness(
            ready=all(each.ok for each in found.values() if each.needed),
            bundle=self.follower.name,
            reads_queries=live.bundle.manifest.reads_queries if live else None,
            dependencies=found,
        )

    def _record(self, request: SearchRequest, answer: SearchAnswer, embedded: Embedded) -> None:
        if request.user_id is None or embedded.user_key is None:
            return
        if request.query:  # what was recommended without one is no search
            self.publisher.publish(
                Search(
                    search_id=answer.search_id,
                    user_id=request.user_id,
                    query=request.query,
                    ts=embedded.at_ms,
                )
            )
        self.served.offer(
            Served(
                search_id=answer.search_id,
                user_key=embedded.user_key,
                at_ms=embedded.at_ms,
                bundle=answer.bundle,
                rows=embedded.rows,
            )
        )

    def _ping_redis(self) -> None:
        try:
            self.redis.ping()
        except redis.RedisError as error:
            raise DependencyDown("redis", str(error)) from error

    def _reach_kafka(self) -> None:
        servers = self.settings.kafka.bootstrap_servers.split(",")
        reasons = []
        for server in servers:
            host, _, port = server.strip().rpartition(":")
            try:
                socket.create_connection((host, int(port)), timeout=0.5).close()
            except OSError as error:
                reasons.append(f"{server}: {error}")
            else:
                return
        raise DependencyDown("kafka", "; ".join(reasons))

    @staticmethod
    def _try(ask: Callable[[], object], detail: str, *, needed: bool = True) -> Dependency:
        try:
            ask()
        except PagodaError as error:
            return Dependency(ok=False, needed=needed, detail=str(error))
        return Dependency(ok=True, needed=needed, detail=detail)


def create_app(settings: Settings) -> FastAPI:
    """The app; it loads the current bundle and connects as it starts up."""

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        service = await run_in_threadpool(Service, settings)
        await run_in_threadpool(service.follower.start)
        app.state.service = service
        yield
        await run_in_threadpool(service.close)

    app = FastAPI(
        title="Pagoda search",
        version=version("pagoda"),
        description=_DESCRIPTION,
        lifespan=life,
        docs_url=None,  # both pages would load scripts from somebody else's host
        redoc_url=None,
    )
    refusals.install(app)
    app.add_middleware(Observed)
    _add_routes(app, settings)
    app.mount("/page", StaticFiles(directory=PAGE), name="page")
    return app


def _add_routes(app: FastAPI, settings: Settings) -> None:
    def service() -> Service:
        found: Service = app.state.service
        return found

    @app.post("/embed", responses=refused(413, 422, 503), tags=["search"])
    def embed(body: EmbedRequest) -> EmbedAnswer:
        """The vector of a user and a query, and the collection that it belongs to."""
        return service().engine.embed(service().follower.live(), body, Timings())

    def search(body: SearchRequest) -> SearchAnswer:
        """Items for a user and a query, best first; the search joins the user's history."""
        return service().search(body)

    # The bound of k is a setting, so the body's model is made here.
    search.__annotations__["body"] = search_request(settings.serving.max_k)
    app.post("/search", responses=refused(413, 422, 503), tags=["search"])(search)

    @app.get("/user/{user_id:path}/sequences", responses=refused(422, 503), tags=["page"])
    def user_sequences(user_id: Annotated[Id, InPath(examples=["1364"])]) -> Sequences:
        """What the towers would see of a user now, after the cut."""
        return sequences(service().follower.live(), user_id)

    @app.get("/users/examples", tags=["page"])
    def example_users() -> list[ExampleUser]:
        """A few recently active users."""
        return service().examples.get()

    @app.get("/", include_in_schema=False)
    def page() -> FileResponse:
        return FileResponse(PAGE / "index.html")

    @app.get("/health", tags=["operation"])
    def health() -> Health:
        """The process is alive."""
        return Health()

    @app.get(
        "/ready",
        tags=["operation"],
        responses={503: {"model": Readiness, "description": "Searches would fail."}},
    )
    def ready(response: Response) -> Readiness:
        """Whether searches can be answered; each dependency by name."""
        found = service().readiness()
        response.status_code = 200 if found.ready else 503
        return found

    @app.get(
        "/metrics",
        tags=["operation"],
        response_class=Response,
        responses={200: {"content": {"text/plain": {}}}},
    )
    def metrics() -> Response:
        """For Prometheus."""
        return Response(service().metrics.text(), media_type=CONTENT_TYPE_LATEST)
