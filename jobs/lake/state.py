"""What a table of the lake takes, and what of it maintenance would join, forget or drop.

From metadata alone: no data file is read.
"""

from __future__ import annotations

import os
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from pyiceberg.table import Table as IcebergTable

from pagoda import lake
from pagoda.schemas import Table
from pagoda.settings import Settings

MIN_SMALL_FILES = 5  # so many small files of one day are worth being joined
# Iceberg's own: files below three quarters of 512 MB are small.
_SMALL_BYTES = 512 * 2**20 * 3 // 4


@dataclass(frozen=True, kw_only=True)
class TableState:
    """A table now.

    Attributes:
        rows, files, live_mb: of the current snapshot.
        tags: names of the snapshots that stay until their tag goes.
        disk_mb: of all its files, also those of other snapshots and of none; None where the
            warehouse is no folder of this machine.
    """

    table: str
    rows: int
    files: int
    snapshots: int
    tags: tuple[str, ...]
    live_mb: float
    disk_mb: float | None


@dataclass(frozen=True, kw_only=True)
class Due:
    """What maintenance has to do on a table, orphan files aside."""

    rows_beyond_retention: int
    small_files: int
    old_snapshots: int


def state_of(settings: Settings, table: Table) -> TableState:
    """The table as its metadata and its folder are now."""
    found = lake.open_table(settings, table)
    snapshot = found.current_snapshot()
    summary: Any = (snapshot and snapshot.summary) or {}
    return TableState(
        table=table.name,
        rows=int(summary["total-records"] or 0) if summary else 0,
        files=int(summary["total-data-files"] or 0) if summary else 0,
        snapshots=len(found.metadata.snapshots),
        tags=tuple(sorted(lake.tags(found))),
        live_mb=_mb(int(summary["total-files-size"] or 0) if summary else 0),
        disk_mb=_folder_mb(found),
    )


def due(settings: Settings, table: Table, *, now: datetime) -> Due:
    """What is to be done on it now."""
    found = lake.open_table(settings, table)
    cutoff = retained_from(settings, table, now=now)
    beyond = found.scan(f"{table.partition_by_day} < '{cutoff}'").count() if cutoff else 0
    return Due(
        rows_beyond_retention=beyond,
        small_files=_small_files(found),
        old_snapshots=old_snapshots(found, history_from(settings, now=now)),
    )


def retained_from(settings: Settings, table: Table, *, now: datetime) -> str | None:
    """The first day that the table keeps, as a literal for its column; None if it keeps all."""
    days = settings.retention.days(table.name)
    if days is None or table.partition_by_day is None:
        return None
    first = now.date() - timedelta(days=days)
    by_date = str(table.schema.field(table.partition_by_day).type) == "date32[day]"
    return str(first) if by_date else datetime.combine(first, time(), UTC).isoformat()


def history_from(settings: Settings, *, now: datetime) -> datetime:
    """Snapshots from before are let go of, unless they are tagged or current."""
    return now - timedelta(hours=settings.lake.history_hours)


def _small_files(found: IcebergTable) -> int:
    by_partition = Counter(
        str(task.file.partition)
        for task in found.scan().plan_files()
        if task.file.file_size_in_bytes < _SMALL_BYTES
    )
    return sum(count for count in by_partition.values() if count >= MIN_SMALL_FILES)


def old_snapshots(found: IcebergTable, since: datetime) -> int:
    """How many snapshots from before neither a tag nor a branch names."""
    held = {ref.snapshot_id for ref in found.metadata.refs.values()}
    return sum(
        snapshot.timestamp_ms < since.timestamp() * 1000 and snapshot.snapshot_id not in held
        for snapshot in found.metadata.snapshots
    )


def _folder_mb(found: IcebergTable) -> float | None:
    location = urlparse(found.location())
    if location.scheme not in ("", "file"):
        return None
    total = 0
    for where, _folders, names in os.walk(location.path):
        for name in names:
            with suppress(OSError):  # deleted meanwhile
                total += os.lstat(Path(where) / name).st_size
    return _mb(total)


def _mb(size: int) -> float:
    return round(size / 2**20, 2)
