"""Keep the lake small in files and short in history: what `pagoda lake maintain` does to a table.

    drop rows beyond retention -> join small files -> expire old snapshots -> remove orphan files

A commit every few seconds leaves 17,000 snapshots and more files a day, and every commit writes
the list of snapshots again. Snapshots that a tag holds stay (a bundle's training data are
tagged), files that a killed writer left go once they are too old to be anybody's work.

Readers see whole snapshots throughout. Writers go on: a step that lost the race is tried again,
and one that loses every time is left to the next run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import structlog
from filelock import FileLock, Timeout
from py4j.protocol import Py4JJavaError  # type: ignore[import-untyped]
from pyspark.errors import PySparkException
from tenacity import retry, retry_if_exception, stop_after_attempt, wait_random_exponential

from jobs.lake.state import (
    MIN_SMALL_FILES,
    Due,
    TableState,
    due,
    history_from,
    old_snapshots,
    retained_from,
    state_of,
)
from pagoda import lake
from pagoda.errors import Conflict
from pagoda.schemas import Table
from pagoda.settings import Settings
from pagoda.spark import CATALOG

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

log = structlog.get_logger(__name__)
MANY_SNAPSHOTS = 200
_CONFLICTS = ("CommitFailedException", "ValidationException", "SQLITE_BUSY", "database is locked")
_JAVA = (PySparkException, Py4JJavaError)


@dataclass(frozen=True, kw_only=True)
class Maintained:
    """What became of a table.

    Attributes:
        due: what there was to do.
        orphans: files that no snapshot knew.
        left: steps that others' commits kept from being done, with the reason.
    """

    before: TableState
    after: TableState
    due: Due
    orphans: int
    left: tuple[str, ...] = ()


def maintain(
    session: SparkSession, settings: Settings, table: Table, *, now: datetime | None = None
) -> Maintained:
    """All that is due on a table."""
    now = now or datetime.now(UTC)
    before = state_of(settings, table)
    _prepare(settings, table)
    todo = due(settings, table, now=now)
    left = []
    orphans = 0
    for name, step in _steps(session, settings, table, todo, now=now):
        try:
            step()
        except _JAVA as error:
            if not _is_conflict(error):
                raise
            left.append(f"{name}: {_first_line(error)}")
    try:
        orphans = remove_orphans(
            session, settings, table, older_than=now - timedelta(hours=settings.lake.orphan_hours)
        )
    finally:
        after = state_of(settings, table)
    return Maintained(before=before, after=after, due=todo, orphans=orphans, left=tuple(left))


def tend(session: SparkSession, settings: Settings, tables: Iterable[Table]) -> None:
    """What landing does beside its work: join and expire where enough was committed to pay.

    A writer that was faster is left its way.
    """
    now = datetime.now(UTC)
    for table in tables:
        if len(lake.open_table(settings, table).metadata.snapshots) <= MANY_SNAPSHOTS:
            continue
        try:
            with alone(settings):
                join_files(session, settings, table)
                expire(session, settings, table, history_from(settings, now=now))
        except (*_JAVA, Conflict) as error:
            log.warning("not_tended", table=table.name, reason=_first_line(error))
        else:
            log.info("tended", table=table.name)


@contextmanager
def alone(settings: Settings) -> Iterator[None]:
    """One at a time. Raises: Conflict if another maintenance, or a `pagoda forget`, is at work."""
    path = settings.run / "maintenance.lock"
    try:
        with FileLock(path, timeout=0):
            yield
    except Timeout:
        raise Conflict(
            "the lake is being maintained",
            where=str(path),
            next_step="Wait until it is done, then try again.",
        ) from None


def _steps(
    session: SparkSession, settings: Settings, table: Table, todo: Due, *, now: datetime
) -> Iterator[tuple[str, Callable[[], Any]]]:
    cutoff = retained_from(settings, table, now=now)
    if todo.rows_beyond_retention and cutoff:
        yield "retention", lambda: drop_before(session, settings, table, cutoff)
    if todo.small_files:
        yield "join", lambda: join_files(session, settings, table)
    # The steps before have made snapshots, but none that is old.
    if todo.old_snapshots:
        since = history_from(settings, now=now)
        yield "expire", lambda: expire(session, settings, table, since)


# Steps -----------------------------------------------------------------------------------------


def _is_conflict(error: BaseException) -> bool:
    return isinstance(error, _JAVA) and any(each in str(error) for each in _CONFLICTS)


retried = retry(
    retry=retry_if_exception(_is_conflict),
    stop=stop_after_attempt(5),
    wait=wait_random_exponential(multiplier=0.2, max=5),
    reraise=True,
)


@retried
def drop_before(session: SparkSession, settings: Settings, table: Table, cutoff: str) -> None:
    """Delete the rows whose day lies before: whole partitions, so that only metadata move."""
    column = table.partition_by_day
    kind = "DATE" if len(cutoff) == len("2026-01-01") else "TIMESTAMP"
    session.sql(
        f"DELETE FROM {lake.spark_name(settings, table)} WHERE {column} < {kind} '{cutoff}'"
    )


@retried
def join_files(session: SparkSession, settings: Settings, table: Table) -> None:
    """Join the small files of each day into few."""
    session.sql(
        f"CALL {CATALOG}.system.rewrite_data_files(table => '{_name(settings, table)}', "
        f"options => map('min-input-files', '{MIN_SMALL_FILES}'))"
    ).collect()


@retried
def expire(session: SparkSession, settings: Settings, table: Table, since: datetime) -> None:
    """Let go of untagged snapshots from before, with the files that only they hold."""
    if not old_snapshots(lake.open_table(settings, table), since):
        return
    session.sql(
        f"CALL {CATALOG}.system.expire_snapshots(table => '{_name(settings, table)}', "
        f"older_than => TIMESTAMP '{since:%Y-%m-%d %H:%M:%S.%f}', retain_last => 1)"
    ).collect()


def remove_orphans(
    session: SparkSession, settings: Settings, table: Table, *, older_than: datetime
) -> int:
    """Delete files below the table's folder that no snapshot knows; returns how many.

    Args:
        older_than: must leave every writer the time to commit what it has written.
    """
    # The procedure refuses ages below a day; the action behind it is told what is safe here.
    jvm: Any = session._jvm
    java = jvm.org.apache.iceberg.spark
    found = java.Spark3Util.loadIcebergTable(
        session._jsparkSession, lake.spark_name(settings, table)
    )
    action = java.actions.SparkActions.get(session._jsparkSession).deleteOrphanFiles(found)
    result = action.olderThan(int(older_than.timestamp() * 1000)).execute()
    return sum(1 for _ in result.orphanFileLocations())


def orphans(session: SparkSession, settings: Settings, table: Table, *, now: datetime) -> int:
    """How many files `remove_orphans` would delete."""
    older_than = now - timedelta(hours=settings.lake.orphan_hours)
    return session.sql(
        f"CALL {CATALOG}.system.remove_orphan_files(table => '{_name(settings, table)}', "
        f"older_than => TIMESTAMP '{older_than:%Y-%m-%d %H:%M:%S}', dry_run => true)"
    ).count()


@lake.again
def _prepare(settings: Settings, table: Table) -> None:
    """The properties that tables of this version are created with, also on older ones."""
    found = lake.open_table(settings, table)
    wanted = lake.properties(table)
    if any(found.properties.get(name) != value for name, value in wanted.items()):
        with found.transaction() as transaction:
            transaction.set_properties(wanted)


def _name(settings: Settings, table: Table) -> str:
    return f"{settings.lake.namespace}.{table.name}"


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [repr(error)])[0][:300]
