"""What Airflow says of the road's runs."""

from __future__ import annotations

import re

import pytest

from pagoda.airflow import Airflow
from tests.road.conftest import RECIPE, Road

CHECKS = {"parity", "quality"}
pytestmark = [pytest.mark.airflow, pytest.mark.servers]


def test_every_dag_of_the_chain_ended_green(road: Road) -> None:
    order = [run["dag"] for run in road.runs]
    assert [dag for dag in order if dag not in CHECKS] == ["ingest", "features", "train", "index"]
    assert {run["state"] for run in road.runs} == {"success"}
    states = {
        (run["dag"], task["task"]): task["state"] for run in road.runs for task in run["tasks"]
    }
    # Nothing was served yet: that is neither a success nor a failure.
    assert states.pop(("parity", "served")) == "skipped"
    assert set(states.values()) == {"success"}


def test_new_features_were_checked_and_the_counts_stand_in_airflow(
    road: Road, airflow: Airflow
) -> None:
    assert {run["dag"] for run in road.runs} >= CHECKS
    (parity,), (quality,) = airflow.runs("parity"), airflow.runs("quality")
    counts = airflow.xcom(parity, "online", "metrics")
    assert counts["pagoda_parity_online_differences"] == 0
    assert counts["pagoda_parity_online_compared"] >= 50
    assert counts["pagoda_parity_online_elements"] > 1000
    figures = airflow.xcom(quality, "quality", "metrics")
    assert figures['pagoda_quality_findings{level="fail"}'] == 0
    assert figures['pagoda_quality_rows{store="online",view="user_day"}'] > 0
    assert "<svg" in (road.settings.reports / "quality.html").read_text()


def test_the_recipe_asked_for_at_the_head_is_the_one_trained(road: Road) -> None:
    assert road.manifest.recipe == RECIPE


def test_a_step_without_anything_to_work_on_fails_its_dag_at_once(
    road: Road, airflow: Airflow
) -> None:
    said = road.without_input.stderr
    assert road.without_input.returncode == 1, said
    assert "NothingToDo" in said
    assert "there is no bundle" in said
    first = airflow.runs("index")[-1]
    assert first.state == "failed", said
    assert [task.try_number for task in airflow.tasks(first)] == [1], "retrying cannot help"


@pytest.mark.parametrize("task_id", ["build", "materialise"])
def test_spark_application_ids_are_in_the_task_logs(airflow: Airflow, task_id: str) -> None:
    run = airflow.runs("features")[-1]
    task = next(each for each in airflow.tasks(run) if each.task_id == task_id)
    assert re.search(
        r"application_id='(local|app|application)[-_]\d+'", "\n".join(airflow.log(run, task))
    )


def test_airflow_read_every_dag_file(airflow: Airflow) -> None:
    assert airflow.import_errors() == {}
    chain = {"ingest", "features", "train", "index"}
    assert set(airflow.dags()) == {*chain, *CHECKS, "item_updates", "maintenance"}
