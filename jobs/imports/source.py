"""What every source gives to the import, and what is the same for all of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any, Protocol, TypeAlias

import polars as pl
import pyarrow as pa
from rich.progress import Progress

from pagoda.dataset import Dataset
from pagoda.ids import Kind, keys_of
from pagoda.schemas import Table

BATCH_ROWS = 250_000

Column: TypeAlias = "pa.ChunkedArray[Any] | pa.Array[Any]"


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A reason for which rows of a table were rejected, and the first such row."""

    table: str
    reason: str
    rows: int
    example: str

    def __str__(self) -> str:
        return f"{self.table}: {self.reason} ({self.rows:,} rows, first {self.example})"


class Source(Protocol):
    """Rows on their way into the lake.

    Only `name`, `shifted` and `content` may be asked before `prepare`.
    """

    @property
    def name(self) -> str:
        """What the column `source` says."""
        ...

    @property
    def shifted(self) -> bool:
        """Whether times move to now by whole weeks."""
        ...

    @property
    def content(self) -> str:
        """SHA-256 of files, mapping and options; the same content is the same rows."""
        ...

    def prepare(self, progress: Progress) -> None:
        """Read and judge what there is, once. Raises: InputError if nothing can be stored."""
        ...

    def last_day(self) -> date:
        """The last UTC day with events, as the source has it."""
        ...

    def batches(self, table: Table, shift_days: int) -> Iterator[pa.Table]:
        """The rows of one table in the table's schema, days in ascending order."""
        ...

    def rows(self, table: Table) -> int | None:
        """How many rows `batches` gives, if that is known."""
        ...

    def rejected(self, table: Table) -> int:
        """How many rows meant for that table cannot be stored."""
        ...

    def dataset(self, shift_days: int, fingerprint: str) -> Dataset:
        """The record of the data set."""
        ...

    def problems(self) -> Sequence[Problem]:
        """Why rows cannot be stored, most frequent first."""
        ...

    def notes(self) -> Sequence[str]:
        """What a person should know about these rows."""
        ...


def weeks_to_now(last_day: date, today: date) -> int:
    """Days to add, whole weeks, so that `last_day` lies in the seven days before `today`.

    Never negative: data that reach into today stay as they are.
    """
    return max(0, (today - timedelta(days=1) - last_day).days // 7 * 7)


def with_key(frame: pl.DataFrame, kind: Kind) -> pl.DataFrame:
    """Add `<kind>_key` for the column `<kind>_id`, unless it is there."""
    if f"{kind}_key" in frame.columns:
        return frame
    column = f"{kind}_id"
    distinct = frame[column].unique()
    if 2 * len(distinct) > len(frame):
        return frame.with_columns(pl.Series(f"{kind}_key", keys_of(kind, frame[column])))
    keys = pl.DataFrame({column: distinct, f"{kind}_key": keys_of(kind, distinct)})
    return frame.join(keys, on=column, how="left", maintain_order="left")


def to_table(frame: pl.DataFrame, table: Table, **extra: Column) -> pa.Table:
    """A frame in the table's schema; what the frame lacks is null, `extra` is taken as it is."""
    arrow = frame.to_arrow(compat_level=pl.CompatLevel.oldest())
    columns: Mapping[str, Column] = {
        **dict(zip(arrow.column_names, arrow.columns, strict=True)),
        **extra,
    }
    return pa.table(
        [
            columns[field.name].cast(field.type)
            if field.name in columns
            else pa.nulls(arrow.num_rows, field.type)
            for field in table.schema
        ],
        schema=table.schema,
    )


def ids_table(frame: pl.DataFrame) -> pl.DataFrame:
    """Distinct (kind, id, key) of the users and items that a frame names."""
    parts = []
    for kind in ("user", "item"):
        column = f"{kind}_id"
        if column in frame.columns:
            distinct = frame.select(pl.lit(kind).alias("kind"), pl.col(column).alias("id")).unique()
            parts.append(distinct.with_columns(pl.Series("key", keys_of(kind, distinct["id"]))))
    return pl.concat(parts)
