"""Puts the newest bundle's item vectors live: `index`, whenever there is a bundle."""

from __future__ import annotations

from airflow.sdk import DAG, Param

from project import Stage
from wiring import BUNDLE, DEFAULTS, INDEX

DOC = """
### index

A fresh Milvus collection with all item vectors, checked by filter selectivity against an exact
search done apart; only then the alias moves and the bundle is promoted. The collection before it
stays for going back: `pagoda models rollback`.
"""

with DAG(
    "index",
    description="Item vectors into a checked collection, alias swapped",
    doc_md=DOC,
    schedule=[BUNDLE],
    catchup=False,
    max_active_runs=1,
    is_paused_upon_creation=False,
    default_args=DEFAULTS,
    tags=["pagoda", "index"],
    params={
        "bundle": Param(
            None, type=["null", "string"], description="Name of a bundle; empty: the newest"
        ),
        "promote": Param(
            True, type="boolean", description="Swap the alias when the check is passed"
        ),
    },
):
    Stage(
        task_id="index",
        module="jobs.index.build",
        options={
            "--bundle": "{{ params.bundle }}",
            "--no-promote": "{{ not params.promote }}",
        },
        outlets=[INDEX],
    )
