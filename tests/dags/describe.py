"""Runs in Airflow's environment: reads the DAG folder, prints what is in it as one line of JSON.

With it goes what tasks of `Stage` would start in runs that are described by the second argument.
"""

from __future__ import annotations

import copy
import json
import sys
from types import SimpleNamespace

HEAVY = ("pagoda", "torch", "pyspark", "feast", "pandas", "numpy", "pyarrow", "polars")


def main(folder: str, runs: str) -> None:
    before = {name for name in HEAVY if name in sys.modules}
    from airflow.dag_processing.dagbag import DagBag

    bag = DagBag(dag_folder=folder)
    described = {
        "import_errors": bag.import_errors,
        "imported": sorted({name for name in HEAVY if name in sys.modules} - before),
        "dags": {dag.dag_id: _dag(dag) for dag in bag.dags.values()},
        "started": [_started(bag, **run) for run in json.loads(runs)],
    }
    sys.stdout.write("\n" + json.dumps(described, default=str) + "\n")


def _dag(dag) -> dict:
    condition = getattr(dag.timetable, "asset_condition", None)
    return {
        "doc": dag.doc_md,
        "description": dag.description,
        "tags": sorted(dag.tags),
        "catchup": dag.catchup,
        "max_active_runs": dag.max_active_runs,
        "cron": getattr(getattr(dag.timetable, "timetable", dag.timetable), "expression", None),
        "started_by": _names(condition),
        "watches": [_trigger(each.trigger) for each in getattr(condition, "watchers", [])],
        "params": {name: dag.params.get_param(name).description for name in dag.params},
        "enums": {name: dag.params.get_param(name).schema.get("enum") for name in dag.params},
        "tasks": [
            {
                "id": task.task_id,
                "kind": type(task).__name__,
                "owner": task.owner,
                "retries": task.retries,
                "pool": task.pool,
                "weight": task.priority_weight,
                "renews": [asset.name for asset in task.outlets],
                "upstream": sorted(task.upstream_task_ids),
            }
            for task in dag.topological_sort()
        ],
    }


def _started(bag, dag: str, task: str, params=(), handed_on=()) -> dict:
    """The command of a run with these parameters, whose assets brought these wishes with them."""
    from airflow.sdk.exceptions import ParamValidationError

    given = copy.deepcopy(bag.dags[dag].params)
    try:
        given.update(params)
    except ParamValidationError as error:
        return {"refused": str(error)}
    stage = copy.copy(bag.dags[dag].get_task(task))
    event = SimpleNamespace(extra=dict(handed_on))
    stage.render_template_fields(
        {"params": given.validate(), "triggering_asset_events": {"asset": [event]}}
    )
    return {"command": stage.command(), "hands_on": stage.hand_on}


def _names(condition) -> list[str]:
    """The assets of a schedule: one, or a condition over several."""
    if condition is None:
        return []
    parts = getattr(condition, "objects", None)
    return [name for part in parts for name in _names(part)] if parts else [condition.name]


def _trigger(trigger) -> dict:
    """What the triggerer will run."""
    name, arguments = trigger.serialize()
    return {"class": name, **arguments}


if __name__ == "__main__":
    main(*sys.argv[1:])
