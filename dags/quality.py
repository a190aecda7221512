"""Fails if features are old, holed or drifted: `quality`, after features, and daily."""

from __future__ import annotations

from airflow.sdk import DAG

from project import Stage
from wiring import FEATURES, LOOKS, daily_or_after

DOC = """
### quality

Age of the newest row of every view, offline and online; nulls and empties; lengths of sequences;
drift against a reference week; what waits in Kafka.

Red: a limit of the settings' part `quality` is exceeded; the end of the task's log names each.
The report with plots is `$PAGODA_HOME/reports/quality.html`; the figures are the task's XCom
`metrics`, and stand in `$PAGODA_HOME/run/metrics` for Prometheus.
"""

with DAG(
    "quality",
    description="Freshness, nulls, lengths and drift of the features",
    doc_md=DOC,
    schedule=daily_or_after(6, FEATURES),
    catchup=False,
    max_active_runs=1,
    is_paused_upon_creation=False,
    default_args=LOOKS,
    tags=["pagoda", "check"],
):
    Stage(
        task_id="quality",
        module="jobs.checks.cli",
        arguments=["freshness"],
        metrics="quality",
    )
