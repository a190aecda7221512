"""The lake: Iceberg tables that PyIceberg and Spark share through one catalog.

Locally the catalog is a SQLite file (WAL, busy timeout 30 s) and the warehouse a folder; on a
cluster settings name another catalog and no code changes.
"""

from __future__ import annotations

import os
import sqlite3
import warnings
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from pyiceberg.catalog import Catalog, load_catalog
from pyiceberg.exceptions import (
    CommitFailedException,
    NamespaceAlreadyExistsError,
    TableAlreadyExistsError,
    ValidationException,
)
from pyiceberg.table import Table as IcebergTable
from pyiceberg.table.refs import SnapshotRefType
from pyiceberg.transforms import DayTransform, IdentityTransform
from tenacity import retry, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from pagoda import evolution
from pagoda.features import VIEWS
from pagoda.schemas import BUILD_RECORDS, RAW_TABLES, Table
from pagoda.settings import Settings
from pagoda.spark import BUSY_TIMEOUT_S, CATALOG

if TYPE_CHECKING:
    import polars as pl

TABLES = (*RAW_TABLES, *BUILD_RECORDS, *(view.table for view in VIEWS))
_PROPERTIES = {
    "write.parquet.compression-codec": "zstd",
    "commit.retry.num-retries": "10",
    # A commit writes the whole list of snapshots again: what it replaces is deleted with it.
    "write.metadata.delete-after-commit.enabled": "true",
    "write.metadata.previous-versions-max": "20",
}

# Decorates a function that opens a table and commits to it: run again if somebody was faster.
again = retry(
    retry=retry_if_exception_type((CommitFailedException, ValidationException)),
    stop=stop_after_attempt(8),
    wait=wait_random_exponential(multiplier=0.1, max=3),
    reraise=True,
)


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
    """The Iceberg table, created empty if it is not there, changed if its declaration has grown.

    Raises: InputError naming every column that cannot follow (`pagoda.evolution`).
    """
    lake = catalog(settings)
    identifier = (settings.lake.namespace, table.name)
    if lake.table_exists(identifier):
        return evolution.evolve(lake, lake.load_table(identifier), table)
    with suppress(NamespaceAlreadyExistsError):
        lake.create_namespace(settings.lake.namespace)
    # Whoever was faster had the same definition.
    with suppress(TableAlreadyExistsError, CommitFailedException):
        _create(lake, identifier, table)
    return evolution.evolve(lake, lake.load_table(identifier), table)


def properties(table: Table) -> dict[str, str]:
    """What every table is created with, and kept at by maintenance."""
    hidden = {f"write.metadata.metrics.column.{name}": "counts" for name in table.personal}
    return _PROPERTIES | hidden


def _create(lake: Catalog, identifier: tuple[str, str], table: Table) -> None:
    """In one commit: a table without its partitions would stay without them."""
    with lake.create_table_transaction(
        identifier, schema=table.schema, properties=properties(table)
    ) as transaction:
        if table.partition_by_day:
            column = table.schema.field(table.partition_by_day)
            by_date = str(column.type) == "date32[day]"
            transform: Any = IdentityTransform() if by_date else DayTransform()
            with transaction.update_spec() as spec:
                spec.add_field(table.partition_by_day, transform, f"{table.partition_by_day}_day")


def tags(table: IcebergTable) -> dict[str, int]:
    """Name to snapshot of the table's tags: what they hold, maintenance keeps."""
    return {
        name: ref.snapshot_id
        for name, ref in table.refs().items()
        if ref.snapshot_ref_type == SnapshotRefType.TAG
    }


@again
def tag(settings: Settings, table: Table, name: str, snapshot_id: int) -> None:
    """Let a tag hold that snapshot; a tag of that name moves."""
    open_table(settings, table).manage_snapshots().create_tag(snapshot_id, name).commit()


@again
def untag(settings: Settings, table: Table, name: str) -> bool:
    """Remove a tag; False if there is none of that name."""
    found = open_table(settings, table)
    if name not in tags(found):
        return False
    found.manage_snapshots().remove_tag(name).commit()
    return True


@again
def overwrite(settings: Settings, table: Table, rows: pa.Table) -> None:
    """Put rows in the place of all that a small table holds, in one commit."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Delete operation did not match any records")
        open_table(settings, table).overwrite(rows)


def scan(settings: Settings, table: Table) -> pl.LazyFrame:
    """The table's current snapshot as a lazy frame; nothing is read before it is collected.

    Collect with `engine="streaming"`: memory then holds some row groups, not the table.
    """
    import polars as pl

    # PyIceberg plans the scan, as everywhere here; unsaid, Polars would warn of it.
    os.environ.setdefault("POLARS_ICEBERG_PLANNER", "pyiceberg")
    return pl.scan_iceberg(open_table(settings, table))


def create_all(settings: Settings) -> None:
    """Create every table that is missing, and bring the others to their declaration."""
    for table in TABLES:
        open_table(settings, table)
