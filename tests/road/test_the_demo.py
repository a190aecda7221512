"""`pagoda demo` itself, on half of the road's households. Last: it replaces the data."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pagoda.airflow import Airflow
from tests.road.conftest import HOUSEHOLDS, RECIPE, Road, pagoda

pytestmark = [pytest.mark.airflow, pytest.mark.servers]


def demo(road: Road) -> dict[str, Any]:
    ran = pagoda(
        road.settings, "demo", "--households", str(HOUSEHOLDS // 2), "--recipe", RECIPE, "--json"
    )
    assert ran.returncode == 0, ran.stderr[-6000:]
    said: dict[str, Any] = json.loads(ran.stdout)
    return said


def test_half_the_households_give_other_numbers_and_a_rerun_runs_nothing(
    road: Road, airflow: Airflow
) -> None:
    whole = road.manifest
    half = demo(road)
    assert half["lake"]["users"] > 0
    assert half["bundle"]["counts"]["train_lines"] < whole.counts["train_lines"]
    assert half["bundle"]["metrics"] != whole.model_dump(mode="json")["metrics"]
    assert half["index"]["worst_recall"] >= 0.95
    assert half["live_event"]["sequences"][0]["moved"]

    by_the_clock = {"item_updates"}  # every ten minutes
    runs = {dag: len(airflow.runs(dag)) for dag in {*airflow.dags()} - by_the_clock}
    assert demo(road)["bundle"] == half["bundle"]
    assert {dag: len(airflow.runs(dag)) for dag in runs} == runs
