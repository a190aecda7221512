"""Holds what is served against Feast's history: `parity`, after features, and daily."""

from __future__ import annotations

from airflow.sdk import DAG, Param

from project import Stage
from wiring import FEATURES, LOOKS, daily_or_after

DOC = """
### parity

Law 4: what serving reads online equals what Feast's historical features give for the same moment,
element by element.

| task | compares |
|---|---|
| online | sampled users as they are read now, while events arrive |
| served | the requests of the last days as they were served; skipped if none was sampled |

Red: something differs. The task's log shows every difference with both sides, the lake's record
of the event, and the reason in a word; `docs/streams.md` says what each means. The counts are the
task's XCom `metrics`, and stand in `$PAGODA_HOME/run/metrics` for Prometheus.
"""

with DAG(
    "parity",
    description="Online features equal historical ones",
    doc_md=DOC,
    schedule=daily_or_after(6, FEATURES),
    catchup=False,
    max_active_runs=1,
    is_paused_upon_creation=False,
    default_args=LOOKS,
    tags=["pagoda", "check"],
    params={
        "users": Param(100, type="integer", minimum=1, description="How many users to read now"),
        "from": Param(
            None,
            type=["null", "string"],
            format="date",
            description="First UTC day of served requests; empty: yesterday",
        ),
        "to": Param(
            None,
            type=["null", "string"],
            format="date",
            description="Last UTC day of served requests; empty: today",
        ),
    },
):
    Stage(
        task_id="online",
        module="jobs.checks.cli",
        arguments=["parity", "--hide-queries"],
        options={"--users": "{{ params.users }}"},
        metrics="parity_online",
        pool="spark",  # Feast's historical join is a Spark job of its own
    )
    Stage(
        task_id="served",
        module="jobs.checks.cli",
        arguments=["parity", "--served", "--hide-queries"],
        options={"--from": "{{ params.from }}", "--to": "{{ params.to }}"},
        metrics="parity_served",
        skip_if_nothing=True,
        pool="spark",
    )
