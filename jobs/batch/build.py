"""Build the feature tables of UTC days from the lake, in one Spark job.

    lake.events, lake.searches, lake.items -> robots -> user_day, user_intraday, user_items,
                                                        user_stats, item_stats, item_profile

The row of day D holds what happened before D, so D's rows can be built as soon as D begins. A
rerun of a day replaces exactly that day, in one commit a table, with the same rows: a reader sees
the old or the new ones. Days on which a user is a robot are left out (`jobs.batch.robots`).

Without `--from` the job builds what is new and what has changed: `jobs.batch.plan` has the rule.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import partial, reduce
from operator import or_
from typing import Annotated, Any

import numpy as np
import typer
from filelock import FileLock, Timeout
from pyspark import StorageLevel
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as sf
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from jobs.batch import (
    history,
    inputs,
    item_profile,
    item_stats,
    robots,
    user_day,
    user_intraday,
    user_items,
    user_stats,
)
from jobs.batch.plan import REACHES, Digests, Reach, Work, described, plan, runs
from pagoda import dataset, faults, features, lake, schemas, settings, spark
from pagoda.console import emit_table, people, run
from pagoda.errors import Conflict, InputError, NothingToDo
from pagoda.features import View
from pagoda.sequences import Int64s
from pagoda.settings import Settings

_LOCK_TIMEOUT_S = 1800  # as long as another build may take
_VIEWS = {view.name: view for view in features.VIEWS}

app = typer.Typer(add_completion=False, help="Build the feature tables of a range of days.")


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

    def __iter__(self) -> Iterator[date]:
        return (self.first + timedelta(days=n) for n in range((self.last - self.first).days + 1))


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
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the days and why; build nothing.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Build features: the days --from to --to, or without --from what is new or has changed.

    --to is today unless given. A day counts as changed if what features read of the events that
    it looks at is not what it was built from. Readers go on reading: each view's days are replaced
    in one commit.
    """
    loaded = settings.load()
    views = [features.view(name) for name in only] if only else features.VIEWS
    end = last.date() if last else datetime.now(UTC).date()
    days = Days(first=first.date(), last=end) if first else None
    with spark.session(loaded, "features") as session:
        if dry_run:
            work = asked_for(days, views) if days else changed(session, loaded, views, end=end)
            emit_table(described(work), title="Would be built", as_json=as_json)
            return
        summary = (
            build_all(session, loaded, days, views=views)
            if days
            else catch_up(session, loaded, end=end, views=views)
        )
    emit_table(summary, title=f"Features up to {end}", as_json=as_json)


def build_all(
    session: SparkSession,
    loaded: Settings,
    days: Days,
    *,
    views: Collection[View] = features.VIEWS,
) -> list[dict[str, Any]]:
    """Build and write these days, whatever they hold. Returns: a summary row for each view, and
    for each rule that says who is a robot how many user-days break it.

    Args:
        views: only these; `pagoda check parity` compares two of them.
    Raises: NothingToDo if the lake holds no event or search that these days could see.
    """
    with alone(loaded):
        _digests(session, loaded)
        work = asked_for(days, views)
        return _build(session, loaded, work, profiles=_profiles(views))


def catch_up(
    session: SparkSession,
    loaded: Settings,
    *,
    end: date,
    views: Collection[View] = features.VIEWS,
) -> list[dict[str, Any]]:
    """Build what is new or has changed up to `end`. Returns: as `build_all`.

    Raises: NothingToDo if there has never been anything to build.
    """
    with alone(loaded):
        work = changed(session, loaded, views, end=end)
        people.print(f"{len({each.day for each in work})} days need building")
        for line in described(work):
            people.print(f"  {line['first']} to {line['last']}: {line['views']}: {line['why']}")
        return _build(session, loaded, work, profiles=_profiles(views))


def asked_for(days: Days, views: Collection[View]) -> list[Work]:
    """These views of these days."""
    return [Work(view=view, day=day, why="asked for") for view in _reaches(views) for day in days]


def changed(
    session: SparkSession,
    loaded: Settings,
    views: Collection[View] = features.VIEWS,
    *,
    end: date,
) -> list[Work]:
    """What is new or has changed up to `end`."""
    digests = _digests(session, loaded)
    kept = [loaded.retention.days(table.name) for table in (schemas.EVENTS, schemas.SEARCHES)]
    today = datetime.now(UTC).date()
    return plan(
        inputs.built(loaded),
        digests,
        _reaches(views),
        end=end,
        kept_from=max((today - timedelta(days=each) for each in kept if each), default=None),
    )


def _build(
    session: SparkSession, loaded: Settings, work: Sequence[Work], *, profiles: bool
) -> list[dict[str, Any]]:
    """Build and write the work, a range of days without a gap after the other."""
    summary: dict[str, dict[str, Any]] = {
        view: {"view": view, "days": 0, "rows": 0, "seconds": 0.0} for view in _VIEWS
    }
    with _progress() as progress:

        def timed(view: str, days: int, step: Callable[[], int]) -> None:
            task = progress.add_task(view)
            began = time.monotonic()
            row = summary[view]
            row["rows"] += step()
            row["days"] += days
            row["seconds"] = round(row["seconds"] + time.monotonic() - began, 1)
            progress.remove_task(task)

        for first, last in runs(each.day for each in work):
            within = [each for each in work if first <= each.day <= last]
            _build_range(session, loaded, within, timed)
        if profiles:
            timed(features.ITEM_PROFILE.name, 0, lambda: item_profile.write(session, loaded))
            faults.point(f"build.{features.ITEM_PROFILE.name}")
    built = [row for row in summary.values() if row["days"] or row["rows"] or not work]
    return [*_robots(session, loaded, work), *built]


def _robots(session: SparkSession, loaded: Settings, work: Sequence[Work]) -> list[dict[str, Any]]:
    """User-days that were left out, in all and by rule, of the days that the work looks at."""
    seen = _seen(work)
    if not seen:
        return []
    first, last = min(seen), max(seen)
    counts = {
        "robots": robots.user_days(session, loaded, first=first, last=last),
        **{
            f"robots: {rule}": count
            for rule, count in robots.by_rule(session, loaded, first=first, last=last).items()
            if count
        },
    }
    return [
        {"view": name, "days": len(seen), "rows": count, "seconds": None}
        for name, count in counts.items()
    ]


def _build_range(
    session: SparkSession,
    loaded: Settings,
    work: Sequence[Work],
    timed: Callable[[str, int, Callable[[], int]], None],
) -> None:
    """Build some days of some views from one reading of their events, and record from what.

    Raises: NothingToDo if there is nothing to see for any of them, and never was.
    """
    clicks = dataset.load(loaded).click_actions
    seen = _seen(work)
    days: dict[str, list[date]] = {}
    for each in work:
        days.setdefault(each.view, []).append(each.day)
    files = inputs.files_of(loaded, clicks)  # before the rows: see `inputs.remember`
    events = (
        history.read(session, loaded, click_actions=clicks, first=min(seen), last=max(seen))
        .repartition("user_key")
        .persist(StorageLevel.MEMORY_AND_DISK)
    )
    try:
        digests = inputs.digests_of(events)
        if not digests and not _any_built(loaded, days):
            raise NothingToDo(
                "no events or searches to build features of",
                where=f"lake, {min(seen)} to {max(seen)}",
                next_step="Import data, or give days that have some with --from and --to.",
            )
        for view, of_view in days.items():
            seen_by = _seen([each for each in work if each.view == view])
            of_reach = history.part(events, min(seen_by), max(seen_by))  # one view looks far back
            rows = _rows_of(_VIEWS[view], of_reach, of_view)
            write = partial(replace_days, loaded, _VIEWS[view], rows, of_view)
            timed(view, len(of_view), write)
            faults.point(f"build.{view}")
        inputs.record(loaded, days, digests)
        inputs.remember(loaded, files, digests, seen)
    finally:
        events.unpersist()


def _rows_of(view: View, events: DataFrame, days: Sequence[date]) -> DataFrame:
    spec = features.CANDIDATES
    midnights: Int64s = np.array([history.midnight_ms(day) for day in days])
    match view:
        case features.USER_DAY:
            return user_day.build(events, days=midnights, spec=spec)
        case features.USER_INTRADAY:
            return user_intraday.build(events, days=midnights, spec=spec)
        case features.USER_ITEMS:
            return user_items.build(events, days=midnights)
        case features.USER_STATS:
            return user_stats.build(events, days=midnights)
        case features.ITEM_STATS:
            rows = item_stats.build(events, first=days[0], last=days[-1])
            return rows.where(_within(days))
    raise ValueError(f"{view.name} has no rows by day")


def replace_days(loaded: Settings, view: View, rows: DataFrame, days: Sequence[date]) -> int:
    """Put rows in place of all that the table held for these days, in one commit.

    Returns: how many rows were written.
    """
    # Not overwritePartitions: it would leave the old rows of a day that has none any more.
    name = lake.spark_name(loaded, view.table)
    said = rows.withColumn("definition", sf.lit(view.definition))
    # A column that only a newer version of the code knows stays, and holds null.
    known = rows.sparkSession.table(name).limit(0)
    whole = known.unionByName(said, allowMissingColumns=True)
    # Sorted by day: else a file of every day is open at once, and a year of days fills the heap.
    whole.writeTo(name).option("fanout-enabled", "false").overwrite(_within(days))
    snapshot = lake.open_table(loaded, view.table).current_snapshot()
    return int(snapshot.summary["added-records"] or 0) if snapshot and snapshot.summary else 0


def _within(days: Sequence[date]) -> Column:
    return reduce(or_, (sf.col("day").between(first, last) for first, last in runs(days)))


def _digests(session: SparkSession, loaded: Settings) -> Digests:
    """What features would read of each day now; days that have changed are judged for robots."""
    lake.create_all(loaded)
    return inputs.current(session, loaded, dataset.load(loaded).click_actions)


def _seen(work: Sequence[Work]) -> set[date]:
    """The days of events that the work looks at."""
    return {day for each in work for day in REACHES[each.view].of(each.day)}


def _reaches(views: Collection[View]) -> dict[str, Reach]:
    wanted = {view.name for view in views}
    return {view: reach for view, reach in REACHES.items() if view in wanted}


def _profiles(views: Collection[View]) -> bool:
    return any(view.name == features.ITEM_PROFILE.name for view in views)


def _any_built(loaded: Settings, days: Mapping[str, Sequence[date]]) -> bool:
    known = inputs.built(loaded)
    return any(day in known.get(view, {}) for view, of_view in days.items() for day in of_view)


@contextmanager
def alone(loaded: Settings) -> Iterator[None]:
    """One build at a time: what is recorded must be what the rows were made of."""
    try:
        with FileLock(loaded.run / "features.lock", timeout=_LOCK_TIMEOUT_S):
            yield
    except Timeout:
        raise Conflict(
            f"another build of features has been at work for {_LOCK_TIMEOUT_S} s",
            where=str(loaded.run / "features.lock"),
            next_step="See which `pagoda features` or Airflow task it is.",
        ) from None


def _progress() -> Progress:
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
        console=people,
        transient=True,
    )


if __name__ == "__main__":
    run(app)
