"""Lines to train and judge on: a search and an item that its user then took.

A line's moment is its search's time, whatever the event's. In a data set without searches a line is
an event, and its request the moment just before it: its query is empty, its moment is the event's,
and only what came before counts. Lines of one user at one moment (a basket) are one request:
features are fetched and encoded once for it. Days on which a user was a robot, as the features job
found, make no lines.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from types import MappingProxyType
from typing import Any, Literal

import polars as pl
import pyarrow as pa

from pagoda import lake
from pagoda.dataset import Dataset
from pagoda.errors import InputError
from pagoda.schemas import ACTIONS, EVENTS, ROBOTS, SEARCHES, Table
from pagoda.settings import Settings

Week = Literal["validation", "test"]
Snapshots = Mapping[str, int]  # table name to the snapshot to read; others are read as they are
LINE_COLUMNS = ("user_key", "t_ms", "query", "item_key", "action")
_SEARCH = ("search_id", "ts")
SHOWN_COLUMNS = ("user_key", "t_ms", "item_key")


@dataclass(frozen=True, kw_only=True)
class Span:
    """UTC days, the last one excluded."""

    first: date
    end: date

    @property
    def days(self) -> int:
        """How many days."""
        return (self.end - self.first).days

    @property
    def last(self) -> date:
        """The last of them."""
        return self.end - timedelta(days=1)

    @property
    def dates(self) -> list[date]:
        """Each of them."""
        return [self.first + timedelta(days=number) for number in range(self.days)]

    @property
    def first_ms(self) -> int:
        """Where the days begin, epoch milliseconds."""
        return _ms(self.first)

    def filter(self, column: str = "ts") -> str:
        """Iceberg's row filter for a time in these days."""
        return f"{column} >= '{_midnight(self.first)}' and {column} < '{_midnight(self.end)}'"


def judged_span(dataset: Dataset, week: Week) -> Span:
    """The days of a week that models are judged on; the test week ends with the data.

    Where each user's last line is judged, these are all days.
    """
    if dataset.split == "leave_last_out":
        return Span(first=dataset.first_day, end=dataset.last_day + timedelta(days=1))
    if week == "test":
        return Span(first=dataset.test_from, end=dataset.last_day + timedelta(days=1))
    return Span(first=dataset.validation_from, end=dataset.test_from)


def trained_span(dataset: Dataset, week: Week, days: int) -> Span:
    """The days that a model is fitted on: so many before the judged week, from the first there is.

    Where each user's last line is judged, these are all days.
    """
    judged = judged_span(dataset, week)
    if dataset.split == "leave_last_out":
        return judged
    return Span(first=max(judged.first - timedelta(days=days), dataset.first_day), end=judged.first)


def week_of(text: str) -> Week:
    """The week of that name. Raises: InputError."""
    match text:
        case "test" | "validation":
            return text
    raise InputError(f"no week {text!r}", expected="test or validation")


def lines(
    settings: Settings, dataset: Dataset, span: Span, at: Snapshots = MappingProxyType({})
) -> pl.DataFrame:
    """Every line of these days, sorted: LINE_COLUMNS.

    A resent event or search counts once, and so does an item that was both clicked and bought:
    its action is the stronger, the later of `ACTIONS`.
    An event may follow its search by up to a day, within these days.
    """
    if dataset.requests == "events":
        return _events_as_lines(settings, dataset, span, at)
    joined = _of_searches(settings, dataset.positive_actions, span, at)
    return _strongest(joined).select(LINE_COLUMNS)


def of_items(found: pl.DataFrame, keys: pa.ChunkedArray) -> pl.DataFrame:
    """The lines whose item is among these; their order stays."""
    known = pl.DataFrame({"item_key": keys})
    return found.join(known, on="item_key", how="semi", maintain_order="left")


def displayed(
    settings: Settings, dataset: Dataset, span: Span, at: Snapshots = MappingProxyType({})
) -> pl.DataFrame:
    """What these days' searches displayed, sorted: `search_id` and LINE_COLUMNS, a row a candidate.

    Its action is the strongest, `impression` if nothing came of it. Candidates are the items that
    the search has an impression of and those taken from it. Searches that recorded no impression
    or led to no item have no list.
    """
    joined = _of_searches(settings, ("impression", *dataset.positive_actions), span, at)
    shown = pl.col("action") == "impression"
    listed = joined.filter(shown.any().over(_SEARCH) & (~shown).any().over(_SEARCH))
    return _strongest(listed).select("search_id", *LINE_COLUMNS)


def not_taken(settings: Settings, span: Span, at: Snapshots = MappingProxyType({})) -> pl.DataFrame:
    """What searches of these days showed and nothing was done to in them, sorted: SHOWN_COLUMNS.

    Searches of one user at one moment are one request, and share what they showed.
    """
    return (
        _strongest(_of_searches(settings, ACTIONS, span, at))
        .filter(pl.col("action") == "impression")
        .select(SHOWN_COLUMNS)
        .unique()
        .sort(SHOWN_COLUMNS)
    )


def _of_searches(
    settings: Settings, actions: Sequence[str], span: Span, at: Snapshots
) -> pl.DataFrame:
    """Events of these days and actions that followed a search of them within a day, with it."""
    searches = _read(settings, SEARCHES, at, span.filter(), "search_id", "user_key", "query", "ts")
    columns = ("search_id", "user_key", "item_key", "action", "ts")
    events = _read(settings, EVENTS, at, _of_actions(actions, span), *columns)
    searches, events = (_of_people(settings, each, at) for each in (searches, events))
    joined = searches.unique(_SEARCH).join(
        events.drop_nulls("search_id").rename({"ts": "event_ts"}), on=["search_id", "user_key"]
    )
    after = pl.col("event_ts") - pl.col("ts")
    return joined.filter(after.is_between(timedelta(0), timedelta(days=1))).drop("event_ts")


def _strongest(joined: pl.DataFrame) -> pl.DataFrame:
    """Each item of a search once, with the strongest action on it."""
    return (
        joined.sort(pl.col("action").cast(pl.Enum(ACTIONS)))
        .unique([*_SEARCH, "item_key"], keep="last", maintain_order=True)
        .with_columns(_t_ms())
        .sort("t_ms", "user_key", "query", "item_key", "action", "search_id")
    )


def _events_as_lines(
    settings: Settings, dataset: Dataset, span: Span, at: Snapshots
) -> pl.DataFrame:
    columns = ("user_key", "item_key", "action", "ts")
    events = _read(settings, EVENTS, at, _of_actions(dataset.positive_actions, span), *columns)
    return (
        _of_people(settings, events, at)
        .select("user_key", _t_ms(), pl.lit("").alias("query"), "item_key", "action")
        .sort(pl.col("action").cast(pl.Enum(ACTIONS)))
        .unique(["user_key", "t_ms", "item_key"], keep="last", maintain_order=True)
        .sort("t_ms", "user_key", "item_key")
    )


def _of_actions(actions: Sequence[str], span: Span) -> str:
    """Iceberg's row filter for the events of these days and actions."""
    quoted = ", ".join(f"'{action}'" for action in actions)
    return f"{span.filter()} and action in ({quoted})"


def events_before(
    settings: Settings, end: date, at: Snapshots = MappingProxyType({})
) -> pl.DataFrame:
    """(user_key, item_key, t_ms) of what people did before that day, each event once.

    What was only shown to them is no deed.
    """
    before = f"ts < '{_midnight(end)}' and action != 'impression'"
    table = _read(settings, EVENTS, at, before, "event_key", "user_key", "item_key", "ts")
    return (
        _of_people(settings, table, at)
        .unique(["event_key", "ts"])
        .select("user_key", "item_key", _t_ms())
    )


def _of_people(settings: Settings, rows: pl.DataFrame, at: Snapshots) -> pl.DataFrame:
    """Without those of days on which their user was a robot."""
    scan = lake.open_table(settings, ROBOTS).scan(
        selected_fields=("user_key", "day"), snapshot_id=at.get(ROBOTS.name)
    )
    robots = pl.DataFrame(scan.to_arrow())
    return rows.join(
        robots,
        left_on=["user_key", pl.col("ts").dt.date()],
        right_on=["user_key", "day"],
        how="anti",
    )


def _read(
    settings: Settings, table: Table, at: Snapshots, row_filter: str, *columns: str
) -> pl.DataFrame:
    scan = lake.open_table(settings, table).scan(
        row_filter=row_filter, selected_fields=columns, snapshot_id=at.get(table.name)
    )
    frame: Any = pl.from_arrow(scan.to_arrow())
    assert isinstance(frame, pl.DataFrame)
    return frame


def _t_ms() -> pl.Expr:
    return pl.col("ts").dt.epoch("ms").alias("t_ms")


def _ms(day: date) -> int:
    return int(datetime.combine(day, time(), UTC).timestamp()) * 1000


def _midnight(day: date) -> str:
    return datetime.combine(day, time(), UTC).isoformat()
