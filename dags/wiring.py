"""What the DAGs share: assets, defaults, schedules, and what a run was asked for.

    ingest ── imported ──► features ── features ──► train ── bundle ──► index ── index
                                           └──────► parity, quality

Nothing is computed when a DAG file is read: what depends on a run is a template macro.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import Asset, AssetOrTimeSchedule, CronTriggerTimetable
from airflow.sdk.exceptions import AirflowSkipException
from jinja2 import pass_context

from project import answer_of

IMPORTED = Asset("imported", uri="pagoda://lake/events")
FEATURES = Asset("features", uri="pagoda://online/features")
BUNDLE = Asset("bundle", uri="pagoda://bundles/latest")
INDEX = Asset("index", uri="pagoda://milvus/items")

DEFAULTS = {
    "owner": "search",
    "retries": 2,
    "retry_delay": timedelta(seconds=20),
    "execution_timeout": timedelta(hours=6),
}
# What only looks waits where Spark's slot is also wanted by what builds.
LOOKS = DEFAULTS | {"priority_weight": 0, "execution_timeout": timedelta(hours=1)}


# What a run asks of those that its assets start, see `asked`.
WISHES = {"recipe": "{{ asked('recipe') }}", "parent": "{{ asked('parent') }}"}


def daily(hour: int) -> CronTriggerTimetable:
    """By the clock at that hour (UTC)."""
    return CronTriggerTimetable(
        f"0 {hour} * * *",
        timezone="UTC",
        interval=timedelta(days=1),
        run_immediately=timedelta(0),  # otherwise a run starts at once when it is young
    )


def daily_or_after(hour: int, asset: Asset) -> AssetOrTimeSchedule:
    """By the clock at that hour (UTC), and whenever the asset is renewed."""
    return AssetOrTimeSchedule(timetable=daily(hour), assets=asset)


@pass_context
def asked(context: Any, name: str) -> Any:
    """The parameter `name` of this run, or what the run upstream handed on with its asset.

    A template macro: `{{ asked('recipe') }}`. None where neither says anything.
    """
    if (given := context["params"].get(name)) is not None:
        return given
    events = (context.get("triggering_asset_events") or {}).values()
    handed_on = [event.extra.get(name) for group in events for event in group]
    return next((value for value in reversed(handed_on) if value is not None), None)


@pass_context
def first_day(context: Any) -> str | None:
    """The first UTC day that a features run builds: a template macro.

    Asked for; else the day itself in a backfill, and after an import the first that the recipe
    trains on. None: the job finds the oldest day that anything new has changed.
    """
    if asked_for := context["params"]["from"] or context["params"]["to"]:
        return asked_for
    if context["dag_run"].run_type == "backfill":
        return last_day(context)
    if context.get("triggering_asset_events"):
        recipe = asked(context, "recipe")
        named = ["--", recipe] if recipe else []
        return answer_of("training.train", "--plan", "--json", *named)["features_from"]
    return None


@pass_context
def last_day(context: Any) -> str:
    """The last UTC day that a features run builds: asked for, or the day that begins with the run.

    Triggered and asset-triggered runs have no data interval: there the moment of the run counts.
    """
    run = context["dag_run"]
    moment = run.data_interval_end or run.logical_date or run.run_after
    return context["params"]["to"] or moment.date().isoformat()


def skip_in_backfill(context: Any) -> None:
    """Past days of a backfill are for training: they move neither online rows nor the model."""
    if context["dag_run"].run_type == "backfill":
        raise AirflowSkipException("a backfill's day is for training, not for the online store")


MACROS = {"asked": asked, "first_day": first_day, "last_day": last_day}
