"""Files whose rows are judged into a scratch folder, as a source for the import.

Which rows a file has, each source says itself (`checked`). What becomes of them is the same for
all: accepted ones are staged by day, rejected ones counted by reason and kept with their place.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from collections.abc import Mapping as Map
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from functools import cached_property
from pathlib import Path

import polars as pl
import pyarrow as pa
from rich.progress import Progress

from jobs.imports import read, rows
from jobs.imports.mapping import DatasetMapping
from jobs.imports.notes import notes_of
from jobs.imports.source import BATCH_ROWS, Problem, ids_table, to_table, with_key
from jobs.imports.staging import Staged
from pagoda.dataset import Dataset
from pagoda.errors import InputError
from pagoda.ids import Kind
from pagoda.schemas import EVENTS, IDS, ITEMS, REJECTED, SEARCHES, Table

MADE_UP_FROM = datetime(2000, 1, 3, tzinfo=UTC)  # the first event, where times are an order
_TABLES: dict[str, tuple[Table, Kind, str | None]] = {
    "items": (ITEMS, "item", None),
    "events": (EVENTS, "event", "ts"),
    "searches": (SEARCHES, "search", "ts"),
}


@dataclass(kw_only=True)
class _Tally:
    """Rows of one table: what was read is what was accepted and what was rejected."""

    read: int = 0
    rejected: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)


class StagedFiles(ABC):
    """Files on their way into the lake.

    `content` hashes the files; `prepare` reads and judges them, once, into a scratch folder that
    `close` removes.

    Args:
        name: the source's.
        options: what the record of the data set says.
        files: of each table that is read, by the table's name.
        home: the folder that places are named from.
        said: what decides on the rows beside the files.
        scratch: a folder to work in.
        now: rows later than this are in the future.
    """

    def __init__(
        self,
        name: str,
        options: DatasetMapping,
        files: Map[str, Sequence[Path]],
        *,
        home: Path,
        said: str,
        scratch: Path,
        now: datetime | None = None,
    ) -> None:
        self._name = name
        self._options = options
        self._files = files
        self._home = home
        self._said = said
        self._now = now or datetime.now(UTC)
        self._folder = scratch / f"import-{name}"
        self._tally = {table: _Tally() for table in files}
        self._staged: dict[str, Staged] = {}
        self._rejected_parts = 0

    @abstractmethod
    def checked(self, name: str, file: Path) -> Iterator[rows.Checked]:
        """What one file says of one table, some rows at a time.

        Raises: InputError where the rest of the file cannot be read.
        """

    @property
    def name(self) -> str:
        """The source's name."""
        return self._name

    @property
    def shifted(self) -> bool:
        """Whether times move to now by whole weeks."""
        return self._options.shift_to_now

    @cached_property
    def content(self) -> str:
        """SHA-256 of what was said and of every file's name and bytes."""
        digest = hashlib.sha256(self._said.encode())
        for name, files in self._files.items():
            for file in files:
                with file.open("rb") as stream:
                    inner = hashlib.file_digest(stream, "sha256").hexdigest()
                digest.update(f"\0{name}\0{self._shown(file)}\0{inner}".encode())
        return digest.hexdigest()

    def prepare(self, progress: Progress) -> None:
        """Read all files. Raises: InputError if no item or no event can be stored."""
        if self._staged:
            return
        self.close()
        (self._folder / "rejected").mkdir(parents=True)
        self._staged = {name: self._stage(name, progress) for name in self._files}
        needed = [name for name in ("items", "events") if name in self._staged]
        if nothing := [name for name in needed if not len(self._staged[name])]:
            raise InputError(
                f"no row of {' and '.join(nothing)} can be stored",
                problems=[str(problem) for problem in self.problems()],
                next_step="Correct the files, or what is said of them; nothing was written.",
            )

    def last_day(self) -> date:
        """The last UTC day with events."""
        return self._staged["events"].days()[-1]

    def rows(self, table: Table) -> int:
        """How many rows `batches` gives."""
        if table is IDS:
            return len(self._ids)
        if table is REJECTED:
            return sum(tally.rejected for tally in self._tally.values())
        if table is ITEMS and "items" not in self._files:
            return len(self._items_of_events)
        return len(self._staged[table.name]) if table.name in self._staged else 0

    def rejected(self, table: Table) -> int:
        """How many rows meant for that table cannot be stored."""
        return self._tally[table.name].rejected if table.name in self._tally else 0

    def problems(self) -> Sequence[Problem]:
        """Why rows were rejected, most frequent first."""
        return [
            Problem(table=name, reason=reason, rows=count, example=tally.examples[reason])
            for name, tally in self._tally.items()
            for reason, count in tally.reasons.most_common()
        ]

    def notes(self) -> Sequence[str]:
        """What fits together badly without being wrong."""
        validation_from, _ = self._weeks(self.last_day())
        return notes_of(self._options, self._staged, validation_from=validation_from)

    def dataset(self, shift_days: int, fingerprint: str) -> Dataset:
        """The record: test and validation days as the options say."""
        shift = timedelta(days=shift_days)
        days, options = self._staged["events"].days(), self._options
        validation_from, test_from = self._weeks(days[-1])
        return Dataset(
            name=self.name,
            click_actions=options.click_actions,
            positive_actions=options.positive_actions,
            requests="searches" if "searches" in self._files else "events",
            times=options.times,
            split=options.split,
            shift_days=shift_days,
            first_day=days[0] + shift,
            last_day=days[-1] + shift,
            validation_from=validation_from + shift,
            test_from=test_from + shift,
            query_protocol=options.queries if "searches" in self._files else "none",
            fingerprint=fingerprint,
        )

    def batches(self, table: Table, shift_days: int) -> Iterator[pa.Table]:
        """The rows of one table, days in ascending order."""
        if table is IDS:
            yield to_table(self._ids, IDS)
        elif table is REJECTED:
            yield from self._rejected_batches()
        elif table is ITEMS and "items" not in self._files:
            yield self._finish(self._items_of_events, ITEMS, timedelta(days=shift_days))
        elif table.name in self._staged:
            for frame in self._staged[table.name].batches(BATCH_ROWS):
                yield self._finish(frame, table, timedelta(days=shift_days))

    def close(self) -> None:
        """Remove the scratch folder."""
        shutil.rmtree(self._folder, ignore_errors=True)

    # Staging -----------------------------------------------------------------------------------

    def _stage(self, name: str, progress: Progress) -> Staged:
        """Read and judge the files of one table."""
        _, kind, moment = _TABLES[name]
        staged = Staged(self._folder / name, kind=kind, id_column=f"{kind}_id", time=moment)
        tally = self._tally[name]
        in_order = name == "events" and self._options.times == "order"
        task = progress.add_task(f"reading {name}", total=None)
        for file in self._files[name]:
            for some in self.checked(name, file):
                staged.add(some.accepted)
                self._reject(name, some.rejected)
                tally.read += len(some.accepted) + len(some.rejected)
                progress.update(task, completed=tally.read)
        if in_order:
            staged.retime(MADE_UP_FROM)
        for going in staged.settle():
            self._reject(name, going)
        assert len(staged) + tally.rejected == tally.read, (name, len(staged), tally)
        progress.update(task, total=tally.read)
        return staged

    def _reject(self, name: str, rejected: pl.DataFrame) -> None:
        if rejected.is_empty():
            return
        tally = self._tally[name]
        tally.rejected += len(rejected)
        kinds = (
            rejected.explode(rows.REASONS)
            .group_by(
                pl.col(rows.REASONS).str.replace("(?s): .*", "").alias("kind"), maintain_order=True
            )
            .agg(pl.len(), pl.format("{}: {}", read.PLACE, rows.REASONS).first().alias("example"))
        )
        for kind, count, example in kinds.iter_rows():
            tally.reasons[kind] += count
            tally.examples.setdefault(kind, example)
        rejected.select(
            pl.lit(self.name).alias("source"),
            pl.col(read.PLACE).alias("place"),
            pl.col(rows.REASONS).list.join("; ").alias("reason"),
            pl.col(read.RAW).alias("raw"),
            pl.lit(self._now).dt.cast_time_unit("us").dt.truncate("1ms").alias("rejected_at"),
        ).write_parquet(self._folder / "rejected" / f"{self._rejected_parts:06}.parquet")
        self._rejected_parts += 1

    def _rejected_batches(self) -> Iterator[pa.Table]:
        for part in sorted((self._folder / "rejected").iterdir()):
            yield to_table(pl.read_parquet(part), REJECTED)

    @cached_property
    def _items_of_events(self) -> pl.DataFrame:
        """The items there are without a catalogue: their ids stand in for their titles."""
        found = self._staged["events"].distinct("item_id").sort("item_id")
        return found.with_columns(pl.col("item_id").alias("title"))

    @cached_property
    def _ids(self) -> pl.DataFrame:
        parts = [
            ids_table(stage.distinct(column))
            for stage in self._staged.values()
            for column in ("user_id", "item_id")
            if column in stage.columns()
        ]
        return pl.concat(parts).unique().sort("kind", "id")

    # Mapping -----------------------------------------------------------------------------------

    def _finish(self, frame: pl.DataFrame, table: Table, shift: timedelta) -> pa.Table:
        frame = frame.with_columns(pl.lit(self.name).alias("source"))
        if table is ITEMS:
            return self._items(frame, shift)
        _, kind, _ = _TABLES[table.name]
        frame = frame.with_columns(pl.col("ts") + shift).with_columns(
            pl.col("ts").alias("ingested_at")
        )
        frame = with_key(with_key(frame, kind), "user")
        return to_table(with_key(frame, "item") if table is EVENTS else frame, table)

    def _items(self, frame: pl.DataFrame, shift: timedelta) -> pa.Table:
        """Items without a time are taken as known from the first day with events."""
        begin = datetime.combine(self._staged["events"].days()[0], time(), tzinfo=UTC)
        given = pl.col("updated_at") if "updated_at" in frame.columns else pl.lit(None)
        frame = frame.with_columns((given.fill_null(pl.lit(begin)) + shift).alias("updated_at"))
        names = [each for each in frame.columns if each.startswith(rows.ATTRIBUTE)]
        attributes = pa.array(
            [
                [
                    (name.removeprefix(rows.ATTRIBUTE), value)
                    for name, value in zip(names, values, strict=True)
                    if value is not None
                ]
                for values in frame.select(names).iter_rows()
            ]
            if names
            else [None] * len(frame),
            ITEMS.schema.field("attributes").type,
        )
        return to_table(with_key(frame.drop(names), "item"), ITEMS, attributes=attributes)

    def _weeks(self, last: date) -> tuple[date, date]:
        """First day of validation and of test, before the shift."""
        options = self._options
        test_from = options.test_from or last - timedelta(days=options.test_days - 1)
        return (
            options.validation_from or test_from - timedelta(days=options.validation_days),
            test_from,
        )

    def _shown(self, file: Path) -> str:
        return os.path.relpath(file, self._home)
