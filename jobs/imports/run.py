"""One import from beginning to end: shift, fingerprint, tables, record of the data set."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
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
from sqlalchemy.exc import OperationalError

from jobs.imports import lake
from jobs.imports.source import Problem, Source, weeks_to_now
from pagoda import dataset
from pagoda.console import people
from pagoda.errors import Conflict, InputError, MachineError, NothingToDo
from pagoda.forgotten import Forgotten, consulted
from pagoda.lake import open_table
from pagoda.schemas import EVENTS, IDS, ITEMS, REJECTED, SEARCHES, Table
from pagoda.settings import Settings

# ids first: a collision is found before anything else is written.
TABLES = (IDS, ITEMS, EVENTS, SEARCHES, REJECTED)
_SAMPLES = 3

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
    """What an import did, or (`dry_run`) would do.

    Attributes:
        problems: why rows were rejected; empty if nothing was read because nothing changed.
        samples: the first rows as they are stored, of tables that were written.
    """

    tables: Mapping[str, Counts]
    shift_days: int
    dataset: dataset.Dataset
    dry_run: bool
    problems: Sequence[Problem] = ()
    notes: Sequence[str] = ()
    samples: Mapping[str, list[dict[str, Any]]] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            **{name: asdict(counts) for name, counts in self.tables.items()},
            "shift_days": self.shift_days,
            "dataset": self.dataset.model_dump(mode="json"),
            "dry_run": self.dry_run,
            "problems": [asdict(problem) for problem in self.problems],
            "notes": list(self.notes),
            **({"samples": self.samples} if self.dry_run else {}),
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
    Raises:
        InputError: the source cannot be used, or another data set is in the lake.
        Conflict: another import is running.
        MachineError: the lake cannot be written; finished tables are kept.
    """
    now = now or datetime.now(UTC)
    with (
        _writable(settings),
        alone(settings),
        consulted(settings) as forgotten,
        _progress() as progress,
    ):
        tables = {table: open_table(settings, table) for table in TABLES}
        others = {name for table in tables.values() for name in lake.held(table)} - {source.name}
        if others and not replace and not dry_run:
            raise InputError(
                f"the lake holds another data set: {', '.join(sorted(others))}",
                where=str(settings.home),
                next_step="Import into another PAGODA_HOME, or replace it with --replace.",
            )
        shift_days = _recorded_shift(settings, tables.values(), source) if source.shifted else 0
        if source.shifted and (shift_anew or not shift_days):
            source.prepare(progress)
            shift_days = weeks_to_now(source.last_day(), now.date())
        one = _Import(
            source=source,
            shift_days=shift_days,
            fingerprint=hashlib.sha256(f"{source.content} shift {shift_days}".encode()).hexdigest(),
            others=frozenset(others),
            forgotten=forgotten,
            dry_run=dry_run,
            progress=progress,
        )
        changed = [name for name, table in tables.items() if not one.stands_in(table)]
        if changed:
            source.prepare(progress)
            _refuse_future(source, shift_days, now)
        counts = {contract.name: one.bring(table, contract) for contract, table in tables.items()}
        record = _record(settings, one)
        if not dry_run and record != _recorded(settings):
            dataset.save(settings, record)
        return Outcome(
            tables=counts,
            shift_days=shift_days,
            dataset=record,
            dry_run=dry_run,
            problems=source.problems() if changed else (),
            notes=[
                *(source.notes() if changed else ()),
                *_about_others(others),
                *_about_forgotten(forgotten),
            ],
            samples=one.samples,
        )


@dataclass(frozen=True, kw_only=True)
class _Import:
    """An import whose shift and fingerprint are known."""

    source: Source
    shift_days: int
    fingerprint: str
    others: frozenset[str]
    forgotten: Forgotten
    dry_run: bool
    progress: Progress
    samples: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def stands_in(self, table: IcebergTable) -> bool:
        """Whether the table holds exactly this import and no other."""
        held = lake.held(table)
        mine = held.get(self.source.name)
        return bool(mine and mine.fingerprint == self.fingerprint and not self.others & held.keys())

    def bring(self, table: IcebergTable, contract: Table) -> Counts:
        """Write one table, unless it stands; a dry run only counts."""
        held = lake.held(table)
        if self.stands_in(table):
            return Counts(unchanged=held[self.source.name].rows)
        counts = Counts(rejected=self.source.rejected(contract))
        if contract is not IDS:  # ids are never taken back
            counts.replaced = sum(each.rows for each in held.values())
        batches = self._batches(table, contract, counts)
        if self.dry_run:
            for _ in batches:
                pass
            return counts
        lake.replace(
            table,
            self.source.name,
            batches,
            fingerprint=self.fingerprint,
            shift_days=self.shift_days,
            instead_of=self.others,
        )
        log.info("imported", table=contract.name, source=self.source.name, **asdict(counts))
        return counts

    def _batches(self, table: IcebergTable, contract: Table, counts: Counts) -> Iterator[pa.Table]:
        task = self.progress.add_task(contract.name, total=self.source.rows(contract))
        for whole in self.source.batches(contract, self.shift_days):
            batch = self._remembered(contract, whole)
            rows = lake.new_ids(table, batch) if contract is IDS else batch
            counts.written += rows.num_rows
            counts.unchanged += batch.num_rows - rows.num_rows
            self.samples.setdefault(contract.name, batch.slice(0, _SAMPLES).to_pylist())
            yield rows
            self.progress.advance(task, whole.num_rows)

    def _remembered(self, contract: Table, batch: pa.Table) -> pa.Table:
        """Without what forgotten users did: a file that is imported again brings nobody back."""
        if not self.forgotten:
            return batch
        if contract is IDS:
            users = pc.equal(batch["kind"], "user")
            keys = pa.array(self.forgotten.until_ms, pa.int64())
            return batch.filter(pc.invert(pc.and_(users, pc.is_in(batch["key"], keys))))
        if contract is REJECTED:
            named = [self.forgotten.names(raw) for raw in batch["raw"].to_pylist()]
            return batch.filter(pc.invert(pa.array(named, pa.bool_())))
        return self.forgotten.without(batch, "ts")


def _about_others(others: Collection[str]) -> list[str]:
    return [f"takes the place of the data set {name} (--replace)" for name in sorted(others)]


def _about_forgotten(forgotten: Forgotten) -> list[str]:
    count = len(forgotten.until_ms)
    return [f"what {count} forgotten users did before is left out"] if count else []


def _recorded_shift(settings: Settings, tables: Iterable[IcebergTable], source: Source) -> int:
    """The shift of this source's last import, also of one that was cut off; else 0."""
    record = _recorded(settings)
    if record and record.name == source.name and record.shift_days:
        return record.shift_days
    held = [lake.held(table).get(source.name) for table in tables]
    return max((each.shift_days for each in held if each), default=0)


def _refuse_future(source: Source, shift_days: int, now: datetime) -> None:
    last = source.last_day() + timedelta(days=shift_days)
    if shift_days and last > now.date():
        raise InputError(
            "the recorded shift would move events into the future",
            expected=f"a last day up to {now.date()}",
            found=f"{source.last_day()} + {shift_days} days = {last}",
            next_step="Import with --shift-anew.",
        )


def _recorded(settings: Settings) -> dataset.Dataset | None:
    try:
        return dataset.load(settings)
    except NothingToDo:
        return None


def _record(settings: Settings, one: _Import) -> dataset.Dataset:
    """The record as it stands, if it is of this very import: then nothing needs to be read."""
    record = _recorded(settings)
    if record and record.name == one.source.name and record.fingerprint == one.fingerprint:
        return record
    one.source.prepare(one.progress)
    return one.source.dataset(one.shift_days, one.fingerprint)


@contextmanager
def alone(settings: Settings) -> Iterator[None]:
    """One import at a time. Raises: Conflict."""
    lock = FileLock(settings.run / "import.lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise Conflict(
            "another import is running",
            where=str(settings.home),
            next_step="Wait until it is done, then import again.",
        ) from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _writable(settings: Settings) -> Iterator[None]:
    try:
        yield
    except (OSError, OperationalError) as error:
        raise MachineError(
            f"the lake cannot be written: {getattr(error, 'orig', error)}",
            where=str(settings.home),
            next_step="See to disk space and permissions, then import again: finished tables are "
            "kept.",
        ) from error


def _progress() -> Progress:
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=people,
    )
