"""Build the feature tables of a range of UTC days from the lake, in one Spark job.

    lake.events, lake.searches, lake.items -> robots -> user_day, user_intraday, user_stats,
                                                        item_stats, item_profile

The row of day D holds what happened before D, so D's rows can be built as soon as D begins. A
rerun of a day replaces exactly that day, in one commit a table, with the same rows: a reader sees
the old or the new ones. Days on which a user is a robot are left out (`jobs.batch.robots`).

Without `--from` the job finds out where to begin: at the newest day built so far, whose events of
the day itself are complete only now, or at an earlier day whose rows an event changes that came
in late since.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any

import numpy as np
import typer
from pyspark import StorageLevel
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as sf
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from jobs.batch import (
    history,
    item_profile,
    item_stats,
    robots,
    user_day,
    user_intraday,
    user_stats,
)
from pagoda import dataset, faults, features, lake, schemas, settings, spark
from pagoda.console import emit_table, people, run
from pagoda.errors import InputError, NothingToDo
from pagoda.features import View
from pagoda.schemas import EVENTS, SEARCHES
from pagoda.sequences import Int64s
from pagoda.settings import Settings
from pagoda.windows import DAY_MS

LATE_DAYS = 30  # events later than this change old rows only when those days are asked for
DAILY = (features.USER_DAY, features.USER_STATS, features.ITEM_STATS)  # a row a day

app = typer.Typer(help="Build the feature tables of a range of days.")


@dataclass(frozen=True, kw_only=True)
class Days:
    """UTC days, both inclusive."""

    first: date
    last: date

    def __post_init__(self) -> None:
        if self.first > self.last:
            raise InputError(
                "the range of days ends before it begins",
                found=f"--from {self.first} --to {self.last}",
            )

    @property
    def midnights(self) -> Int64s:
        """Their beginnings, epoch milliseconds."""
        first = (self.first - date(1970, 1, 1)).days
        return np.arange(first, first + (self.last - self.first).days + 1) * DAY_MS


@app.command()
def main(
    first: Annotated[
        datetime | None, typer.Option("--from", formats=["%Y-%m-%d"], help="First UTC day.")
    ] = None,
    last: Annotated[
        datetime | None, typer.Option("--to", formats=["%Y-%m-%d"], help="Last UTC day.")
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option("--view", help="Only this view, for a column that it gained; repeatable."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Build all views for the days --from to --to.

    --to is today unless given; --from is the oldest day that anything new has changed. Readers go
    on reading: each view's days are replaced in one commit.
    """
    loaded = settings.load()
    views = [features.view(name) for name in only] if only else features.VIEWS
    end = last.date() if last else datetime.now(UTC).date()
    with spark.session(loaded, "features") as session:
        begin = first.date() if first else oldest_changed(session, loaded, before=end)
        summary = build_all(session, loaded, Days(first=begin, last=end), views=views)
    emit_table(summary, title=f"Features of {begin} to {end}", as_json=as_json)


def build_all(
    session: SparkSession,
    loaded: Settings,
    days: Days,
    *,
    views: Collection[View] = features.VIEWS,
) -> list[dict[str, Any]]:
    """Build and write every view. Returns: a summary row for each, and for each rule that says
    who is a robot how many user-days break it.

    Args:
        views: only these; `pagoda check parity` compares two of them.
    Raises: NothingToDo if the lake holds no event or search that these days could see.
    """
    spec = features.CANDIDATES
    imported = dataset.load(loaded)
    lake.create_all(loaded)
    wanted = {view.name for view in views}
    reach = max(view.reach_days for view in features.VIEWS if view.name in wanted)
    oldest = days.first - timedelta(days=reach)
    summary = _run({"robots": lambda: robots.judge(session, loaded, first=oldest, last=days.last)})
    summary += [
        {"view": f"robots: {rule}", "rows": count, "seconds": None}
        for rule, count in robots.by_rule(session, loaded, first=oldest, last=days.last).items()
        if count
    ]
    events = (
        history.read(
            session, loaded, click_actions=imported.click_actions, first=oldest, last=days.last
        )
        .repartition("user_key")
        .persist(StorageLevel.MEMORY_AND_DISK)
    )

    def replace(view: View, rows: DataFrame) -> int:
        return replace_days(loaded, view, rows, days)

    midnights = days.midnights
    steps: dict[str, Callable[[], int]] = {
        "user_day": lambda: replace(
            features.USER_DAY, user_day.build(events, days=midnights, spec=spec)
        ),
        "user_intraday": lambda: replace(
            features.USER_INTRADAY, user_intraday.build(events, days=midnights, spec=spec)
        ),
        "user_stats": lambda: replace(
            features.USER_STATS, user_stats.build(events, days=midnights)
        ),
        "item_stats": lambda: replace(
            features.ITEM_STATS, item_stats.build(events, first=days.first, last=days.last)
        ),
        "item_profile": lambda: write_profiles(session, loaded),
    }
    try:
        if events.isEmpty():
            raise NothingToDo(
                "no events or searches to build features of",
                where=f"lake, {oldest} to {days.last}",
                next_step="Import data, or give days that have some with --from and --to.",
            )
        return summary + _run({name: step for name, step in steps.items() if name in wanted})
    finally:
        events.unpersist()


def replace_days(loaded: Settings, view: View, rows: DataFrame, days: Days) -> int:
    """Put rows in place of all that the table held for these days, in one commit.

    Returns: how many rows were written.
    """
    # Not overwritePartitions: it would leave the old rows of a day that has none any more.
    in_range = (sf.col("day") >= sf.lit(days.first)) & (sf.col("day") <= sf.lit(days.last))
    name = lake.spark_name(loaded, view.table)
    said = rows.withColumn("definition", sf.lit(view.definition))
    # A column that only a newer version of the code knows stays, and holds null.
    known = rows.sparkSession.table(name).limit(0)
    known.unionByName(said, allowMissingColumns=True).writeTo(name).overwrite(in_range)
    snapshot = lake.open_table(loaded, view.table).current_snapshot()
    return int(snapshot.summary["added-records"] or 0) if snapshot and snapshot.summary else 0


def write_profiles(session: SparkSession, loaded: Settings) -> int:
    """Add profiles that are new or corrected; earlier ones stay, so that they can be read as of
    an earlier moment.

    Returns: how many rows were added or corrected.
    """
    name = lake.spark_name(loaded, features.ITEM_PROFILE.table)
    there = session.table(name)
    items = session.table(lake.spark_name(loaded, schemas.ITEMS))
    profiles = item_profile.build(items).withColumn(
        "definition", sf.lit(features.ITEM_PROFILE.definition)
    )
    known = there.limit(0).unionByName(profiles, allowMissingColumns=True)
    changed = known.subtract(there).localCheckpoint()
    count = changed.count()
    if count:
        changed.createOrReplaceTempView("changed_profiles")
        session.sql(
            f"""
            MERGE INTO {name} old USING changed_profiles new
            ON old.item_key = new.item_key AND old.event_timestamp = new.event_timestamp
            WHEN MATCHED THEN UPDATE SET *
            WHEN NOT MATCHED THEN INSERT *
            """
        )
        session.catalog.dropTempView("changed_profiles")
    return count


def oldest_changed(session: SparkSession, loaded: Settings, *, before: date) -> date:
    """The first day whose rows differ from what was built on days before `before`."""
    lake.create_all(loaded)
    newest = [
        _value(
            session.table(lake.spark_name(loaded, view.table))
            .where(sf.col("day") < sf.lit(before))
            .agg(sf.max("day"))
        )
        for view in DAILY
    ]
    # The view that is furthest behind: a build may have been cut short, or have been of some only.
    built = min((day for day in newest if day), default=None)
    if built is None:
        return before
    late = [_oldest_late(session, loaded, table, built) for table in (EVENTS, SEARCHES)]
    return min(day for day in (built, *late) if day)


def _oldest_late(
    session: SparkSession, loaded: Settings, table: schemas.Table, since: date
) -> date | None:
    """The oldest day of what came in since that day, later than on its own."""
    late = session.table(lake.spark_name(loaded, table)).where(
        (sf.col("ts") >= sf.lit(since - timedelta(days=LATE_DAYS)).cast("timestamp"))
        & (sf.col("ingested_at") >= sf.lit(since).cast("timestamp"))
        & (sf.to_date("ts") < sf.to_date("ingested_at"))
    )
    return _value(late.agg(sf.min(sf.to_date("ts"))))


def _value(one_row: DataFrame) -> date | None:
    value: date | None = one_row.collect()[0][0]
    return value


def _run(steps: dict[str, Callable[[], int]]) -> list[dict[str, Any]]:
    """Run each step, named on the terminal while it is at work. Returns: the summary."""
    summary = []
    with Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
        console=people,
        transient=True,
    ) as progress:
        for view, step in steps.items():
            task = progress.add_task(view)
            began = time.monotonic()
            written = step()
            faults.point(f"build.{view}")
            seconds = round(time.monotonic() - began, 1)
            summary.append({"view": view, "rows": written, "seconds": seconds})
            progress.remove_task(task)
    return summary


if __name__ == "__main__":
    run(app)
