"""Pagoda's own long-running programs: the stream consumer, landing, the search service."""

from __future__ import annotations

import json
from collections.abc import Callable

import httpx

from pagoda import registry
from pagoda.servers import leftovers
from pagoda.servers.program import (
    PYTHON,
    NotYet,
    Port,
    Ports,
    Process,
    Server,
    settings_environment,
)
from pagoda.settings import PROJECT_ROOT, Settings


def _module(name: str, module: str) -> Callable[[Settings, Ports], tuple[Process, ...]]:
    def prepare(settings: Settings, _ports: Ports) -> tuple[Process, ...]:
        return (
            Process(
                name=name,
                command=(PYTHON, "-m", module),
                cwd=PROJECT_ROOT,
                env=settings_environment(),
                config=settings.model_dump_json(),
            ),
        )

    return prepare


def _prepare_sequences(settings: Settings, _ports: Ports) -> tuple[Process, ...]:
    return tuple(
        Process(
            name=name,
            command=(PYTHON, "-m", "jobs.stream.sequences", "--instance", str(number)),
            cwd=PROJECT_ROOT,
            env=settings_environment(),
            config=settings.model_dump_json(),
        )
        for number, name in enumerate(_consumers(settings), start=1)
    )


def _consumers(settings: Settings) -> list[str]:
    """The names of the consumers' ready files and logs, as `jobs.stream.sequences` has them."""
    further = [f"sequences-{number}" for number in range(2, settings.stream.consumers + 1)]
    return ["sequences", *further]


def _ready(settings: Settings, server: str, name: str) -> None:
    """Probe the file that a stream job refreshes while it really consumes (`jobs/stream`)."""
    try:
        said = json.loads((settings.run / f"{name}.ready").read_text())
    except (FileNotFoundError, ValueError):
        raise NotYet("it does not consume yet") from None
    if leftovers.owner(said["pid"]) != (str(settings.home.resolve()), server):
        raise NotYet("the process that consumed has ended")


def _probe_sequences(settings: Settings) -> None:
    for name in _consumers(settings):
        _ready(settings, "sequences", name)


def _probe_serving(settings: Settings) -> None:
    url = f"http://{settings.serving.host}:{settings.serving.port}/ready"
    try:
        answer = httpx.get(url, timeout=5)
    except httpx.HTTPError as error:
        raise NotYet(str(error)) from error
    if answer.is_error:
        raise NotYet(f"/ready says {answer.status_code}: {answer.text[:300]}")


def _no_bundle(settings: Settings) -> str | None:
    if registry.current(settings) is None:
        return "no bundle is current yet: train one and build its index"
    return None


SEQUENCES = Server(
    name="sequences",
    title="the consumer that keeps users' sequences current",
    prepare=_prepare_sequences,
    probe=_probe_sequences,
    address=lambda _settings: None,
    owned=True,
    needs=("kafka", "redis"),
)

LANDING = Server(
    name="landing",
    title="the stream that lands topics in the lake",
    prepare=_module("landing", "jobs.stream.landing"),
    probe=lambda settings: _ready(settings, "landing", "landing"),
    address=lambda _settings: None,
    owned=True,
    needs=("kafka",),
    grace_s=30,
)

SERVING = Server(
    name="serving",
    title="the search service",
    prepare=_module("serving", "serving.server"),
    probe=_probe_serving,
    address=lambda settings: (settings.serving.host, settings.serving.port),
    blocked=_no_bundle,
    start_within_s=180,
    owned=True,
    needs=("kafka", "redis", "milvus"),
    ports=(Port(name="http", default=18000, setting=("serving", "port")),),
)
