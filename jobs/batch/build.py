"""Build the feature tables of a range of UTC days from the lake, in one Spark job.

    lake.events, lake.searches, lake.items -> user_day, user_intraday, user_stats, item_stats,
                                              item_profile

The row of day D holds what happened before D, so D's rows can be built as soon as D begins. A
rerun of a day replaces exactly that day, in one commit a table, with the same rows: a reader sees
the old or the new ones.

Without `--from` the job finds out where to begin: at the newest day built so far, whose events of
the day itself are complete only now, or at an earlier day whose rows an event changes that came
in late since.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any

import numpy as np
import typer
from pyspark import StorageLevel
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as sf
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from jobs.batch import history, item_profile, item_stats, user_day, user_intraday, user_stats
from pagoda import dataset, features, lake, schemas, settings, spark
from pagoda.console import emit_table, people, run
from pagoda.errors import InputError, NothingToDo
from pagoda.features import ITEM_PROFILE, View
from pagoda.sequences import Int64s
from pagoda.settings import Settings
from pagoda.windows import DAY_MS, WindowSpec

SPAN_DAYS = 30  # how far statistics look back; windows say themselves
LATE_DAYS = 30  # events later than this change old rows only when those days are asked for

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
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Build all views for the days --from to --to.

    --to is today unless given; --from is the oldest day that anything new has changed.
    """
    loaded = settings.load()
    end = last.date() if last else datetime.now(UTC).date()
    with spark.session(loaded, "features") as session:
        begin = first.date() if first else oldest_changed(session, loaded, before=end)
        summary = build_all(session, loaded, Days(first=begin, last=end))
    emit_table(summary, title=f"Features of {begin} to {end}", as_json=as_json)


def build_all(
    session: SparkSession,
    loaded: Settings,
    days: Days,
    *,
    views: Collection[View] = features.VIEWS,
) -> list[dict[str, Any]]:
    """Build and write every view, or only some. Returns: a summary row for each.

    Raises: NothingToDo if the lake holds no event or search that these days could see.
    """
    spec = WindowSpec()
    imported = dataset.load(loaded)
    lake.create_all(loaded)
    span = max(spec.recent_days + spec.long_term_days, SPAN_DAYS)
    reach = Days(first=days.first - timedelta(days=span), last=days.last)
    events = (
        history.read(
            session,
            loaded,
            click_actions=imported.click_actions,
            first=reach.first,
            last=reach.last,
        )
        .repartition("user_key")
        .persist(StorageLevel.MEMORY_AND_DISK)
    )
    try:
        if events.isEmpty():
            raise NothingToDo(
                "no events or searches to build features of",
                where=f"lake, {reach.first} to {reach.last}",
                next_step="Import data, or give days that have some with --from and --to.",
            )
        midnights = days.midnights
        items = session.table(lake.spark_name(loaded, schemas.ITEMS))
        builds: list[tuple[View, Callable[[], DataFrame]]] = [
            (features.USER_DAY, lambda: user_day.build(events, days=midnights, spec=spec)),
            (
                features.USER_INTRADAY,
                lambda: user_intraday.build(events, days=midnights, spec=spec),
            ),
            (features.USER_STATS, lambda: user_stats.build(events, days=midnights)),
            (
                features.ITEM_STATS,
                lambda: item_stats.build(events, first=days.first, last=days.last),
            ),
            (features.ITEM_PROFILE, lambda: item_profile.build(items)),
        ]
        chosen = [(view, build) for view, build in builds if view in views]
        return [_write(session, loaded, view, build(), days) for view, build in _watched(chosen)]
    finally:
        events.unpersist()


def oldest_changed(session: SparkSession, loaded: Settings, *, before: date) -> date:
    """The first day whose rows differ from what was built before the day `before`."""
    built = _newest_day(session, loaded, features.USER_DAY, before=before)
    if built is None:
        return before
    return min([built, *_late_since(session, loaded, built)])


def _newest_day(
    session: SparkSession, loaded: Settings, view: View, *, before: date
) -> date | None:
    lake.create_all(loaded)
    table = session.table(lake.spark_name(loaded, view.table))
    return _value(table.where(sf.col("day") < sf.lit(before)).agg(sf.max("day")))


def _late_since(session: SparkSession, loaded: Settings, since: date) -> list[date]:
    """The oldest day of events and searches that came in on a later day than their own."""
    found = []
    for table in (schemas.EVENTS, schemas.SEARCHES):
        rows = session.table(lake.spark_name(loaded, table)).where(
            (sf.col("ts") >= sf.lit(since - timedelta(days=LATE_DAYS)).cast("timestamp"))
            & (sf.col("ingested_at") >= sf.lit(since).cast("timestamp"))
            & (sf.to_date("ts") < sf.to_date("ingested_at"))
        )
        oldest = _value(rows.agg(sf.min(sf.to_date("ts"))))
        found += [oldest] if oldest else []
    return found


def _value(one_row: DataFrame) -> date | None:
    value: date | None = one_row.collect()[0][0]
    return value


def _write(
    session: SparkSession, loaded: Settings, view: View, rows: DataFrame, days: Days
) -> dict[str, Any]:
    """Replace what the table held for these days. Returns: the summary row."""
    began = time.monotonic()
    name = lake.spark_name(loaded, view.table)
    if view is ITEM_PROFILE:
        written = _merge_profiles(session, name, rows)
    else:
        in_range = (sf.col("day") >= sf.lit(days.first)) & (sf.col("day") <= sf.lit(days.last))
        rows.select(*view.table.schema.names).writeTo(name).overwrite(in_range)
        written = _added_rows(loaded, view)
    return {
        "view": view.name,
        "rows": written,
        "seconds": round(time.monotonic() - began, 1),
    }


def _added_rows(loaded: Settings, view: View) -> int:
    snapshot = lake.open_table(loaded, view.table).current_snapshot()
    return int(snapshot.summary["added-records"] or 0) if snapshot and snapshot.summary else 0


def _merge_profiles(session: SparkSession, name: str, rows: DataFrame) -> int:
    """Add what is new or corrected and keep earlier rows: the profile as it was stays readable.

    Returns: how many rows were added or corrected.
    """
    changed = rows.subtract(session.table(name)).localCheckpoint()
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
    return count


def _watched(
    builds: list[tuple[View, Callable[[], DataFrame]]],
) -> Iterator[tuple[View, Callable[[], DataFrame]]]:
    """The same, each named on the terminal while it is at work."""
    with Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
        console=people,
        transient=True,
    ) as progress:
        for view, build in builds:
            task = progress.add_task(view.name)
            yield view, build
            progress.remove_task(task)


if __name__ == "__main__":
    run(app)
