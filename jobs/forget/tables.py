"""A user's rows in the lake, in every snapshot of it and in every file on the disk.

    delete in the newest snapshot -> the same in each tagged one -> let go of all others
    -> remove files that no snapshot knows -> read every file that is left

A tag keeps what a bundle was trained on. Its snapshot is not thrown away: a branch is made of it,
the rows are deleted there, and the tag moves to what remains.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pyarrow.compute as pc
import pyarrow.dataset as arrow_dataset
from pyarrow.fs import FileSelector
from pyiceberg.io.pyarrow import PyArrowFileIO

from jobs.forget.words import as_a_word
from jobs.lake import care
from pagoda import lake
from pagoda.ids import key_of
from pagoda.schemas import IDS, REJECTED, Table
from pagoda.settings import Settings

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

# Longer than any writer keeps a file before it commits it; builds and maintenance are locked out.
ORPHAN_AGE = timedelta(minutes=10)
_BRANCH = "forgetting"


@dataclass(frozen=True, kw_only=True)
class Trace:
    """Which rows of a table are a user's, in the words of Spark SQL and of Arrow."""

    table: Table
    where: str
    rows: pc.Expression


def traces(user_id: str) -> list[Trace]:
    """Of every table that can hold a user.

    A rejected record that has the id anywhere as a whole word may be the user's: it goes.
    """
    key = key_of("user", user_id)
    word = as_a_word(user_id)
    # Iceberg's SQL extensions know no parameters.
    literal = "'" + word.replace("\\", "\\\\").replace("'", "\\'") + "'"
    found = [
        Trace(table=table, where=f"user_key = {key}", rows=pc.field("user_key") == key)
        for table in lake.TABLES
        if "user_key" in table.schema.names
    ]
    of_users = (pc.field("kind") == "user") & (pc.field("key") == key)
    named = pc.match_substring_regex(pc.field("raw"), word)
    said = pc.match_substring_regex(pc.field("reason"), word)
    return [
        *found,
        Trace(table=IDS, where=f"kind = 'user' AND key = {key}", rows=of_users),
        Trace(
            table=REJECTED,
            where=f"CAST(raw AS STRING) RLIKE {literal} OR reason RLIKE {literal}",
            rows=named | said,
        ),
    ]


@dataclass(frozen=True, kw_only=True)
class Found:
    """What became of a table.

    Attributes:
        rows: how many were the user's in the newest snapshot.
        tags: tags that held some, and now hold the same without them.
        left: files that still hold some: too young to be anybody's leftovers for sure.
    """

    table: str
    rows: int
    tags: tuple[str, ...]
    left: tuple[str, ...] = ()


def look(session: SparkSession, settings: Settings, trace: Trace) -> Found:
    """What `forget` would do."""
    tags = lake.tags(lake.open_table(settings, trace.table))
    holding = [
        name for name, snapshot in tags.items() if _count(session, settings, trace, snapshot)
    ]
    rows = _count(session, settings, trace)
    return Found(table=trace.table.name, rows=rows, tags=tuple(sorted(holding)))


def forget(session: SparkSession, settings: Settings, trace: Trace) -> Found:
    """Remove the rows; again, it removes what an earlier run has left."""
    found = look(session, settings, trace)
    if found.rows:
        _delete(session, trace, lake.spark_name(settings, trace.table))
    _clean_tags(session, settings, trace, found.tags)
    care.expire(session, settings, trace.table, datetime.now(UTC))
    left = tuple(files_holding(settings, trace))
    if left:
        older_than = datetime.now(UTC) - ORPHAN_AGE
        care.remove_orphans(session, settings, trace.table, older_than=older_than)
        left = tuple(files_holding(settings, trace))
    return Found(table=found.table, rows=found.rows, tags=found.tags, left=left)


def files_holding(settings: Settings, trace: Trace) -> Iterator[str]:
    """Every data file below the table's folder that holds a row of the user, known or not."""
    table = lake.open_table(settings, trace.table)
    scheme, netloc, path = PyArrowFileIO.parse_location(table.location())
    assert isinstance(table.io, PyArrowFileIO)
    files: Any = table.io.fs_by_scheme(scheme, netloc)
    selector = FileSelector(f"{path}/data", recursive=True, allow_not_found=True)
    for each in files.get_file_info(selector):
        if each.path.endswith(".parquet"):
            try:
                rows = arrow_dataset.dataset(each.path, format="parquet", filesystem=files)
                if rows.count_rows(filter=trace.rows):
                    yield each.path
            except FileNotFoundError:
                continue  # gone meanwhile


def _clean_tags(
    session: SparkSession, settings: Settings, trace: Trace, tags: tuple[str, ...]
) -> None:
    """Let tags hold their snapshots without the user's rows."""
    name = lake.spark_name(settings, trace.table)
    for tag in tags:
        snapshot = lake.tags(lake.open_table(settings, trace.table))[tag]
        session.sql(
            f"ALTER TABLE {name} CREATE OR REPLACE BRANCH {_BRANCH} AS OF VERSION {snapshot}"
        )
        _delete(session, trace, f"{name}.branch_{_BRANCH}")
        ref = lake.open_table(settings, trace.table).refs()[_BRANCH]
        session.sql(
            f"ALTER TABLE {name} CREATE OR REPLACE TAG `{tag}` AS OF VERSION {ref.snapshot_id}"
        )
    if _BRANCH in lake.open_table(settings, trace.table).refs():  # also one of a killed run
        session.sql(f"ALTER TABLE {name} DROP BRANCH {_BRANCH}")


@care.retried
def _delete(session: SparkSession, trace: Trace, name: str) -> None:
    # Rewrites the files that hold such rows: nothing but a file without them is safe.
    session.sql(f"DELETE FROM {name} WHERE {trace.where}")


def _count(
    session: SparkSession, settings: Settings, trace: Trace, snapshot: int | None = None
) -> int:
    name = lake.spark_name(settings, trace.table)
    version = f" VERSION AS OF {snapshot}" if snapshot else ""
    rows = session.sql(f"SELECT count(*) FROM {name}{version} WHERE {trace.where}")
    return int(rows.collect()[0][0])
