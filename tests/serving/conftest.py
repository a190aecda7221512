"""The search service on real servers, with two small bundles and users who have a history."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest
import uvicorn

from jobs.index.build import build
from pagoda import topics
from pagoda.settings import Settings
from serving.app import create_app
from tests.index.homes import own_home, quiet
from tests.serving import online_rows
from tests.training import toy

USERS = ("alice", "bob", "carol")


@pytest.fixture(scope="session")
def home(servers: Settings, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A home with the bundles serve_a (live) and serve_b, their collections, and three users."""
    home = own_home(servers, tmp_path_factory.mktemp("serving"))
    serving = home.serving.model_copy(
        update={"poll_ms": 50, "max_k": 50, "served_sample": 1.0, "served_flush_s": 0.2}
    )
    home = home.model_copy(update={"serving": serving})
    topics.ensure(home)
    for seed, name in enumerate(("serve_b", "serve_a")):
        toy.bundle(home, name, seed=seed)
        build(home, name, promote=True, progress=quiet)
    now_ms = time.time_ns() // 1_000_000
    for user in USERS:
        online_rows.write(home, user, toy.feature_rows(user, now_ms, clicks=80), at_ms=now_ms)
    return home


@pytest.fixture(scope="session")
def url(home: Settings) -> Iterator[str]:
    """Where the service answers, over HTTP."""
    with running(home) as address:
        yield address


@pytest.fixture(scope="session")
def http(url: str) -> Iterator[httpx.Client]:
    """A client of the service."""
    with httpx.Client(base_url=url, timeout=30) as client:
        yield client


@contextmanager
def running(settings: Settings) -> Iterator[str]:
    """The service under uvicorn on a free port, until the block ends."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(create_app(settings), log_level="error"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        deadline = time.monotonic() + 60
        while not server.started and thread.is_alive() and time.monotonic() < deadline:
            time.sleep(0.02)
        assert server.started, "the service did not start"
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        server.should_exit = True
        thread.join(timeout=30)
