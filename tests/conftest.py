"""Fixtures that rooms share: one PAGODA_HOME, one Spark session, one set of servers for all tests.

The servers are the production ones, started by the production `up`; they end with the session,
however that ends (`tests.guard`). Rooms keep their own fixtures in their own folders.

`make test` runs two sessions at once, `Lanes`, each with servers and a Spark of its own: tests
often wait for a server, and leave the other session a core.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest
from playwright.sync_api import sync_playwright
from xdist.scheduler import LoadScopeScheduling

from pagoda import jars, lake, servers
from pagoda import spark as pagoda_spark
from pagoda.settings import PROJECT_ROOT, Lake, Settings, home_folder, load

if TYPE_CHECKING:
    from playwright.sync_api import Browser
    from pyspark.sql import SparkSession

# Small enough for two cores with everything running; the environment so that what tests start as
# processes has the same.
SMALL = {
    "PAGODA_SPARK__MASTER": "local[2]",
    "PAGODA_SPARK__DRIVER_MEMORY": "2g",
    "PAGODA_SPARK__SHUFFLE_PARTITIONS": "2",
    # Short queries spend more on optimising Java's bytecode than they get back: half the CPU. Java
    # then reserves too little room for the code of all tests' queries, and fails when it is full.
    "PAGODA_SPARK__CONF": '{"spark.driver.extraJavaOptions": '
    '"-XX:TieredStopAtLevel=1 -XX:ReservedCodeCacheSize=240m"}',
    "PAGODA_STREAM__METRICS_PORT": "0",
}
# Headless, as root too, and asking nothing of the network.
CHROMIUM_ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
# A busy machine is no reason to fail.
hypothesis.settings.register_profile(
    "pagoda", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
# `make mutate`: the same examples for every mutant, and a failure need not be made small.
for name, max_examples in (("mutation", 12), ("mutation-thorough", 80)):
    hypothesis.settings.register_profile(
        name,
        hypothesis.settings.get_profile("pagoda"),
        derandomize=True,
        database=None,
        max_examples=max_examples,
        phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],
    )
# pytest-xdist's; what programs print here goes into logs. Before a room's own conftest is imported,
# whose consoles would take it for a terminal's.
os.environ.pop("COLUMNS", None)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "pagoda"))
# One lane of `make test`; all other rooms are the second, which takes about as long.
ROAD = {"road", "dags", "serving", "index", "bench", "test_servers.py", "test_stages.py"}
NewHome = Callable[[], Settings]
Home = Callable[[str], Settings]
_FETCHED = load(home=home_folder())


def pytest_configure() -> None:
    """A polite kill ends the servers too, as Ctrl-C does."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The road first: its servers end with it, a session's own stay, and idle at half a core.

    `make mutate` wants to know soon: the quickest tests first, by what mutmut has measured.
    Who has a fixture that starts Spark is marked so, whatever else it says.
    """
    for item in items:
        if "spark" in getattr(item, "fixturenames", ()):
            item.add_marker("spark")
    items.sort(key=lambda item: _room(item.nodeid) != "road")
    measured = Path("mutmut-stats.json")  # it runs the tests in its folder
    if measured.exists():
        seconds = json.loads(measured.read_text())["duration_by_test"]
        items.sort(key=lambda item: seconds.get(item.nodeid, 0.0))


class Lanes(LoadScopeScheduling):
    """Of pytest-xdist: each of its two workers has a lane, and runs it in order."""

    def _split_scope(self, nodeid: str) -> str:
        return "road" if _room(nodeid) in ROAD else "rooms"


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Lanes:
    """What `pytest -n 2` runs where."""
    return Lanes(config, log)


@pytest.fixture(scope="session")
def new_home() -> Iterator[NewHome]:
    """Makes settings with an empty PAGODA_HOME of their own; its servers end with the session."""
    with ExitStack() as stack:
        yield lambda: stack.enter_context(_Home())


@pytest.fixture(scope="session")
def settings(new_home: NewHome) -> Iterator[Settings]:
    """Settings of the session's PAGODA_HOME, which is also that of processes that tests start."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("PAGODA_")]:
            patch.delenv(name)
        for name, value in SMALL.items():
            patch.setenv(name, value)
        made = new_home()
        patch.setenv("PAGODA_HOME", str(made.home))
        yield made


@pytest.fixture(scope="session")
def spark(settings: Settings) -> Iterator[SparkSession]:
    """The one Spark session of all tests."""
    with pagoda_spark.session(settings, "tests") as session:
        yield session


@pytest.fixture(scope="session")
def home(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Home:
    """Makes an installation whose tables the session's Spark reaches, but no other room's do."""

    def make(namespace: str) -> Settings:
        folder: Path = tmp_path_factory.mktemp(namespace)
        (folder / "lake").symlink_to(settings.lake_folder)
        (folder / "jars").symlink_to(settings.jars)
        made = settings.model_copy(update={"home": folder, "lake": Lake(namespace=namespace)})
        lake.create_all(made)
        return made

    return make


@pytest.fixture(scope="session")
def redis_server(settings: Settings) -> Settings:
    """Settings with a running Redis in them."""
    return servers.up(settings, ["redis"])


@pytest.fixture(scope="session")
def kafka_server(settings: Settings) -> Settings:
    """Settings with a running Kafka in them."""
    return servers.up(settings, ["kafka"])


@pytest.fixture(scope="session")
def milvus_server(settings: Settings) -> Settings:
    """Settings with a running Milvus in them."""
    return servers.up(settings, ["milvus"])


@pytest.fixture(scope="session")
def airflow_server(settings: Settings) -> Settings:
    """Settings with a running Airflow in them: all components, the DAGs of this checkout."""
    binary = settings.airflow.environment / "bin" / "airflow"
    if not binary.exists():
        pytest.skip(f"no {binary}: `make setup` makes Airflow's environment")
    return servers.up(settings, ["airflow"])


@pytest.fixture(scope="session", name="servers")
def all_servers(settings: Settings) -> Settings:
    """Settings with running Kafka, Redis and Milvus in them."""
    return servers.up(settings, ["kafka", "redis", "milvus"])


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """The system's own Chromium, headless: one for all tests, as Playwright allows only one."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("chromium is not there; Debian/Ubuntu: apt install chromium")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium, args=CHROMIUM_ARGUMENTS)
        yield opened
        opened.close()


def artefact(name: str) -> Path:
    """A place in artefacts/, which git ignores, for what a person may want to look at."""
    folder = PROJECT_ROOT / "artefacts"
    folder.mkdir(exist_ok=True)
    return folder / re.sub(r"[^\w.-]", "_", name)


def _room(nodeid: str) -> str:
    """The folder of a test, or its file where it lies in none."""
    return nodeid.removeprefix("tests/").split("/")[0].split("::")[0]


class _Home:
    """A PAGODA_HOME in a short path, with the jars that `make setup` fetched."""

    def __enter__(self) -> Settings:
        path = Path(tempfile.mkdtemp(prefix="pagoda-"))
        self._guard = subprocess.Popen(
            [sys.executable, "-m", "tests.guard", path],
            cwd=PROJECT_ROOT,
            stdin=subprocess.PIPE,
            start_new_session=True,
        )
        jars.fetch(_FETCHED)
        (path / "jars").symlink_to(_FETCHED.jars)
        return load(home=path)

    def __exit__(self, *_: object) -> None:
        self._guard.communicate()
        assert self._guard.returncode == 0
