"""One import from beginning to end: shift, fingerprint, tables, record of the data set."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import structlog
from filelock import FileLock, Timeout
from pyiceberg.table import Table as IcebergTable
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)

from jobs.imports import lake
from jobs.imports.source import Source, weeks_to_now
from pagoda import dataset
from pagoda.console import people
from pagoda.errors import Conflict, InputError, NothingToDo
from pagoda.lake import open_table
from pagoda.schemas import EVENTS, IDS, ITEMS, REJECTED, SEARCHES, Table
from pagoda.settings import Settings

# ids first: a collision is found before anything else is written.
TABLES = (IDS, ITEMS, EVENTS, SEARCHES, REJECTED)

log = structlog.get_logger()


@dataclass(kw_only=True)
class Counts:
    """What happened to the rows of one table; `replaced` rows of an earlier import went."""

    written: int = 0
    rejected: int = 0
    unchanged: int = 0
    replaced: int = 0


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What an import did, or would do."""

    tables: dict[str, Counts]
    shift_days: int
    dataset: dataset.Dataset
    notes: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            **{name: asdict(counts) for name, counts in self.tables.items()},
            "shift_days": self.shift_days,
            "dataset": self.dataset.model_dump(mode="json"),
            "notes": self.notes,
        }


def run_import(
    settings: Settings,
    source: Source,
    *,
    replace: bool = False,
    shift_anew: bool = False,
    dry_run: bool = False,
    now: datetime | None = None,
) -> Outcome:
    """Bring a source into the lake; the same source again changes nothing.

    Args:
        replace: let this source take the place of another data set in the lake.
        shift_anew: move times to the present week, whatever was recorded.
        now: the clock, for tests.
    Raises: InputError if the source cannot be used or another data set is in the lake.
    """
    now = now or datetime.now(UTC)
    with _only_one(settings):
        opened = {table.name: open_table(settings, table) for table in TABLES}
        others = _others(opened, source.name)
        if others and not replace:
            raise InputError(
                f"the lake holds another data set: {', '.join(sorted(others))}",
                where=str(settings.home),
                next_step="Import into another PAGODA_HOME, or replace it with --replace.",
            )
        shift_days = _shift(settings, opened, source, anew=shift_anew, now=now)
        fingerprint = hashlib.sha256(f"{source.content} shift {shift_days}".encode()).hexdigest()
        counts: dict[str, Counts] = {}
        with _progress() as progress:
            for table in TABLES:
                counts[table.name] = _one_table(
                    opened[table.name],
                    table,
                    source,
                    shift_days=shift_days,
                    fingerprint=fingerprint,
                    instead_of=others,
                    dry_run=dry_run,
                    progress=progress,
                )
        record = _record(settings, source, shift_days, fingerprint)
        if not dry_run and record != _recorded(settings):
            dataset.save(settings, record)
    changed = any(count.written or count.replaced for count in counts.values())
    return Outcome(
        tables=counts,
        shift_days=shift_days,
        dataset=record,
        notes=list(source.notes()) if changed else [],
    )


def _one_table(
    table: IcebergTable,
    contract: Table,
    source: Source,
    *,
    shift_days: int,
    fingerprint: str,
    instead_of: set[str],
    dry_run: bool,
    progress: Progress,
) -> Counts:
    have = lake.held(table)
    mine = have.get(source.name)
    if mine and mine.fingerprint == fingerprint and not instead_of & have.keys():
        return Counts(unchanged=mine.rows)
    counts = Counts(rejected=source.rejected(contract))
    if contract is not IDS:  # ids are never taken back
        counts.replaced = sum(
            each.rows for name, each in have.items() if name in {source.name, *instead_of}
        )
    task = progress.add_task(contract.name, total=source.rows(contract))

    def batches() -> Iterator[pa.Table]:
        for batch in source.batches(contract, shift_days):
            rows = lake.new_ids(table, batch) if contract is IDS else batch
            counts.written += rows.num_rows
            counts.unchanged += batch.num_rows - rows.num_rows
            yield rows
            progress.advance(task, batch.num_rows)

    if dry_run:
        for _ in batches():
            pass
    else:
        lake.replace(
            table,
            source.name,
            batches(),
            fingerprint=fingerprint,
            shift_days=shift_days,
            instead_of=instead_of,
        )
        log.info("imported", table=contract.name, source=source.name, **asdict(counts))
    return counts


def _shift(
    settings: Settings,
    opened: dict[str, IcebergTable],
    source: Source,
    *,
    anew: bool,
    now: datetime,
) -> int:
    """The recorded shift of this source, also of an import that was cut off, or a new one."""
    if not source.shifted:
        return 0
    record = _recorded(settings)
    if not anew:
        if record and record.name == source.name and record.shift_days:
            return record.shift_days
        for table in opened.values():
            mine = lake.held(table).get(source.name)
            if mine and mine.shift_days:
                return mine.shift_days
    return weeks_to_now(source.last_day(), now.date())


def _others(opened: dict[str, IcebergTable], name: str) -> set[str]:
    names = {each for table in opened.values() for each in lake.held(table)}
    return names - {name}


def _recorded(settings: Settings) -> dataset.Dataset | None:
    try:
        return dataset.load(settings)
    except NothingToDo:
        return None


def _record(
    settings: Settings, source: Source, shift_days: int, fingerprint: str
) -> dataset.Dataset:
    """The record as it stands, if it is of this very import: then nothing needs to be read."""
    record = _recorded(settings)
    if record and record.name == source.name and record.fingerprint == fingerprint:
        return record
    return source.dataset(shift_days, fingerprint)


@contextmanager
def _only_one(settings: Settings) -> Iterator[None]:
    try:
        with FileLock(settings.run / "import.lock", timeout=0):
            yield
    except Timeout:
        raise Conflict(
            "another import is running",
            where=str(settings.home),
            next_step="Wait until it is done, then import again.",
        ) from None


def _progress() -> Progress:
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=people,
    )
