"""The whole road once, on a small real slice: every server, every DAG, the search service.

120 real households go through Airflow with the tiny recipe; all tests here look at what came out.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Page

from pagoda import servers
from pagoda.airflow import Airflow
from pagoda.bundle import Manifest, read_manifest
from pagoda.registry import current, require
from pagoda.settings import Settings, load
from tests.conftest import NewHome, artefact

HOUSEHOLDS = 120
RECIPE = "smoke"


@dataclass(frozen=True)
class Road:
    """A home in which everything has run and everything is up."""

    settings: Settings
    without_input: subprocess.CompletedProcess[str]
    runs: list[dict[str, Any]]

    @property
    def manifest(self) -> Manifest:
        """The live bundle's."""
        name = current(self.settings)
        assert name is not None
        return read_manifest(require(self.settings, name))

    @property
    def search(self) -> httpx.Client:
        """A client of the search service."""
        serving = self.settings.serving
        return httpx.Client(base_url=f"http://{serving.host}:{serving.port}", timeout=30)


def pagoda(settings: Settings, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command line, as a person would use it on this home."""
    return subprocess.run(
        [sys.executable, "-m", "pagoda.cli.main", *arguments],
        env={**os.environ, "PAGODA_HOME": str(settings.home)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="package")
def road(settings: Settings, new_home: NewHome) -> Iterator[Road]:
    """Everything up, 120 households imported, trained, indexed and served."""
    if not settings.airflow.environment.exists():
        pytest.skip("Airflow's environment is not there; `make setup` makes it")
    up = servers.up(new_home(), ["kafka", "redis", "milvus", "airflow"])
    without_input = pagoda(up, "run", "index")
    ran = pagoda(
        up, "run", "ingest", "--param", f"households={HOUSEHOLDS}", "--recipe", RECIPE, "--json"
    )
    assert ran.returncode == 0, ran.stderr[-6000:]
    servers.up(up)
    yield Road(load(home=up.home), without_input, json.loads(ran.stdout))
    servers.down(up)  # all of them would take a quarter of two cores from the tests that follow


@pytest.fixture
def airflow(road: Road) -> Iterator[Airflow]:
    """A session with the road's Airflow."""
    with Airflow(road.settings) as session:
        yield session


@pytest.fixture
def page(browser: Browser, request: pytest.FixtureRequest) -> Iterator[Page]:
    """A fresh page; whatever happens, its last sight is kept in artefacts/."""
    opened = browser.new_page(viewport={"width": 1400, "height": 1000})
    yield opened
    opened.screenshot(path=artefact(f"{request.node.name}.png"), full_page=True)
    opened.context.close()
