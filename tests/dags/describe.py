"""Runs in Airflow's environment: reads the DAG folder, prints what is in it as one line of JSON."""

from __future__ import annotations

import json
import sys

HEAVY = ("pagoda", "torch", "pyspark", "feast", "pandas", "numpy", "pyarrow", "polars")


def main(folder: str) -> None:
    before = {name for name in HEAVY if name in sys.modules}
    from airflow.dag_processing.dagbag import DagBag

    bag = DagBag(dag_folder=folder)
    described = {
        "import_errors": bag.import_errors,
        "imported": sorted({name for name in HEAVY if name in sys.modules} - before),
        "dags": {dag.dag_id: _dag(dag) for dag in bag.dags.values()},
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
    main(sys.argv[1])
