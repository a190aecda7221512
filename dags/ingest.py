"""Brings a data set into the lake: `ingest`, the head of the road."""

from __future__ import annotations

from airflow.sdk import DAG, Param

from project import Stage
from wiring import DEFAULTS, IMPORTED, MACROS, WISHES

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
            enum=["completejourney", "files", "interactions", "jdsearch", "taobao-ecomm"],
            description="completejourney: 1.47 million real purchases. files: your own, by "
            "mapping. interactions: lines of user and item. jdsearch, taobao-ecomm: as published",
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
        "paths": Param(
            None,
            type=["null", "array"],
            items={"type": "string"},
            description="Absolute, a line each. interactions: the files. jdsearch: what users did, "
            "then the products. taobao-ecomm: the folder",
        ),
        "recipe": Param(
            None,
            type=["null", "string"],
            description="Recipe for the train run at the end of the chain; empty: training.recipe",
        ),
        "parent": Param(
            None,
            type=["null", "string"],
            description="Bundle that the train run goes on from, or live; empty: it begins anew",
        ),
    },
):
    Stage(
        task_id="import",
        module="jobs.imports.cli",
        arguments=["{{ params.dataset }}"],
        options={"--households": "{{ params.households }}", "--mapping": "{{ params.mapping }}"},
        operands="{{ params.paths | tojson }}",
        hand_on=WISHES,
        outlets=[IMPORTED],
    )
