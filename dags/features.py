"""Builds and publishes features: `features`, daily, after an import, or for past days."""

from __future__ import annotations

from airflow.sdk import DAG, Param

from project import SparkStage, Stage
from wiring import DEFAULTS, FEATURES, IMPORTED, MACROS, WISHES, daily_or_after, skip_in_backfill

DOC = """
### features

One Spark job builds the feature tables of a day, or of a range of days; then Feast's registry is
brought up to date and the newest rows go to the online store. The row of day *D* holds what is
known before *D*. Building a day again changes nothing.

| started by | days built |
|---|---|
| the clock, at midnight UTC | the day that begins, and those that late events have changed |
| a finished import | from the first day that the recipe trains on up to today |
| hand, with `from` and `to` | these, in one Spark job |
| a backfill | each of its days; past days are for training and go to no online store |

After it, **train**, **parity** and **quality** start by themselves.
"""

with DAG(
    "features",
    description="Feature tables, Feast's registry, the online store",
    doc_md=DOC,
    schedule=daily_or_after(0, IMPORTED),
    catchup=False,
    max_active_runs=1,
    is_paused_upon_creation=False,
    default_args=DEFAULTS,
    tags=["pagoda", "features", "spark"],
    user_defined_macros=MACROS,
    params={
        "from": Param(
            None,
            type=["null", "string"],
            format="date",
            description="First UTC day to build; empty: the oldest that anything new has changed",
        ),
        "to": Param(
            None,
            type=["null", "string"],
            format="date",
            description="Last UTC day to build, inclusive; empty: the day of the run",
        ),
        "recipe": Param(
            None,
            type=["null", "string"],
            description="Recipe for the train run that follows; empty: training.recipe",
        ),
        "parent": Param(
            None,
            type=["null", "string"],
            description="Bundle that the train run goes on from, or live; empty: it begins anew",
        ),
    },
):
    build = SparkStage(
        task_id="build",
        script="jobs/batch/build.py",
        options={"--from": "{{ first_day() }}", "--to": "{{ last_day() }}"},
    )
    apply = Stage(
        task_id="apply",
        module="jobs.batch.cli",
        arguments=["apply"],
        pre_execute=skip_in_backfill,
    )
    materialise = SparkStage(
        task_id="materialise",
        script="jobs/batch/materialise.py",
        hand_on=WISHES,
        outlets=[FEATURES],
    )
    build >> apply >> materialise
