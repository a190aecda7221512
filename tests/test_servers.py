"""The local servers by the production `up` and `down`: real programs, real kills."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import httpx
import psutil
import pytest
import redis
from kafka.admin import ConfigResource, ConfigResourceType
from pymilvus import MilvusClient
from pymilvus.exceptions import MilvusException

from pagoda import doctor, servers, topics
from pagoda.errors import DependencyDown, InputError, MachineError
from pagoda.servers import leftovers
from pagoda.settings import PROJECT_ROOT, Settings, load
from tests.conftest import NewHome

pytestmark = pytest.mark.servers


@pytest.fixture
def home(new_home: NewHome) -> Settings:
    return new_home()


@pytest.fixture
def busy_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def test_up_again_changes_nothing_and_down_leaves_no_process(home: Settings) -> None:
    running = servers.up(home, ["redis", "kafka"])
    before = leftovers.of(home.home)
    assert servers.up(home, ["redis", "kafka"]) == running == load(home=home.home)
    assert leftovers.of(home.home) == before
    assert set(before.values()) == {"redis", "kafka", "supervisord"}

    with topics.admin(running) as client:
        wanted = [ConfigResource(ConfigResourceType.TOPIC, name) for name in running.kafka.topics]
        stamps = client.describe_configs(wanted, config_filter="all")["topic"]
    assert {each["message.timestamp.type"]["value"] for each in stamps.values()} == {
        "LogAppendTime"
    }

    servers.down(home)
    assert leftovers.of(home.home) == {}
    assert not any(map(lives, before))
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((running.redis.host, running.redis.port))


def test_down_works_when_the_supervisor_was_killed(home: Settings) -> None:
    servers.up(home, ["redis"])
    (supervisor,) = [pid for pid, name in leftovers.of(home.home).items() if name == "supervisord"]
    os.kill(supervisor, signal.SIGKILL)
    wait_until(lambda: supervisor not in leftovers.of(home.home))
    assert health(home, "redis").state == "orphaned"
    servers.down(home)
    assert leftovers.of(home.home) == {}


def test_a_killed_redis_is_started_again_with_its_data(home: Settings) -> None:
    running = servers.up(home, ["redis"])
    with client_of(running) as client:
        client.set("kept", "yes")
    time.sleep(1.2)  # the append-only file is synced every second
    (killed,) = health(running, "redis").pids
    os.kill(killed, signal.SIGKILL)
    wait_until(lambda: health(running, "redis").ready)
    assert health(running, "redis").pids != (killed,)
    with client_of(running) as client:
        assert client.get("kept") == b"yes"


def test_a_young_server_that_does_not_answer_is_starting_and_nothing_to_mend(
    home: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = servers.up(home, ["redis"])
    (pid,) = health(running, "redis").pids
    os.kill(pid, signal.SIGSTOP)
    monkeypatch.setenv("PAGODA_HOME", str(home.home))
    try:
        assert health(running, "redis").state == "starting"
        (found,) = [each for each in doctor.examine() if each.name == "redis"]
        assert found.state == "ok"
    finally:
        os.kill(pid, signal.SIGCONT)


def test_a_taken_port_is_left_for_another_that_stays(
    home: Settings,
) -> None:
    running = servers.up(home, ["redis"])
    servers.down(home)
    with socket.create_server(("127.0.0.1", running.redis.port)):
        moved = servers.up(load(home=home.home), ["redis"])
    assert moved.redis.port != running.redis.port
    servers.down(home)
    assert servers.up(load(home=home.home), ["redis"]).redis.port == moved.redis.port


def test_a_homes_ports_stay_its_own_while_its_supervisor_lives(new_home: NewHome) -> None:
    first, second = new_home(), new_home()
    held = servers.up(first, ["redis"]).redis.port
    servers.down(first, ["redis"])  # as if it had been killed: nobody listens
    other = servers.up(second, ["redis"]).redis.port
    assert other != held
    assert servers.up(load(home=first.home), ["redis"]).redis.port == held
    servers.down(first)
    servers.down(second, ["redis"])
    assert servers.up(load(home=second.home), ["redis"]).redis.port == other


def test_homes_that_start_together_share_no_port(new_home: NewHome) -> None:
    homes = [new_home() for _ in range(3)]
    with ThreadPoolExecutor() as pool:
        running = list(pool.map(lambda home: servers.up(home, ["redis"]), homes))
    assert len({each.redis.port for each in running}) == len(homes)


def test_settings_loaded_before_a_port_moved_still_find_the_server(home: Settings) -> None:
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # somebody else holds it: as good
            stack.enter_context(socket.create_server(("127.0.0.1", home.redis.port)))
        moved = servers.up(home, ["redis"])
    assert moved.redis.port != home.redis.port
    assert health(home, "redis").ready
    assert servers.up(home, ["redis"]) == moved


def test_a_port_that_the_user_chose_is_not_moved(home: Settings, busy_port: int) -> None:
    (home.home / "settings.toml").write_text(f"[redis]\nport = {busy_port}\n")
    with pytest.raises(MachineError, match=rf"port {busy_port}.*process {os.getpid()}"):
        servers.up(load(home=home.home), ["redis"])


def test_secrets_are_for_the_owner_only(home: Settings) -> None:
    running = servers.up(home, ["redis"])
    password = running.redis_password()
    holding = [
        path
        for path in home.home.rglob("*")
        if path.is_file() and not path.is_symlink() and password in path.read_text("latin-1")
    ]
    assert {path.name for path in holding} == {"redis", "redis.conf"}
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in holding)
    said = [" ".join(psutil.Process(pid).cmdline()) for pid in leftovers.of(home.home)]
    assert not any(password in each for each in said)
    with pytest.raises(redis.AuthenticationError):
        redis.Redis(port=running.redis.port).ping()


def test_a_server_that_dies_at_start_shows_its_last_words(home: Settings) -> None:
    (home.data("redis") / "appendonly.aof").write_text("this is no append-only file\n")
    with pytest.raises(MachineError, match=r"(?s)redis\.log.*Bad file format"):
        servers.up(home, ["redis"])
    assert health(home, "redis").state in ("stopped", "failed")
    (home.data("redis") / "appendonly.aof").unlink()
    servers.up(home, ["redis"])


def test_status_says_where_each_server_is(home: Settings) -> None:
    servers.up(home, ["redis"])
    said = json.loads(pagoda(home, "status", "--json").stdout)
    of_redis = next(each for each in said["servers"] if each["name"] == "redis")
    assert of_redis["state"] == "ready"
    assert of_redis["memory_mb"] > 0
    assert of_redis["uptime_s"] >= 0
    assert Path(of_redis["logs"][0]).read_text()
    assert of_redis["address"] == f"127.0.0.1:{load(home=home.home).redis.port}"
    assert next(each for each in said["servers"] if each["name"] == "kafka")["state"] == "stopped"
    assert "data/redis" in [each["folder"] for each in said["disk"]]


def test_external_servers_are_asked_and_never_started(
    home: Settings, busy_port: int, redis_server: Settings
) -> None:
    password = redis_server.redis_password()
    there = load(
        home=home.home,
        servers="external",
        redis={"port": redis_server.redis.port, "password": password},
        kafka={"bootstrap_servers": "127.0.0.1:1"},
    )
    servers.up(there)
    assert leftovers.of(home.home) == {}
    assert (health(there, "redis").state, health(there, "redis").ready) == ("external", True)
    assert (health(there, "kafka").state, health(there, "kafka").ready) == ("external", False)


def test_up_asks_a_server_whose_address_is_elsewhere(home: Settings) -> None:
    elsewhere = load(home=home.home, redis={"host": "redis.invalid"})
    with pytest.raises(DependencyDown, match=r"redis does not answer: redis\.invalid"):
        servers.up(elsewhere, ["redis"])
    assert leftovers.of(home.home) == {}


def test_an_unknown_server_is_named(home: Settings) -> None:
    with pytest.raises(InputError, match="rediss"):
        servers.up(home, ["redis", "rediss"])


@pytest.mark.parametrize("options", ["ro,size=4m", "size=16k"], ids=["read-only", "full"])
def test_a_folder_that_cannot_be_written_is_named_and_up_works_once_it_can(
    home: Settings, options: str
) -> None:
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(home.data("redis"))],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"needs the right to mount a folder: {mounted.stderr.strip()}")
    try:
        fill(home.data("redis"))
        with pytest.raises(MachineError, match=str(home.data("redis"))):
            servers.up(home, ["redis"])
    finally:
        subprocess.run(["umount", str(home.data("redis"))], check=True)
    servers.up(home, ["redis"])


def test_milvus_refuses_the_password_it_was_born_with(milvus_server: Settings) -> None:
    for password in ("Milvus", "", "wrong"):
        with pytest.raises((MilvusException, grpc.RpcError)):
            collections_of(milvus_server, password)


def test_milvus_takes_the_password_that_was_made_for_it(milvus_server: Settings) -> None:
    assert collections_of(milvus_server, milvus_server.milvus_password()) is not None


def test_two_milvus_run_side_by_side_and_one_survives_a_kill(
    home: Settings, milvus_server: Settings
) -> None:
    other = servers.up(home, ["milvus"])
    assert other.milvus.uri != milvus_server.milvus.uri
    with pytest.raises((MilvusException, grpc.RpcError)):
        collections_of(other, milvus_server.milvus_password())
    (killed,) = health(other, "milvus").pids
    os.kill(killed, signal.SIGKILL)
    wait_until(lambda: health(other, "milvus").pids not in ((), (killed,)))
    assert servers.up(other, ["milvus"]) == other
    servers.down(home)
    assert health(milvus_server, "milvus").ready


@pytest.mark.airflow
def test_airflow_is_whole_private_and_on_loopback(airflow_server: Settings) -> None:
    api = httpx.Client(base_url=airflow_server.airflow.url, timeout=30)
    parts = api.get("/api/v2/monitor/health").json()
    assert {part["status"] for part in parts.values()} == {"healthy"}
    wrong = {"username": airflow_server.airflow.user, "password": "admin"}
    assert api.post("/auth/token", json=wrong).status_code == httpx.codes.UNAUTHORIZED
    assert api.get("/api/v2/dags").status_code == httpx.codes.UNAUTHORIZED

    right = wrong | {"password": airflow_server.airflow_password()}
    api.headers["Authorization"] = (
        f"Bearer {api.post('/auth/token', json=right).json()['access_token']}"
    )
    assert api.get("/api/v2/pools/spark").json()["slots"] == 1
    listening = {
        connection.laddr[0]
        for pid in health(airflow_server, "airflow").pids
        for connection in psutil.Process(pid).net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening == {"127.0.0.1"}
    passwords = airflow_server.data("airflow") / "passwords.json"
    assert stat.S_IMODE(passwords.stat().st_mode) == 0o600


def health(settings: Settings, name: str) -> servers.Health:
    return next(each for each in servers.status(settings) if each.name == name)


def lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def client_of(settings: Settings) -> redis.Redis:
    return redis.Redis(port=settings.redis.port, password=settings.redis_password())


def collections_of(settings: Settings, password: str) -> list[str]:
    uri, user = settings.milvus.uri, settings.milvus.user
    client = MilvusClient(uri, user=user, password=password, timeout=3, dedicated=True)
    try:
        return client.list_collections()
    finally:
        client.close()


def pagoda(home: Settings, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pagoda.cli.main", *arguments],
        env={**os.environ, "PAGODA_HOME": str(home.home)},
        cwd=PROJECT_ROOT,
        capture_output=True,
        text=True,
        check=True,
    )


def fill(folder: Path) -> None:
    """Leave no byte free; a read-only folder is left as it is."""
    try:
        with (folder / "filler").open("wb", buffering=0) as file:
            while True:
                file.write(b"x" * 4096)
    except OSError:
        return


def wait_until(condition: Callable[[], bool], within_s: float = 60) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.2)
