"""Redis or Milvus stops: 503 with its name, and answers again when it is back."""

from __future__ import annotations

import time

import httpx
import pytest

from pagoda import servers as local_servers
from pagoda.settings import Settings

pytestmark = pytest.mark.servers


@pytest.mark.parametrize("name", ["redis", "milvus"])
def test_a_stopped_dependency_is_named_and_searches_recover_with_it(
    name: str, http: httpx.Client, servers: Settings
) -> None:
    search = {"query": "milk", "user_id": "alice"}
    before = http.post("/search", json=search).json()["results"]
    local_servers.down(servers, [name])
    try:
        started = time.monotonic()
        answer = http.post("/search", json=search)
        assert time.monotonic() - started < 10
        assert answer.status_code == 503
        assert answer.json()["error"] == "dependency_down"
        assert answer.json()["dependency"] == name
        assert answer.headers["retry-after"] == "1"
        ready = http.get("/ready")
        assert ready.status_code == 503
        dependencies = ready.json()["dependencies"]
        assert [each for each, found in dependencies.items() if not found["ok"]] == [name]
        assert http.get("/health").status_code == 200
        if name == "redis":  # an anonymous search does not read it
            assert http.post("/search", json={"query": "milk"}).status_code == 200
    finally:
        local_servers.up(servers, [name])
    deadline = time.monotonic() + 60
    while (answer := http.post("/search", json=search)).status_code != 200:
        assert time.monotonic() < deadline, answer.text
        time.sleep(0.1)
    after = answer.json()
    assert after["results"] == before
    assert after["personalised"]
