"""What Airflow says of the road's runs."""

from __future__ import annotations

import re

import pytest

from pagoda.airflow import Airflow
from tests.road.conftest import RECIPE, Road

pytestmark = [pytest.mark.airflow, pytest.mark.servers]


def test_every_dag_of_the_chain_ended_green(road: Road) -> None:
    assert [run["dag"] for run in road.runs] == ["ingest", "features", "train", "index"]
    assert {run["state"] for run in road.runs} == {"success"}
    assert {task["state"] for run in road.runs for task in run["tasks"]} == {"success"}


def test_the_recipe_asked_for_at_the_head_is_the_one_trained(road: Road) -> None:
    assert road.manifest.recipe == RECIPE


def test_a_step_without_anything_to_work_on_fails_its_dag_at_once(
    road: Road, airflow: Airflow
) -> None:
    first = airflow.runs("index")[-1]
    assert first.state == "failed"
    assert [task.try_number for task in airflow.tasks(first)] == [1], "retrying cannot help"
    assert road.without_input.returncode == 1
    assert "NothingToDo" in road.without_input.stderr
    assert "there is no bundle" in road.without_input.stderr


@pytest.mark.parametrize("task_id", ["build", "materialise"])
def test_spark_application_ids_are_in_the_task_logs(airflow: Airflow, task_id: str) -> None:
    run = airflow.runs("features")[-1]
    task = next(each for each in airflow.tasks(run) if each.task_id == task_id)
    assert re.search(
        r"application_id='(local|app|application)[-_]\d+'", "\n".join(airflow.log(run, task))
    )


def test_airflow_read_every_dag_file(airflow: Airflow) -> None:
    assert airflow.import_errors() == {}
    assert airflow.dags() == ["features", "index", "ingest", "train"]
