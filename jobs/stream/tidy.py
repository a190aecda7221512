"""Keep the tables that landing writes small in files and short in history.

A commit every few seconds would leave 17,000 snapshots and more files a day, and every commit
writes the list of snapshots again. So small files of a day are joined, and snapshots that are
old and that no tag or branch holds expire. What a tag holds stays for ever: pin what must be read
again later.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import structlog
from pyspark.errors import PySparkException

from pagoda import lake
from pagoda.schemas import Table
from pagoda.settings import Settings
from pagoda.spark import CATALOG

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

log = structlog.get_logger(__name__)
MANY_SNAPSHOTS = 200
_PROPERTIES = {
    "write.metadata.delete-after-commit.enabled": "true",
    "write.metadata.previous-versions-max": "20",
}


def prepare(settings: Settings, table: Table) -> None:
    """Create the table if it is missing; its old metadata files are deleted as it grows."""
    found = lake.open_table(settings, table)
    if any(found.properties.get(name) != value for name, value in _PROPERTIES.items()):
        with found.transaction() as transaction:
            transaction.set_properties(_PROPERTIES)


def tidy_all(session: SparkSession, settings: Settings, tables: Iterable[Table]) -> None:
    """Tidy the tables to which enough was committed that it pays."""
    for table in tables:
        if len(lake.open_table(settings, table).metadata.snapshots) > MANY_SNAPSHOTS:
            tidy(session, settings, table)


def tidy(session: SparkSession, settings: Settings, table: Table) -> None:
    """Join small files, forget old snapshots. A writer that was faster is left its way."""
    name = f"{settings.lake.namespace}.{table.name}"
    keep_since = datetime.now(UTC) - timedelta(hours=settings.stream.landing_history_hours)
    try:
        joined = session.sql(
            f"CALL {CATALOG}.system.rewrite_data_files("
            f"table => '{name}', options => map('min-input-files', '5'))"
        ).collect()[0]
        expired = session.sql(
            f"CALL {CATALOG}.system.expire_snapshots(table => '{name}', "
            f"older_than => TIMESTAMP '{keep_since:%Y-%m-%d %H:%M:%S}', retain_last => 10)"
        ).collect()[0]
    except PySparkException as error:
        log.warning("not_tidied", table=table.name, reason=str(error).splitlines()[0][:300])
        return
    log.info(
        "tidied",
        table=table.name,
        files_joined=joined["rewritten_data_files_count"],
        into=joined["added_data_files_count"],
        files_deleted=expired["deleted_data_files_count"],
    )
