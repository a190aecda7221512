"""Airflow's client beside a server that is slow, absent or locked: nothing is started twice.

The real server's part is in tests/road; here it is made to fail, as nobody can make it at will.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import httpx
import pytest

from pagoda import airflow as client
from pagoda.airflow import Airflow
from pagoda.errors import DependencyDown, InputError, PagodaError
from pagoda.settings import Settings

_LOCKED = "(sqlite3.OperationalError) database is locked"


class Server:
    """Runs by their id; `first` are what it does instead of answering the next POSTs."""

    def __init__(self) -> None:
        self.runs: dict[str, dict[str, object]] = {}
        self.asked: list[str] = []
        self.first: list[Callable[[httpx.Request], httpx.Response | None]] = []
        self.busy_logins = 0
        self.unread = 0  # how often a DAG is asked for before its file has been read
        self.import_errors: list[dict[str, str]] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        """Its answer to a request."""
        path = request.url.path
        if path == "/auth/token":
            self.busy_logins -= 1
            return httpx.Response(500 if self.busy_logins >= 0 else 201, json={"access_token": "t"})
        if request.method == "PATCH":
            self.unread -= 1
            return httpx.Response(404 if self.unread >= 0 else 200, json={"detail": "no DAG"})
        if path == "/api/v2/importErrors":
            return httpx.Response(200, json={"import_errors": self.import_errors})
        if path == "/api/v2/dags":
            return httpx.Response(200, json={"dags": [{"dag_id": "train"}]})
        if request.method == "GET":
            return httpx.Response(200, json=self.runs[path.rsplit("/", 1)[1]])
        body = json.loads(request.content)
        self.asked.append(body["dag_run_id"])
        if self.first and (answer := self.first.pop(0)(request)):
            return answer
        return self.made(body)

    def made(self, body: dict[str, object]) -> httpx.Response:
        """A run, or the refusal of one that is there."""
        run_id = str(body["dag_run_id"])
        if run_id in self.runs:
            return httpx.Response(409, json={"detail": "there already"})
        run = {"dag_id": "ingest", "dag_run_id": run_id, "state": "queued", "run_type": "manual"}
        times = dict.fromkeys(("run_after", "start_date", "end_date"))
        self.runs[run_id] = run | times | {"conf": body["conf"]}
        return httpx.Response(200, json=self.runs[run_id])


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def airflow(
    server: Server, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Airflow]:
    clock = iter(range(10_000))
    quick = SimpleNamespace(sleep=lambda _: None, monotonic=lambda: next(clock))
    monkeypatch.setattr(client, "time", quick)
    with Airflow(settings) as session:
        session._http = httpx.Client(
            base_url="http://airflow", transport=httpx.MockTransport(server)
        )
        yield session


def test_a_run_that_was_made_unheard_is_found_and_not_made_again(
    server: Server, airflow: Airflow
) -> None:
    def made_but_silent(request: httpx.Request) -> httpx.Response:
        server.made(json.loads(request.content))
        raise httpx.ReadTimeout("timed out", request=request)

    server.first = [made_but_silent]
    run = airflow.trigger("ingest", {"days": 3})
    assert list(server.runs) == [run.run_id]
    assert server.asked == [run.run_id] * 2
    assert run.conf == {"days": 3}


def test_a_locked_database_is_asked_again(server: Server, airflow: Airflow) -> None:
    server.first = [lambda _: httpx.Response(500, json={"detail": _LOCKED})] * 3
    run = airflow.trigger("ingest", {})
    assert list(server.runs) == [run.run_id]
    assert server.asked == [run.run_id] * 4


def test_each_run_has_an_id_of_its_own(server: Server, airflow: Airflow) -> None:
    assert airflow.trigger("ingest", {}).run_id != airflow.trigger("ingest", {}).run_id
    assert len(server.runs) == 2


def test_patience_ends(server: Server, airflow: Airflow) -> None:
    server.first = [lambda _: httpx.Response(500, json={"detail": _LOCKED})] * 1_000
    with pytest.raises(PagodaError, match=r"status 500.*database is locked"):
        airflow.trigger("ingest", {})

    def absent(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused", request=request)

    server.first = [absent] * 1_000
    with pytest.raises(DependencyDown, match="airflow does not answer"):
        airflow.trigger("ingest", {})
    assert not server.runs


def test_what_is_refused_is_not_asked_again(server: Server, airflow: Airflow) -> None:
    server.first = [lambda _: httpx.Response(422, json={"detail": "no such parameter"})]
    with pytest.raises(InputError, match="no such parameter"):
        airflow.trigger("ingest", {"dais": 3})
    assert len(server.asked) == 1


def test_a_login_that_a_locked_database_failed_is_asked_again(
    server: Server, airflow: Airflow
) -> None:
    server.busy_logins = 3
    run = airflow.trigger("ingest", {})
    assert list(server.runs) == [run.run_id]
    assert server.busy_logins < 0


def test_a_dag_whose_file_is_still_to_be_read_is_waited_for(
    server: Server, airflow: Airflow
) -> None:
    server.unread = 3
    run = airflow.trigger("ingest", {})
    assert list(server.runs) == [run.run_id]
    assert server.unread < 0


def test_a_dag_that_is_not_there_or_cannot_be_read_is_named(
    server: Server, airflow: Airflow
) -> None:
    server.unread = 1_000
    with pytest.raises(PagodaError, match=r"knows no DAG ingest.*found train"):
        airflow.trigger("ingest", {})
    asked = 1_000 - server.unread
    assert asked > 1
    server.import_errors = [{"filename": "ingest.py", "stack_trace": "SyntaxError: line 3"}]
    with pytest.raises(PagodaError, match=r"ingest.py: SyntaxError: line 3"):
        airflow.trigger("ingest", {})
    assert 1_000 - server.unread == asked + 1, "that file will not be read by waiting"
