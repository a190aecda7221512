"""Airflow's four components, from its own environment, on SQLite and loopback."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import time
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from pagoda import jars, java, whole
from pagoda.errors import MachineError
from pagoda.servers.program import (
    PYTHON,
    NotYet,
    Port,
    Ports,
    Process,
    Server,
    settings_environment,
)
from pagoda.settings import PROJECT_ROOT, Settings, secret

_COMPONENTS = {
    "api-server": ("api-server",),
    # All read the logs from one folder; serving them would open a port on every interface.
    "scheduler": ("scheduler", "--skip-serve-logs"),
    "dag-processor": ("dag-processor",),
    "triggerer": ("triggerer", "--skip-serve-logs"),
}
_HEALTH = ("metadatabase", "scheduler", "triggerer", "dag_processor")
SPARK_POOL = "spark"
_KEEP_LOGS_DAYS = 30
_SYSTEM = ("/usr/local/bin", "/usr/bin", "/bin")


def environment(settings: Settings) -> dict[str, str]:
    """What any Airflow command needs to work on this installation."""
    home = settings.data("airflow")
    url = settings.airflow.url.rstrip("/")
    address = urlsplit(url)
    options = {
        "CORE__DAGS_FOLDER": PROJECT_ROOT / "dags",
        "CORE__LOAD_EXAMPLES": False,
        "CORE__EXECUTOR": "LocalExecutor",
        "CORE__PARALLELISM": max(4, os.cpu_count() or 1),
        "CORE__DAGS_ARE_PAUSED_AT_CREATION": True,
        "CORE__AUTH_MANAGER": (
            "airflow.api_fastapi.auth.managers.simple.simple_auth_manager.SimpleAuthManager"
        ),
        "CORE__SIMPLE_AUTH_MANAGER_USERS": f"{settings.airflow.user}:admin",
        "CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": home / "passwords.json",
        "CORE__EXECUTION_API_SERVER_URL": f"{url}/execution/",
        "CORE__FERNET_KEY": _fernet_key(secret(settings.home, "airflow-fernet")),
        "API__HOST": address.hostname,
        "API__PORT": address.port,
        "API__BASE_URL": url,
        "API__WORKERS": 1,
        "API__SECRET_KEY": secret(settings.home, "airflow-api"),
        "API_AUTH__JWT_SECRET": hashlib.sha512(
            secret(settings.home, "airflow-jwt").encode()
        ).hexdigest(),
        # Seconds to wait for another component's write: a busy machine takes more than SQLite's 5,
        # and workers give a silent API server up after some 30 (`pagoda.airflow.Airflow`).
        "DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db?timeout=20",
        "LOGGING__BASE_LOG_FOLDER": settings.logs / "airflow",
        "LOGGING__DAG_PROCESSOR_CHILD_PROCESS_LOG_DIRECTORY": settings.logs / "airflow" / "parsed",
        # Reading the DAG files takes seconds of CPU.
        "DAG_PROCESSOR__REFRESH_INTERVAL": 60,
        "DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": 60,
        "DAG_PROCESSOR__PARSING_PROCESSES": 1,
        **settings.airflow.options,
    }
    return {
        **settings_environment(),
        **{f"AIRFLOW__{name}": str(value) for name, value in options.items()},
        "AIRFLOW_HOME": str(home),
        "AIRFLOW_CONN_PAGODA_KAFKA": _kafka(settings),
        "PAGODA_KAFKA__ITEMS_TOPIC": settings.kafka.items_topic,
        "PAGODA_HOME": str(settings.home),
        "PAGODA_PYTHON": PYTHON,
        "PYSPARK_PYTHON": PYTHON,
        "SPARK_HOME": str(jars.spark_home()),
        "PYTHONPATH": str(PROJECT_ROOT),
        # Not the shell's PATH: `up` from another shell would find Airflow changed.
        "PATH": os.pathsep.join(
            [str(settings.airflow.environment / "bin"), str(java.find().binary.parent), *_SYSTEM]
        ),
        # Airflow renames its processes: leave /proc/<pid>/environ, by which `down` finds them.
        "SPT_NOENV": "1",
    }


def _kafka(settings: Settings) -> str:
    """The connection `pagoda_kafka`; the group's offsets outlive Airflow, so nothing is missed."""
    client = {
        "bootstrap.servers": settings.kafka.bootstrap_servers,
        "group.id": f"airflow-{settings.kafka.items_topic}",
        "auto.offset.reset": "earliest",
        "enable.auto.commit": False,  # the trigger does
        "reconnect.backoff.ms": 2_000,  # a Kafka that is away fills the log otherwise
    }
    return json.dumps({"conn_type": "kafka", "extra": client})


def _fernet_key(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _prepare(settings: Settings, _ports: Ports) -> tuple[Process, ...]:
    binary = settings.airflow.environment / "bin" / "airflow"
    if not binary.exists():
        raise MachineError(
            "Airflow's environment is not there",
            where=str(settings.airflow.environment),
            next_step="Run `make setup`, or name another one in airflow.environment.",
        )
    home = settings.data("airflow")
    env = environment(settings)
    passwords = json.dumps({settings.airflow.user: settings.airflow_password()})
    whole.write(home / "passwords.json", passwords, private=True)
    _migrate(settings, binary, env)
    _forget_old_logs(settings.logs / "airflow")
    return tuple(
        Process(
            name=f"airflow-{name}",
            command=(str(binary), *arguments),
            cwd=home,
            env=env,
            config=passwords,
        )
        for name, arguments in _COMPONENTS.items()
    )


def _migrate(settings: Settings, binary: Path, env: dict[str, str]) -> None:
    """Bring the database to this version of Airflow; costs 15 s, so once a version."""
    done_for = settings.data("airflow") / "migrated-for"
    lock = PROJECT_ROOT / "requirements" / "airflow.lock"
    database = env["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"]
    release = lock.read_bytes() if lock.exists() else bytes(binary)
    version = hashlib.sha256(release + database.encode()).hexdigest()
    there = not database.startswith("sqlite") or Path(urlsplit(database).path[1:]).exists()
    if there and done_for.exists() and done_for.read_text() == version:
        return
    done = subprocess.run(
        [str(binary), "db", "migrate"],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise MachineError(
            "Airflow's database could not be made or migrated",
            where=database.rpartition("@")[2],
            found=(done.stderr or done.stdout).strip()[-1000:],
        )
    done_for.write_text(version)


def _forget_old_logs(folder: Path) -> None:
    """Airflow keeps the logs of tasks and of reading DAGs for ever; the supervisor has no part."""
    oldest = time.time() - _KEEP_LOGS_DAYS * 86_400
    for path in folder.rglob("*.log"):
        if path.lstat().st_mtime < oldest:
            path.unlink(missing_ok=True)


def _probe(settings: Settings) -> None:
    try:
        answer = httpx.get(f"{settings.airflow.url}/api/v2/monitor/health", timeout=5)
        parts = answer.raise_for_status().json()
    except httpx.HTTPError as error:
        raise NotYet(str(error)) from error
    waiting = [name for name in _HEALTH if (parts.get(name) or {}).get("status") != "healthy"]
    if waiting:
        raise NotYet(f"not healthy yet: {', '.join(waiting)}")


def _settle(settings: Settings) -> None:
    """One slot for Spark: two Spark jobs do not fit a laptop."""
    url = settings.airflow.url.rstrip("/")
    with httpx.Client(base_url=url, timeout=30) as client:
        user = {"username": settings.airflow.user, "password": settings.airflow_password()}
        token = client.post("/auth/token", json=user).raise_for_status().json()["access_token"]
        client.headers["Authorization"] = f"Bearer {token}"
        if client.get(f"/api/v2/pools/{SPARK_POOL}").status_code == httpx.codes.OK:
            return
        pool = {"name": SPARK_POOL, "slots": 1, "description": "One Spark job at a time."}
        client.post("/api/v2/pools", json=pool).raise_for_status()


def _address(settings: Settings) -> tuple[str, int]:
    url = urlsplit(settings.airflow.url)
    return url.hostname or "", url.port or 80


SERVER = Server(
    name="airflow",
    title="Airflow, the orchestrator",
    prepare=_prepare,
    probe=_probe,
    settle=_settle,
    address=_address,
    ports=(
        Port(
            name="api",
            default=18080,
            setting=("airflow", "url"),
            form="http://127.0.0.1:{port}",
        ),
    ),
    needs=("kafka",),
    grace_s=20,
    start_within_s=300,
)
