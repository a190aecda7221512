"""The mapping file: how a user's own CSV or Parquet files become items, events and searches.

TOML, beside the data; file patterns are relative to it. `load` checks everything that can be
known without reading rows and lists every problem at once. See docs/your-own-data.md.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping as Map
from datetime import date
from pathlib import Path
from typing import Annotated, Literal
from zoneinfo import ZoneInfo, available_timezones

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from pagoda.dataset import Split
from pagoda.errors import InputError
from pagoda.schemas import ACTIONS

Kind = Literal["id", "text", "attribute", "price", "count", "flag", "time", "action"]

# Per table, the columns that can be mapped and what each holds.
FIELDS: dict[str, dict[str, Kind]] = {
    "items": {
        "item_id": "id",
        "title": "text",
        "brand": "text",
        "leaf_category": "text",
        "category": "text",
        "first_category": "text",
        "shop": "text",
        "colour": "text",
        "size": "text",
        "price": "price",
        "in_stock": "flag",
        "updated_at": "time",
    },
    "events": {
        "user_id": "id",
        "item_id": "id",
        "action": "action",
        "ts": "time",
        "event_id": "id",
        "search_id": "id",
        "position": "count",
        "shop": "text",
    },
    "searches": {
        "search_id": "id",
        "user_id": "id",
        "query": "text",
        "ts": "time",
    },
}
REQUIRED: dict[str, tuple[str, ...]] = {
    "items": ("item_id",),
    "events": ("user_id", "item_id", "action", "ts"),  # ts: where times are real
    "searches": ("search_id", "user_id", "query", "ts"),
}


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Time(_Part):
    """How times are written.

    Attributes:
        format: "iso", "epoch_s", "epoch_ms", or a strptime pattern.
        zone: of times that name no zone. The hour that a clock repeats is taken as its first
            pass; times in the hour that it skips are rejected.
    """

    format: str = "iso"
    zone: str = "UTC"

    @field_validator("zone")
    @classmethod
    def _known(cls, zone: str) -> str:
        if zone not in available_timezones():
            raise ValueError(f"unknown time zone {zone!r}; use an IANA name like Europe/Vienna")
        return str(ZoneInfo(zone))

    @field_validator("format")
    @classmethod
    def _telling(cls, text: str) -> str:
        if text not in {"iso", "epoch_s", "epoch_ms"} and "%" not in text:
            raise ValueError(f"{text!r} is neither iso, epoch_s, epoch_ms nor a strptime pattern")
        return text


class TableMapping(_Part):
    """Where the rows of one table come from.

    Attributes:
        files: patterns, relative to the mapping file.
        columns: target column to the file's column.
        constants: target column to a value that every row has.
        attributes: extra item attributes, name to the file's column.
        actions: what the file calls an action to what Pagoda calls it.
        header: names of the columns where CSV files have no header line.
        quote: the quote character; "" where quotes are plain characters.
        null: texts that mean "nothing".
    """

    files: tuple[str, ...] = Field(min_length=1)
    format: Literal["csv", "parquet"] | None = None
    delimiter: Annotated[str, Field(min_length=1, max_length=1)] = ","
    quote: Annotated[str, Field(max_length=1)] = '"'
    header: tuple[str, ...] = ()
    null: tuple[str, ...] = ("",)
    columns: dict[str, str] = {}
    constants: dict[str, str | int | float | bool] = {}
    attributes: dict[str, str] = {}
    actions: dict[str, str] = {}
    time: Time = Time()

    @field_validator("actions")
    @classmethod
    def _known_actions(cls, actions: dict[str, str]) -> dict[str, str]:
        if unknown := sorted(set(actions.values()) - set(ACTIONS)):
            raise ValueError(f"unknown {unknown}; Pagoda knows {', '.join(ACTIONS)}")
        return actions


class DatasetMapping(_Part):
    """What the record of the data set says; days are those of the files, before any shift.

    `times = "order"` takes from times, or from the lines where there are none, only their order.
    """

    click_actions: tuple[str, ...] = ("click",)
    positive_actions: tuple[str, ...] = ("click", "buy")
    times: Literal["real", "order"] = "real"
    split: Split = "time"
    shift_to_now: bool = False
    test_days: int = Field(default=7, ge=1)
    validation_days: int = Field(default=7, ge=1)
    test_from: date | None = None
    validation_from: date | None = None
    queries: str = "as shoppers typed them"

    @field_validator("click_actions", "positive_actions")
    @classmethod
    def _known_actions(cls, actions: tuple[str, ...]) -> tuple[str, ...]:
        if unknown := sorted(set(actions) - set(ACTIONS)):
            raise ValueError(f"unknown {unknown}; Pagoda knows {', '.join(ACTIONS)}")
        if not actions:
            raise ValueError("at least one action is needed")
        return actions

    @model_validator(mode="after")
    def _in_order(self) -> DatasetMapping:
        if self.test_from and self.validation_from and self.validation_from >= self.test_from:
            raise ValueError("validation_from must be before test_from")
        if self.times == "order" and self.split != "leave_last_out":
            raise ValueError('times = "order" has no days to split by: split = "leave_last_out"')
        return self


class Limits(_Part):
    """What is too much for one row."""

    text_chars: int = Field(default=2_000, ge=1)
    id_chars: int = Field(default=200, ge=1)
    clock_skew_s: int = Field(default=300, ge=0)


class Mapping(_Part):
    """The whole file. `name` is the source's and the data set's name.

    Without `items` the items are those of the events, their ids their titles.
    """

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,60}$")]
    dataset: DatasetMapping = DatasetMapping()
    limits: Limits = Limits()
    items: TableMapping | None = None
    events: TableMapping
    searches: TableMapping | None = None

    @model_validator(mode="after")
    def _complete(self) -> Mapping:
        real = self.dataset.times == "real"
        problems = [
            problem
            for name, table in self.tables().items()
            for problem in _gaps(name, table, timed=real or name != "events")
        ]
        if self.searches and not real:
            problems.append('searches: their times cannot be compared with times = "order"')
        if self.dataset.split == "displayed" and not (self.searches and self._search_known()):
            problems.append('split = "displayed" needs searches, and events that name theirs')
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def _search_known(self) -> bool:
        return "search_id" in {*self.events.columns, *self.events.constants}

    def tables(self) -> Map[str, TableMapping]:
        """The tables that are mapped, by name."""
        given = {"items": self.items, "events": self.events, "searches": self.searches}
        return {name: table for name, table in given.items() if table}


def load(path: Path) -> Mapping:
    """Read a mapping file. Raises: InputError listing everything that is wrong with it."""
    next_step = "See docs/your-own-data.md for an example."
    try:
        return Mapping.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise InputError("file not found", where=str(path), next_step=next_step) from None
    except OSError as error:
        raise InputError(f"cannot be read: {error}", where=str(path)) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"not TOML: {error}", where=str(path), next_step=next_step) from None
    except ValidationError as error:
        raise InputError(
            "the mapping file cannot be used",
            where=str(path),
            problems=[problem for each in error.errors() for problem in _lines(each)],
            next_step=next_step,
        ) from None


def files_of(table: TableMapping, folder: Path) -> list[Path]:
    """The files of one table, pattern by pattern, each once. Raises: InputError if one is none."""
    try:
        found = [path for pattern in table.files for path in sorted(folder.glob(pattern))]
    except ValueError as error:
        raise InputError(f"not a file pattern: {error}", found=", ".join(table.files)) from error
    return [path for path in dict.fromkeys(found) if path.is_file()]


def is_parquet(table: TableMapping, path: Path) -> bool:
    """Whether a file is Parquet: as the mapping says, or by its suffix."""
    return table.format == "parquet" if table.format else path.suffix in {".parquet", ".pq"}


def _gaps(name: str, table: TableMapping, *, timed: bool) -> list[str]:
    given = [*table.columns, *table.constants]
    problems = [
        f"{name}: no column and no constant for {field}"
        for field in REQUIRED[name]
        if field not in given and (timed or field != "ts")
    ]
    problems += [
        f"{name}: unknown column {field}; known are {', '.join(FIELDS[name])}"
        for field in given
        if field not in FIELDS[name]
    ]
    problems += [
        f"{name}: {field} is both a column and a constant"
        for field in table.columns
        if field in table.constants
    ]
    if table.attributes and name != "items":
        problems.append(f"{name}: only items have attributes")
    if table.actions and name != "events":
        problems.append(f"{name}: only events have actions")
    if any(Path(pattern).is_absolute() for pattern in table.files):
        problems.append(f"{name}: file patterns are relative to the mapping file")
    return problems


def _lines(error: object) -> list[str]:
    assert isinstance(error, dict)
    where = ".".join(str(part) for part in error["loc"])
    text = str(error["msg"]).removeprefix("Value error, ")
    return [f"{where}: {line}" if where else line for line in text.splitlines()]
