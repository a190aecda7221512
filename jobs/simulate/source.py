"""A simulation as an import: straight into the lake's tables, without files between.

`pagoda import`'s own machinery writes it, so a rerun changes nothing, a killed one goes on, and
another data set is never mixed with it. A day is made anew for each table that needs it: making
costs less than keeping.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from datetime import date, timedelta

import polars as pl
import pyarrow as pa
from rich.progress import Progress

from jobs.imports.source import BATCH_ROWS, Problem, ids_table, to_table, with_key
from jobs.simulate import files, tables
from jobs.simulate.behaviour import Simulation
from jobs.simulate.catalogue import Catalogue
from pagoda.dataset import Dataset
from pagoda.schemas import EVENTS, IDS, ITEMS, SEARCHES, Table

_VERSION = 1  # raise it with every change of what is written
_TS = pl.from_epoch("ts", "ms").dt.replace_time_zone("UTC").dt.cast_time_unit("us")


class Simulated:
    """Simulated days as a `jobs.imports.source.Source`.

    Args:
        impressions: whether events hold them.
    """

    def __init__(
        self, simulation: Simulation, catalogue: Catalogue, *, impressions: bool = True
    ) -> None:
        self._simulation = simulation
        self._catalogue = catalogue
        self._impressions = impressions

    @property
    def name(self) -> str:
        """The data set's name."""
        return self._simulation.name

    @property
    def shifted(self) -> bool:
        """Never: the days are those asked for."""
        return False

    @property
    def content(self) -> str:
        """SHA-256 of every option and of the catalogue."""
        options = files.manifest_of(self._simulation, self._catalogue)
        said = json.dumps([_VERSION, options, self._impressions], sort_keys=True)
        return hashlib.sha256(said.encode()).hexdigest()

    def prepare(self, progress: Progress) -> None:
        """Nothing: rows are made when they are asked for."""

    def last_day(self) -> date:
        """The last simulated day."""
        return self._simulation.first_day + timedelta(days=self._simulation.days - 1)

    def batches(self, table: Table, shift_days: int) -> Iterator[pa.Table]:  # noqa: ARG002
        """The rows of one table, days in ascending order."""
        if table is IDS:
            for each in self._identities():
                yield to_table(ids_table(pl.DataFrame(each)), IDS)
        elif table is ITEMS:
            yield self._items()
        elif table in (EVENTS, SEARCHES):
            for rows in _in_batches(self._messages(table)):
                yield self._finished(rows, table)

    def rows(self, table: Table) -> int | None:
        """Known for items; of events and searches nobody knows before they are made."""
        return len(self._catalogue.shelf) if table is ITEMS else None

    def rejected(self, table: Table) -> int:  # noqa: ARG002
        """None ever."""
        return 0

    def problems(self) -> Sequence[Problem]:
        """None ever."""
        return ()

    def notes(self) -> Sequence[str]:
        """That all of this is simulated."""
        return (
            f"simulated, seed {self._simulation.seed}: {self._simulation.users:,} users, "
            f"{self._simulation.days} days; no person did any of this",
        )

    def dataset(self, shift_days: int, fingerprint: str) -> Dataset:  # noqa: ARG002
        """The record of the data set."""
        last, judged = self.last_day(), timedelta(days=self._simulation.judged_days)
        test_from = last - judged + timedelta(days=1)
        return Dataset(
            name=self.name,
            first_day=self._simulation.first_day,
            last_day=last,
            validation_from=test_from - judged,
            test_from=test_from,
            query_protocol=self._simulation.queries,
            fingerprint=fingerprint,
        )

    def _identities(self) -> Iterator[pa.Table]:
        yield self._catalogue.table.select(["item_id"])
        for each in tables.users(self._simulation):
            yield each.select(["user_id"])

    def _items(self) -> pa.Table:
        """The catalogue as it is, known from the first day on."""
        count = len(self._catalogue.shelf)
        known = pa.scalar(self._simulation.first_ms * 1000).cast(
            ITEMS.schema.field("updated_at").type
        )
        said = {"updated_at": pa.repeat(known, count), "source": pa.repeat(self.name, count)}
        columns = [
            said.get(field.name, self._catalogue.table[field.name]) for field in ITEMS.schema
        ]
        return pa.table(columns, schema=ITEMS.schema)

    def _messages(self, table: Table) -> Iterator[pa.Table]:
        for day in range(self._simulation.days):
            for made in tables.of_day(self._simulation, self._catalogue, day):
                if table is SEARCHES:
                    yield made.searches
                elif self._impressions:
                    yield made.events
                else:
                    yield tables.without_impressions(made.events)

    def _finished(self, rows: pa.Table, table: Table) -> pa.Table:
        frame = pl.from_arrow(rows)
        assert isinstance(frame, pl.DataFrame)
        frame = frame.with_columns(
            _TS.alias("ts"), _TS.alias("ingested_at"), source=pl.lit(self.name)
        )
        frame = with_key(frame, "event" if table is EVENTS else "search")
        frame = with_key(frame, "user")
        return to_table(with_key(frame, "item") if table is EVENTS else frame, table)


def _in_batches(parts: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """The same rows in fewer tables."""
    waiting: list[pa.Table] = []
    for each in parts:
        waiting.append(each)
        if sum(part.num_rows for part in waiting) >= BATCH_ROWS:
            yield pa.concat_tables(waiting)
            waiting = []
    if waiting:
        yield pa.concat_tables(waiting)
