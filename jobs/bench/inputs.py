"""What the peers of `pagoda bench features` read: the lake's own files, found as Iceberg says."""

from __future__ import annotations

import polars as pl

from pagoda import lake
from pagoda.schemas import ROBOTS, Table
from pagoda.settings import Settings


def files(settings: Settings, table: Table) -> list[str]:
    """The table's data files; a lake that was imported once has no delete files beside them."""
    tasks = list(lake.open_table(settings, table).scan().plan_files())
    assert not any(task.delete_files for task in tasks)
    return [task.file.file_path.removeprefix("file://") for task in tasks]


def robot_days(settings: Settings) -> pl.DataFrame:
    """user_key, day: what features leave out."""
    rows = lake.scan(settings, ROBOTS).select("user_key", "day").unique()
    return rows.collect(engine="streaming")
