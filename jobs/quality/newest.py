"""The newest time in a table's column, from the bounds in its metadata: no data are read."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from pyiceberg.conversions import from_bytes

from pagoda import lake
from pagoda.schemas import Table
from pagoda.settings import Settings

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def newest_ms(settings: Settings, table: Table, column: str) -> int | None:
    """The newest value of a timestamp column, epoch milliseconds; None in an empty table."""
    opened = lake.open_table(settings, table)
    field = opened.schema().find_field(column)
    kind: Any = field.field_type
    bounds: list[Any] = [
        from_bytes(kind, bound)
        for task in opened.scan().plan_files()
        if (bound := (task.file.upper_bounds or {}).get(field.field_id))
    ]
    return max(bounds) // 1000 if bounds else None
