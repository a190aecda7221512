"""Brings changed items into the live index: `item_updates`, whenever Kafka has some."""

from __future__ import annotations

import os

from airflow.providers.common.messaging.triggers.msg_queue import MessageQueueTrigger
from airflow.sdk import DAG, Asset, AssetOrTimeSchedule, AssetWatcher, CronTriggerTimetable

from project import Stage
from wiring import DEFAULTS

DOC = """
### item_updates

New and changed items are found in the live collection within 30 seconds. The triggerer watches the
topic; a burst of messages starts one run, which waits until they have landed in the lake and then
writes what the live collection lacks. A run compares contents, so one that comes late, twice or for
nothing does no harm; every ten minutes one looks whether anything was missed.

A full rebuild may be under way: it goes live with all updates (`docs/serving.md`).
"""

ITEM_UPDATES = Asset(
    "item-updates",
    uri="pagoda://kafka/item-updates",
    watchers=[
        AssetWatcher(
            name="item-updates",
            trigger=MessageQueueTrigger(
                scheme="kafka",
                kafka_config_id="pagoda_kafka",
                topics=[os.environ.get("PAGODA_KAFKA__ITEMS_TOPIC", "item-updates")],
                apply_function="pagoda.bursts.worth_a_run",
                poll_interval=0,  # after a message that is worth no run, at once to the next
            ),
        )
    ],
)

with DAG(
    "item_updates",
    description="New and changed items into the live collection",
    doc_md=DOC,
    schedule=AssetOrTimeSchedule(
        timetable=CronTriggerTimetable("*/10 * * * *", timezone="UTC"),
        assets=ITEM_UPDATES,
    ),
    catchup=False,
    max_active_runs=1,  # what comes during a run waits, and all of it starts the next one
    is_paused_upon_creation=False,
    default_args=DEFAULTS,
    tags=["pagoda", "index"],
):
    Stage(task_id="update", module="jobs.index.update")
