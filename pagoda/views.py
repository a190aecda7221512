"""What a feature view and a feature service are; `pagoda.features` says which there are.

A view's rows say what they hold (`definition`), so that a reader of columns or windows that came
later finds out whether a row has them, instead of reading nulls or short windows.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import pyarrow as pa

from pagoda.owned import OwnedSpec
from pagoda.schemas import INT64S, TEXTS, TS, Table
from pagoda.statistics import Entity, Kind, Statistic, problems_of
from pagoda.windows import WindowSpec

TYPES = (pa.int64(), pa.float64(), pa.string(), pa.bool_(), INT64S, TEXTS)


@dataclass(frozen=True, kw_only=True)
class View:
    """One feature view and the table behind it.

    Attributes:
        entity: the int64 join key.
        columns: feature name to Arrow type, in order.
        ttl_days: how long a row stays valid; the online reader enforces it too. None: for ever.
        online_writer: who writes it to the online store; only one may.
        statistics: those of the columns that are statistics.
        candidates: for views of sequences, what the rows hold.
        owned: for a view of what users had before, of what.
        whole: the view that this is a part of (`only`); None for a whole one.
    """

    name: str
    description: str
    entity: Entity
    columns: Mapping[str, pa.DataType]
    ttl_days: int | None
    online_writer: Literal["materialise", "stream"] = "materialise"
    statistics: Mapping[str, Statistic] = field(default_factory=dict)
    candidates: WindowSpec | None = None
    owned: OwnedSpec | None = None
    whole: View | None = None

    def __post_init__(self) -> None:
        problems = [
            f"{name}: {kind} is not one of {', '.join(map(str, TYPES))}"
            for name, kind in self.columns.items()
            if kind not in TYPES
        ]
        for name, statistic in self.statistics.items():
            problems += problems_of(self.entity, name, statistic)
        if problems:
            raise ValueError(f"view {self.name}: {'; '.join(problems)}")

    def only(self, *columns: str) -> View:
        """The part of the view that a service reads, in this order; its table is the whole one.

        Raises: ValueError naming the columns that the view does not have.
        """
        missing = [name for name in columns if name not in self.columns]
        if missing:
            raise ValueError(f"view {self.name} has no column {', '.join(missing)}")
        kinds = {name: self.columns[name] for name in columns}
        return replace(self, columns=kinds, whole=self.whole or self)

    @property
    def kinds(self) -> frozenset[Kind]:
        """The kinds of events that its statistics are of."""
        return frozenset(kind for each in self.statistics.values() for kind in each.of)

    @property
    def reach_days(self) -> int:
        """How many days before its own a row may look."""
        reach = [each.days for each in self.statistics.values()]
        if self.candidates:
            reach.append(self.candidates.recent_days + self.candidates.long_term_days)
        if self.owned:
            reach.append(self.owned.days)
        return max(reach, default=0)

    @property
    def row_schema(self) -> pa.Schema:
        """What `jobs.batch` computes: the table without `definition`."""
        if self.whole:
            return self.whole.row_schema
        head: list[pa.Field[Any]] = [
            pa.field(self.entity, pa.int64(), nullable=False),
            pa.field("event_timestamp", TS, nullable=False),
            pa.field("created", TS, nullable=False),
            pa.field("day", pa.date32(), nullable=False),
        ]
        return pa.schema(head + [pa.field(name, kind) for name, kind in self.columns.items()])

    @property
    def table(self) -> Table:
        """The Iceberg table of the whole view."""
        return Table(
            name=self.name,
            purpose=self.description,
            schema=self.row_schema.append(pa.field("definition", pa.string())),
            partition_by_day="day",
            personal=("user_key",) if self.entity == "user_key" else (),
        )

    @property
    def meanings(self) -> dict[str, str]:
        """Column name to what it holds."""
        said = {name: self.statistics.get(name, self.owned) for name in self.columns}
        return {
            name: f"{kind}, {said[name]}" if said[name] else str(kind)
            for name, kind in self.columns.items()
        }

    @property
    def definition(self) -> str:
        """What a row built now holds, as JSON: every row says it in its column `definition`."""
        view = self.whole or self
        held = {"candidates": asdict(view.candidates)} if view.candidates else {}
        return json.dumps({"columns": view.meanings, **held})

    def lacking(self, definition: str | None, windows: WindowSpec) -> list[str]:
        """What rows built by a definition lack for these columns and a model's windows."""
        if definition is None:
            return ["they do not say what they hold"]
        built = json.loads(definition)
        problems = [
            f"{name}: expected {meaning}, found {built['columns'].get(name, 'no such column')}"
            for name, meaning in self.meanings.items()
            if built["columns"].get(name) != meaning
        ]
        if self.candidates:
            problems += windows.beyond(WindowSpec(**built["candidates"]))
        return problems


@dataclass(frozen=True, kw_only=True)
class Service:
    """What one model reads, under a name with a version: old models keep theirs.

    Attributes:
        views: parts of views (`View.only`): a column that a view gains later is not read.
    """

    name: str
    description: str
    views: tuple[View, ...]

    @property
    def schema_hash(self) -> str:
        """Changes whenever something that the service reads changes: a view's entity or TTL, a
        column's name, order, type or meaning. Other columns of its views do not count.
        """
        described = [
            [view.name, view.entity, view.ttl_days]
            + [[name, meaning] for name, meaning in view.meanings.items()]
            for view in self.views
        ]
        return hashlib.blake2b(json.dumps(described).encode(), digest_size=8).hexdigest()

    def columns_of(self, view: View) -> tuple[str, ...]:
        """What it reads of a view, in order; nothing of a view that it does not name."""
        return tuple(
            column for part in self.views if part.name == view.name for column in part.columns
        )
