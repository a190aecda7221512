"""What the DAGs are, as Airflow's own environment reads them."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.core import TyperGroup
from typer.main import get_command

from jobs.imports import cli as imports
from pagoda.bursts import worth_a_run
from pagoda.settings import PROJECT_ROOT
from pagoda.stages import CHECKS, STAGES, UPKEEP
from training import train as training

DAGS = PROJECT_ROOT / "dags"
PYTHON = PROJECT_ROOT / ".venv-airflow" / "bin" / "python"

pytestmark = pytest.mark.airflow

# What people may write into the form of a run, and what an earlier DAG may have handed on.
ODD = ["/data/a b.txt", "--replace", "$(true); 'x' `y`", "", "{{ params.recipe }}"]
RUNS: dict[str, dict[str, Any]] = {
    "as it is": {"dag": "ingest", "task": "import"},
    "slice": {"dag": "ingest", "task": "import", "params": {"households": 120}},
    "files": {
        "dag": "ingest",
        "task": "import",
        "params": {"dataset": "files", "mapping": "--dry-run"},
    },
    "interactions": {
        "dag": "ingest",
        "task": "import",
        "params": {
            "dataset": "interactions",
            "paths": ODD,
            "recipe": "next_item",
            "parent": "live",
        },
    },
    "jdsearch": {
        "dag": "ingest",
        "task": "import",
        "params": {"dataset": "jdsearch", "paths": ["/jd/users.txt", "/jd/products.txt"]},
    },
    "taobao": {
        "dag": "ingest",
        "task": "import",
        "params": {"dataset": "taobao-ecomm", "paths": ["/ecomm"]},
    },
    "no importer": {"dag": "ingest", "task": "import", "params": {"dataset": "--help"}},
    "no path": {"dag": "ingest", "task": "import", "params": {"paths": [7]}},
    "anew": {"dag": "train", "task": "train"},
    "as asked upstream": {
        "dag": "train",
        "task": "train",
        "handed_on": {"recipe": "next_item", "parent": "live"},
    },
    "as asked here": {
        "dag": "train",
        "task": "train",
        "params": {"recipe": "--json", "parent": "--plan", "force": True},
        "handed_on": {"recipe": "next_item", "parent": "live"},
    },
}


@pytest.fixture(scope="module")
def bag(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The DAG folder, read by Airflow; nothing of the project is on its path."""
    if not PYTHON.exists():
        pytest.skip("Airflow's environment is not there; `make setup` makes it")
    home = tmp_path_factory.mktemp("airflow")
    done = subprocess.run(
        [PYTHON, Path(__file__).with_name("describe.py"), DAGS, json.dumps([*RUNS.values()])],
        env={"PATH": os.environ["PATH"], "AIRFLOW_HOME": str(home), "PYTHONPATH": str(DAGS)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    described: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return described


def test_every_dag_file_imports_without_an_error_and_without_the_project(
    bag: dict[str, Any],
) -> None:
    assert bag["import_errors"] == {}
    assert bag["imported"] == []


def test_the_assets_chain_the_dags_from_import_to_index(bag: dict[str, Any]) -> None:
    dags = bag["dags"]
    renews = {
        name: [asset for task in dag["tasks"] for asset in task["renews"]]
        for name, dag in dags.items()
    }
    assert renews == {
        "ingest": ["imported"],
        "features": ["features"],
        "train": ["bundle"],
        "index": ["index"],
        "item_updates": [],
        "parity": [],
        "quality": [],
        "maintenance": [],
    }
    assert {name: dag["started_by"] for name, dag in dags.items()} == {
        "ingest": [],
        "features": ["imported"],
        "train": ["features"],
        "index": ["bundle"],
        "item_updates": ["item-updates"],
        "parity": ["features"],
        "quality": ["features"],
        "maintenance": [],
    }


def test_daily_runs_go_by_the_clock_and_missed_items_are_looked_for(
    bag: dict[str, Any],
) -> None:
    assert {name: dag["cron"] for name, dag in bag["dags"].items() if dag["cron"]} == {
        "features": "0 0 * * *",
        "item_updates": "*/10 * * * *",
        "parity": "0 6 * * *",
        "quality": "0 6 * * *",
        "maintenance": "0 3 * * *",
    }
    assert not any(dag["catchup"] for dag in bag["dags"].values())


def test_every_dag_explains_itself(bag: dict[str, Any]) -> None:
    for name, dag in bag["dags"].items():
        assert dag["doc"].strip(), name
        assert dag["description"], name
        assert "pagoda" in dag["tags"], name
        assert all(dag["params"].values()), f"{name}: a parameter lacks its description"


def test_every_task_has_an_owner_and_retries(bag: dict[str, Any]) -> None:
    for dag in bag["dags"].values():
        for task in dag["tasks"]:
            assert (task["owner"], task["retries"]) == ("search", 2), task["id"]


def test_every_task_that_starts_spark_waits_for_its_one_slot(bag: dict[str, Any]) -> None:
    tasks = [task for dag in bag["dags"].values() for task in dag["tasks"]]
    spark = {task["id"] for task in tasks if task["kind"] == "SparkStage"}
    assert spark == {"build", "materialise", "maintain"}
    joins = {"train", "online", "served"}
    assert {task["id"] for task in tasks if task["pool"] == "spark"} == {*spark, *joins}


def test_checks_let_training_go_first(bag: dict[str, Any]) -> None:
    weights = {task["id"]: task["weight"] for dag in bag["dags"].values() for task in dag["tasks"]}
    checks = ("online", "served", "quality")
    assert max(weights[each] for each in checks) < min(
        weight for name, weight in weights.items() if name not in checks
    )


def test_features_build_then_apply_then_materialise(bag: dict[str, Any]) -> None:
    tasks = {task["id"]: task["upstream"] for task in bag["dags"]["features"]["tasks"]}
    assert tasks == {"build": [], "apply": ["build"], "materialise": ["apply"]}


def test_only_item_updates_watch_kafka_and_start_one_run_at_a_time(bag: dict[str, Any]) -> None:
    (watched,) = bag["dags"]["item_updates"]["watches"]
    assert watched["class"].endswith("kafka.triggers.await_message.AwaitMessageTrigger")
    assert watched["topics"] == ["item-updates"]
    assert watched["kafka_config_id"] == "pagoda_kafka"
    assert watched["apply_function"] == f"{worth_a_run.__module__}.{worth_a_run.__name__}"
    assert watched["commit_offset"], "or what came while nobody listened would be forgotten"
    assert bag["dags"]["item_updates"]["max_active_runs"] == 1
    assert not any(dag["watches"] for name, dag in bag["dags"].items() if name != "item_updates")


@pytest.fixture(scope="module")
def started(bag: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What the tasks of RUNS start."""
    return dict(zip(RUNS, bag["started"], strict=True))


def understood(command: list[str]) -> dict[str, Any]:
    """What a command says to its entry module: parameter to value."""
    module, *arguments = command[2:]
    reader = get_command({"jobs.imports.cli": imports.app, "training.train": training.app}[module])
    if isinstance(reader, TyperGroup):
        name, *arguments = arguments
        reader = reader.commands[name]
    context = reader.make_context("", arguments)
    sources = {name: context.get_parameter_source(name) for name in context.params}
    said = {name for name, source in sources.items() if source and source.name == "COMMANDLINE"}
    return {name: value for name, value in context.params.items() if name in said}


def test_ingest_offers_every_importer(bag: dict[str, Any]) -> None:
    commands = get_command(imports.app)
    assert isinstance(commands, TyperGroup)
    assert set(bag["dags"]["ingest"]["enums"]["dataset"]) == set(commands.commands)


def test_importers_get_what_they_take(started: dict[str, dict[str, Any]]) -> None:
    commands = {name: run["command"][3:] for name, run in started.items() if "command" in run}
    assert commands["as it is"] == ["completejourney"]
    assert commands["slice"] == ["completejourney", "--households", "120"]
    assert understood(started["files"]["command"]) == {"mapping": Path("--dry-run")}
    users, products = Path("/jd/users.txt"), Path("/jd/products.txt")
    assert understood(started["jdsearch"]["command"]) == {"users": users, "products": products}
    assert understood(started["taobao"]["command"]) == {"folder": Path("/ecomm")}


def test_paths_come_as_they_were_written_and_none_is_an_option(
    started: dict[str, dict[str, Any]],
) -> None:
    command = started["interactions"]["command"]
    assert command[3:] == ["interactions", "--", *filter(None, ODD)]
    assert understood(command) == {"files": [Path(each) for each in ODD if each]}


def test_what_is_no_importer_and_no_path_starts_nothing(
    started: dict[str, dict[str, Any]],
) -> None:
    assert "dataset" in started["no importer"]["refused"]
    assert "paths" in started["no path"]["refused"]


def test_recipe_and_parent_travel_from_the_head_to_training(
    started: dict[str, dict[str, Any]],
) -> None:
    assert started["interactions"]["hands_on"] == {"recipe": "next_item", "parent": "live"}
    assert started["anew"]["command"][3:] == []  # what the setting training.recipe says
    asked = understood(started["as asked upstream"]["command"])
    assert asked == {"name": "next_item", "parent": "live"}
    here = understood(started["as asked here"]["command"])
    assert here == {"name": "--json", "parent": "--plan", "force": True}


def test_the_list_of_stages_names_the_dag_that_runs_each(bag: dict[str, Any]) -> None:
    assert {stage.dag for stage in (*STAGES, *CHECKS, *UPKEEP) if stage.dag} == set(bag["dags"])


def test_dag_files_import_only_airflow_and_the_standard_library_at_module_level() -> None:
    allowed = {"airflow", "jinja2", "project", "wiring", *sys.stdlib_module_names}
    for file in sorted(DAGS.glob("*.py")):
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.Import):
                roots = {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                roots = {(node.module or "").split(".")[0]}
            else:
                continue
            assert roots <= allowed, file.name


def test_a_dag_file_is_a_page_of_wiring() -> None:
    for file in DAGS.glob("*.py"):
        if file.stem not in ("project", "wiring"):
            assert len(file.read_text().splitlines()) <= 90, file.name
