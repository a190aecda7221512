"""The lake: Iceberg tables that PyIceberg and Spark share through one catalog.

Locally the catalog is a SQLite file (WAL, busy timeout 30 s) and the warehouse a folder; on a
cluster settings name another catalog and no code changes.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from pyiceberg.catalog import Catalog, load_catalog
from pyiceberg.exceptions import NamespaceAlreadyExistsError, TableAlreadyExistsError
from pyiceberg.table import Table as IcebergTable
from pyiceberg.transforms import DayTransform, IdentityTransform

from pagoda.features import VIEWS
from pagoda.schemas import RAW_TABLES, Table
from pagoda.settings import Settings
from pagoda.spark import BUSY_TIMEOUT_S, CATALOG

if TYPE_CHECKING:
    import polars as pl


def catalog(settings: Settings) -> Catalog:
    """The catalog, as settings name it; the local one is made at first use."""
    if settings.lake.pyiceberg:
        return load_catalog(CATALOG, **settings.lake.pyiceberg)
    database = settings.lake_folder / "catalog.db"
    if not database.exists():
        with sqlite3.connect(database) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
    return load_catalog(
        CATALOG,
        type="sql",
        uri=f"sqlite:///{database}?timeout={BUSY_TIMEOUT_S}",
        warehouse=settings.lake_folder.as_uri(),
    )


def spark_name(settings: Settings, table: Table) -> str:
    """How Spark SQL calls a table."""
    return f"{CATALOG}.{settings.lake.namespace}.{table.name}"


def open_table(settings: Settings, table: Table) -> IcebergTable:
    """The Iceberg table, created empty if it is not there."""
    lake = catalog(settings)
    identifier = (settings.lake.namespace, table.name)
    if lake.table_exists(identifier):
        return lake.load_table(identifier)
    with suppress(NamespaceAlreadyExistsError):
        lake.create_namespace(settings.lake.namespace)
    try:
        created = lake.create_table(
            identifier,
            schema=table.schema,
            properties={
                "format-version": "2",
                "write.parquet.compression-codec": "zstd",
                "commit.retry.num-retries": "10",
            },
        )
    except TableAlreadyExistsError:
        return lake.load_table(identifier)
    if table.partition_by_day:
        column = table.schema.field(table.partition_by_day)
        by_date = str(column.type) == "date32[day]"
        transform: Any = IdentityTransform() if by_date else DayTransform()
        with created.update_spec() as spec:
            spec.add_field(table.partition_by_day, transform, f"{table.partition_by_day}_day")
    return lake.load_table(identifier)


def scan(settings: Settings, table: Table) -> pl.LazyFrame:
    """The table's current snapshot as a lazy frame; nothing is read before it is collected.

    Collect with `engine="streaming"`: memory then holds some row groups, not the table.
    """
    import polars as pl

    # PyIceberg plans the scan, as everywhere here; unsaid, Polars would warn of it.
    os.environ.setdefault("POLARS_ICEBERG_PLANNER", "pyiceberg")
    return pl.scan_iceberg(open_table(settings, table))


def create_all(settings: Settings) -> None:
    """Create every table that is missing."""
    for table in (*RAW_TABLES, *(view.table for view in VIEWS)):
        open_table(settings, table)
