"""Brings a data set into the lake: `ingest`, the head of the road."""

from __future__ import annotations

from airflow.sdk import DAG, Param

from project import Stage
from wiring import DEFAULTS, IMPORTED, MACROS

DOC = """
### ingest

Imports a data set into the Iceberg tables `items`, `events` and `searches`. Importing the same
again changes nothing; bad rows go to `rejected` with the reason. When it has succeeded,
**features** starts by itself, then **train**, then **index**.

Nothing to import is a failure, never a silent success.
"""

with DAG(
    "ingest",
    description="A data set into the lake",
    doc_md=DOC,
    schedule=None,
    catchup=False,
    max_active_runs=1,
    is_paused_upon_creation=False,
    default_args=DEFAULTS,
    tags=["pagoda", "data"],
    user_defined_macros=MACROS,
    params={
        "dataset": Param(
            "completejourney",
            enum=["completejourney", "files"],
            description="completejourney: 1.47 million real purchases. files: your own, by mapping",
        ),
        "households": Param(
            None,
            type=["null", "integer"],
            minimum=1,
            description="completejourney: take only so many households; empty: all",
        ),
        "mapping": Param(
            None,
            type=["null", "string"],
            description="files: absolute path of the mapping file (docs/your-own-data.md)",
        ),
        "recipe": Param(
            None,
            type=["null", "string"],
            description="Recipe for the train run at the end of the chain; empty: its own default",
        ),
    },
):
    Stage(
        task_id="import",
        module="jobs.imports.cli",
        arguments=["{{ params.dataset }}"],
        options={"--households": "{{ params.households }}", "--mapping": "{{ params.mapping }}"},
        hand_on={"recipe": "{{ asked('recipe') }}"},
        outlets=[IMPORTED],
    )
