"""Trains the towers and writes a bundle: `train`, whenever features are new."""

from __future__ import annotations

from airflow.sdk import DAG, Param

from project import Stage
from wiring import BUNDLE, DEFAULTS, FEATURES, MACROS

DOC = """
### train

Point-in-time rows by Feast, one training loop, evaluation over all candidates beside the baselines,
and a model bundle. Unchanged inputs and recipe give the bundle that is there. After it, **index**
starts by itself.

With a parent, training goes on from that bundle over the days since: day after day.
"""

with DAG(
    "train",
    description="Towers on point-in-time rows, written as a bundle",
    doc_md=DOC,
    schedule=[FEATURES],
    catchup=False,
    max_active_runs=1,
    is_paused_upon_creation=False,
    default_args=DEFAULTS,
    tags=["pagoda", "model"],
    user_defined_macros=MACROS,
    params={
        "recipe": Param(
            None,
            type=["null", "string"],
            description="A recipe of training/recipes; empty: what the run upstream asked for, "
            "or the setting training.recipe",
        ),
        "parent": Param(
            None,
            type=["null", "string"],
            description="A bundle to go on from, on the days since it was trained; live: the one "
            "that serves; empty: what the run upstream asked for, or none, to begin anew",
        ),
        "force": Param(False, type="boolean", description="Train even if nothing has changed"),
    },
):
    Stage(
        task_id="train",
        module="training.train",
        options={"--from": "{{ asked('parent') }}", "--force": "{{ params.force }}"},
        operands="{{ [asked('recipe')] | tojson }}",
        pool="spark",  # Feast's historical join is a Spark job of its own
        outlets=[BUNDLE],
    )
