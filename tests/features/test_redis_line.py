"""Kept connections: every answer belongs to its command, whatever happened before."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import redis

from pagoda.online import connect
from pagoda.redis_line import Asked, Line
from pagoda.settings import Settings

pytestmark = pytest.mark.servers
KEYS = [b"line-test:a", b"line-test:b"]


@pytest.fixture
def client(redis_server: Settings) -> Iterator[redis.Redis]:
    with connect(redis_server) as client:
        for key in KEYS:
            client.hset(key, mapping={"name": key[-1:], "n": len(key)})
        yield client
        client.delete(*KEYS)


def test_a_packed_command_is_asked_of_any_key(client: redis.Redis) -> None:
    line = Line(client)
    asked = Asked(line, "HMGET", KEYS[0], "name", "absent", "n")
    assert line.ask([asked.of(KEYS), asked.of(KEYS[:1])], 3) == [
        [b"a", None, b"11"],
        [b"b", None, b"11"],
        [b"a", None, b"11"],
    ]
    assert line.ask([asked.of([])], 0) == []


def test_an_error_among_answers_shifts_none(client: redis.Redis) -> None:
    line = Line(client)
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        line.ask(line.pack([("ECHO", 1), ("GET", KEYS[0]), ("ECHO", 2)]), 3)
    assert line.call("ECHO", 3) == b"3"


def test_an_answer_that_comes_too_late_is_nobodys(redis_server: Settings) -> None:
    with connect(redis_server, retries=0) as client:
        line = Line(client, retries=0)
        line.call("PING")
        line._threads.connection._sock.settimeout(0.05)
        client.execute_command("CLIENT", "PAUSE", 300, "ALL")
        with pytest.raises(redis.TimeoutError):
            line.call("ECHO", "late")
        assert line.call("ECHO", "in time") == b"in time"


@pytest.mark.parametrize("retries", [0, 1])
def test_a_connection_that_broke_is_made_anew(client: redis.Redis, retries: int) -> None:
    line = Line(client, retries=retries)
    before = line.call("CLIENT", "ID")
    client.client_kill_filter(_id=str(before))
    if not retries:
        with pytest.raises(redis.ConnectionError):
            line.call("PING")
    assert line.call("CLIENT", "ID") != before


def test_each_thread_has_its_own(client: redis.Redis) -> None:
    line, found = Line(client), []
    threads = [
        threading.Thread(target=lambda: found.append(line.call("CLIENT", "ID"))) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({*found, line.call("CLIENT", "ID")}) == 4
