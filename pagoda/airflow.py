"""A small client of Airflow's REST API v2: trigger a DAG, follow it and what its assets start.

Runs chain by assets: a run that succeeds may start runs of other DAGs. `follow` finds them, so that
a person can watch the whole road by its first run.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from pagoda.errors import DependencyDown, InputError, PagodaError
from pagoda.settings import Settings

FINISHED = ("success", "failed")
_TIMEOUT_S = 30
_ABSENT_S = 120  # a busy machine, a restarted API server
_ABSENT_POLL_S = 1.0
_START_WITHIN_S = 60  # an asset starts its DAGs in about a second
_READ_WITHIN_S = 60  # the DAG processor is healthy before it has read every file


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run of a DAG.

    Attributes:
        state: queued, running, success or failed.
        kind: manual, scheduled, asset_triggered or backfill.
        conf: the parameters it was triggered with.
    """

    dag: str
    run_id: str
    state: str
    kind: str = ""
    conf: Mapping[str, Any] = field(default_factory=dict)
    created_at: datetime | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None

    @property
    def finished(self) -> bool:
        """Whether its state is final."""
        return self.state in FINISHED

    @property
    def seconds(self) -> float | None:
        """How long it took; None before its end."""
        if self.started_at is None or self.ended_at is None:
            return None
        return (self.ended_at - self.started_at).total_seconds()


@dataclass(frozen=True, kw_only=True)
class Task:
    """One task of a run, at its latest try."""

    task_id: str
    state: str | None
    try_number: int
    started_at: datetime | None = None
    ended_at: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class Progress:
    """A run of a chain as last seen; settled when it has ended and what it starts is known."""

    run: Run
    tasks: list[Task] = field(default_factory=list)
    settled: bool = False


@dataclass(frozen=True, kw_only=True)
class Started:
    """Whether a run renewed an asset, and the runs which that has started."""

    renewed: bool
    runs: list[Run]


class _NotNow(Exception):
    """The server is there and did not do it."""


class Airflow:
    """A session with Airflow's API server; a context manager.

    Raises, in every method: DependencyDown if the server does not answer, PagodaError if it
    refuses.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._http = httpx.Client(base_url=settings.airflow.url, timeout=_TIMEOUT_S)
        self._answered = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._http.close()

    def healthy(self) -> bool:
        """Whether scheduler and DAG processor report that they work."""
        try:
            parts = self._http.get("/api/v2/monitor/health").raise_for_status().json()
        except httpx.HTTPError:
            return False
        return all(parts[name]["status"] == "healthy" for name in ("scheduler", "dag_processor"))

    def dags(self) -> list[str]:
        """Every DAG that the DAG processor has read."""
        return sorted(dag["dag_id"] for dag in self._get("/dags", limit=1000)["dags"])

    def import_errors(self) -> dict[str, str]:
        """DAG file to the error that reading it raised."""
        errors = self._get("/importErrors")["import_errors"]
        return {error["filename"]: error["stack_trace"] for error in errors}

    def trigger(self, dag: str, params: Mapping[str, Any]) -> Run:
        """Start a run of `dag` now. Raises: InputError if Airflow refuses the parameters."""
        self._wake(dag)
        # The run's id is made here: whoever asks again starts no second one.
        run_id = f"manual__{datetime.now(UTC).isoformat()}_{secrets.token_hex(4)}"
        body = {"dag_run_id": run_id, "logical_date": None, "conf": dict(params)}
        answer = self._request("POST", f"/dags/{dag}/dagRuns", json=body)
        if answer.status_code == httpx.codes.CONFLICT:
            return self.run(Run(dag=dag, run_id=run_id, state="queued"))
        return _run(_body(answer))

    def pause(self, dag: str) -> None:
        """Let no schedule and no asset start `dag`."""
        self._call("PATCH", f"/dags/{dag}", json={"is_paused": True})

    def run(self, run: Run) -> Run:
        """The same run as it stands now."""
        return _run(self._get(f"/dags/{run.dag}/dagRuns/{run.run_id}"))

    def runs(self, dag: str, *, limit: int = 20) -> list[Run]:
        """The newest runs of a DAG, newest first."""
        found = self._get(f"/dags/{dag}/dagRuns", order_by="-run_after", limit=limit)
        return [_run(each) for each in found["dag_runs"]]

    def tasks(self, run: Run) -> list[Task]:
        """The run's tasks in the order they started; those still to come last."""
        found = self._get(f"/dags/{run.dag}/dagRuns/{run.run_id}/taskInstances")
        tasks = [
            Task(
                task_id=each["task_id"],
                state=each["state"],
                try_number=each["try_number"],
                started_at=_time(each["start_date"]),
                ended_at=_time(each["end_date"]),
            )
            for each in found["task_instances"]
        ]
        return sorted(
            tasks, key=lambda task: (task.started_at is None, str(task.started_at), task.task_id)
        )

    def log(self, run: Run, task: Task) -> list[str]:
        """The lines of the task's latest try; none before its first."""
        if not task.try_number:
            return []
        path = f"/dags/{run.dag}/dagRuns/{run.run_id}/taskInstances/{task.task_id}/logs"
        found = self._get(f"{path}/{task.try_number}", full_content="true")
        return [line for entry in found["content"] for line in _lines(entry)]

    def xcom(self, run: Run, task_id: str, key: str) -> Any:
        """What a task of the run has left under that key."""
        path = f"/dags/{run.dag}/dagRuns/{run.run_id}/taskInstances/{task_id}/xcomEntries/{key}"
        return self._get(path, deserialize="false", stringify="false")["value"]

    def consumers(self, dag: str) -> set[str]:
        """The DAGs that the assets of `dag` start; a paused DAG starts for nothing."""
        awake = {each["dag_id"] for each in self._get("/dags", paused="false", limit=1000)["dags"]}
        return awake & {
            consumer["dag_id"]
            for asset in self._get("/assets", dag_ids=dag)["assets"]
            if any(task["dag_id"] == dag for task in asset["producing_tasks"])
            for consumer in asset["scheduled_dags"]
        }

    def started_by(self, run: Run) -> Started | None:
        """What the run's assets have started so far; None while Airflow cannot say.

        Airflow 3.3 answers 500 as long as a started run is queued (it has no start date yet).
        """
        params = {"source_dag_id": run.dag, "source_run_id": run.run_id}
        answer = self._request("GET", "/assets/events", params=params)
        if answer.status_code == httpx.codes.INTERNAL_SERVER_ERROR:
            return None
        events = _body(answer)["asset_events"]
        runs = [
            Run(dag=created["dag_id"], run_id=created["run_id"], state="queued")
            for event in events
            for created in event["created_dagruns"]
        ]
        return Started(renewed=bool(events), runs=runs)

    def _wake(self, dag: str) -> None:
        """Unpause `dag`, as soon as its file has been read: Airflow may have just started."""
        give_up_at = time.monotonic() + _READ_WITHIN_S
        while True:
            answer = self._request("PATCH", f"/dags/{dag}", json={"is_paused": False})
            if answer.status_code != httpx.codes.NOT_FOUND:
                _body(answer)
                return
            errors = self.import_errors()
            if any(Path(file).stem == dag for file in errors) or time.monotonic() >= give_up_at:
                raise PagodaError(
                    f"Airflow knows no DAG {dag}",
                    where=self._settings.airflow.url,
                    found=", ".join(self.dags()) or "none",
                    next_step="See whether the file is in its folder of DAGs and can be read.",
                    problems=[f"{file}: {text[-1000:]}" for file, text in errors.items()],
                )
            time.sleep(_ABSENT_POLL_S)

    def _get(self, path: str, **params: Any) -> dict[str, Any]:
        return self._call("GET", path, params=params)

    def _call(self, method: str, path: str, **arguments: Any) -> dict[str, Any]:
        return _body(self._request(method, path, **arguments))

    def _request(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        """Send it, and once the server has answered, again if it is absent for a short while.

        On SQLite a writer that waits for another's lock can keep the API server from ending the
        other's request: none is answered until the wait is over, and what then fails with a
        status of 500 was not done. Whatever is asked here may be asked twice. To reading, 500 is an
        answer (`started_by`).
        """
        began = time.monotonic()

        def late() -> bool:
            return time.monotonic() >= began + (_ABSENT_S if self._answered else 0)

        while True:
            try:
                answer = self._send(method, path, **arguments)
            except (httpx.TransportError, _NotNow) as error:
                if late():
                    where = self._settings.airflow.url
                    raise DependencyDown("airflow", f"{where}: {error}") from error
            else:
                self._answered = True
                if method == "GET" or late() or not answer.is_server_error:
                    return answer
            time.sleep(_ABSENT_POLL_S)

    def _send(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        if "Authorization" not in self._http.headers:
            self._log_in()
        answer = self._http.request(method, f"/api/v2{path}", **arguments)
        if answer.status_code == httpx.codes.UNAUTHORIZED:  # the token has a life of a day
            self._log_in()
            answer = self._http.request(method, f"/api/v2{path}", **arguments)
        return answer

    def _log_in(self) -> None:
        credentials = {
            "username": self._settings.airflow.user,
            "password": self._settings.airflow_password(),
        }
        answer = self._http.post("/auth/token", json=credentials)
        self._answered = True
        if answer.is_server_error:  # nobody was refused: the database is busy
            raise _NotNow(f"the login answered {answer.status_code}")
        if not answer.is_success:
            raise PagodaError(
                "Airflow refused the login",
                where=self._settings.airflow.url,
                found=f"user {self._settings.airflow.user}, status {answer.status_code}",
                next_step="Set airflow.user and airflow.password to what that server expects.",
            )
        self._http.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"


def follow(airflow: Airflow, first: Run, *, poll_s: float = 1.0) -> Iterator[list[Progress]]:
    """Follow a run and every run that its assets start, until all have ended.

    Yields: after each look, all runs of the chain so far with their tasks, oldest first.
    """
    chain = {first.run_id: Progress(run=first)}
    while True:
        for progress in list(chain.values()):
            if progress.settled:
                continue
            run = airflow.run(progress.run)
            settled, started = _look_ahead(airflow, run)
            chain[run.run_id] = Progress(run=run, tasks=airflow.tasks(run), settled=settled)
            for each in started:
                chain.setdefault(each.run_id, Progress(run=each))
        yield list(chain.values())
        if all(progress.settled for progress in chain.values()):
            return
        time.sleep(poll_s)


def _look_ahead(airflow: Airflow, run: Run) -> tuple[bool, list[Run]]:
    """Whether all that `run` starts is known, and what it has started."""
    if run.state != "success":
        return run.finished, []
    started = airflow.started_by(run)
    if started is None:
        return False, []
    expected = airflow.consumers(run.dag) if started.renewed else set()
    missing = expected - {each.dag for each in started.runs}
    late = run.ended_at and (datetime.now(UTC) - run.ended_at).total_seconds() > _START_WITHIN_S
    return not missing or bool(late), started.runs


def _lines(entry: Any) -> Iterator[str]:
    """A log entry as lines of text; of an exception only what it says."""
    if isinstance(entry, str):
        yield entry
        return
    if not entry["event"].startswith("::"):
        yield entry["event"]
    for error in entry.get("error_detail") or ():
        yield f"{error['exc_type']}: {error['exc_value']}"


def _body(answer: httpx.Response) -> dict[str, Any]:
    if answer.is_success:
        return dict(answer.json())
    try:
        detail = str(answer.json().get("detail", answer.text))
    except ValueError:
        detail = answer.text
    where = f"{answer.request.method} {answer.request.url.path}"
    if answer.status_code in (httpx.codes.BAD_REQUEST, httpx.codes.UNPROCESSABLE_ENTITY):
        raise InputError("Airflow refused the parameters", where=where, problems=[detail])
    raise PagodaError(
        f"Airflow refused with status {answer.status_code}", where=where, found=detail[:500]
    )


def _run(found: Mapping[str, Any]) -> Run:
    return Run(
        dag=found["dag_id"],
        run_id=found["dag_run_id"],
        state=found["state"],
        kind=found["run_type"],
        conf=found["conf"] or {},
        created_at=_time(found["run_after"]),
        started_at=_time(found["start_date"]),
        ended_at=_time(found["end_date"]),
    )


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
