"""Keeps the lake small: `maintenance`, every night."""

from __future__ import annotations

from airflow.sdk import DAG

from project import SparkStage
from wiring import DEFAULTS, daily

DOC = """
### maintenance

For every table of the lake: rows beyond its retention are dropped, small files of a day are joined,
old snapshots expire, and files that a killed writer left are removed. What a tag holds stays: a
bundle's training data are tagged until the bundle is removed (`pagoda models remove`).

Readers and writers may go on meanwhile; what they kept from being done, the next night does. The
log shows each table before and after. By hand: `pagoda lake maintain`, with `--dry-run` to look.
"""

with DAG(
    "maintenance",
    description="Retention, file sizes and snapshots of the lake",
    doc_md=DOC,
    schedule=daily(3),  # some hours after midnight's features: Spark has one slot
    catchup=False,
    max_active_runs=1,
    is_paused_upon_creation=False,
    default_args=DEFAULTS,
    tags=["pagoda", "data", "spark"],
):
    SparkStage(task_id="maintain", script="jobs/lake/maintain.py")
