"""Judging rows: what a file says becomes typed columns, or a rejected row with its reasons.

`check` is pure and loses nothing: every row comes back either accepted or rejected, whatever it
holds. `column_problems` finds the columns that no row could pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import polars as pl

from jobs.imports.mapping import FIELDS, REQUIRED, Kind, Limits, TableMapping, Time
from jobs.imports.read import PLACE, PROBLEM, RAW
from jobs.imports.times import moment
from pagoda.schemas import ACTIONS

ATTRIBUTE = "attribute:"  # prefix of attribute columns
REASONS = "_reasons"
_BAD = "_bad"
_SHOWN_CHARS = 80
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FLAGS = {
    **dict.fromkeys(("true", "t", "yes", "y", "1"), True),
    **dict.fromkeys(("false", "f", "no", "n", "0"), False),
}


@dataclass(frozen=True, kw_only=True)
class Checked:
    """What became of a batch.

    Attributes:
        accepted: the table's columns typed, `attribute:*`, `_place`, `_raw`.
        rejected: `_place`, `_raw` and `_reasons`, a list of "kind: detail".
    """

    accepted: pl.DataFrame
    rejected: pl.DataFrame


@dataclass(frozen=True, kw_only=True)
class _Defect:
    """One way in which a value can be bad; `detail` is what the reason quotes."""

    kind: str
    bad: pl.Expr
    detail: pl.Expr | None = None


@dataclass(frozen=True, kw_only=True)
class _Source:
    """A mapped column as text (times keep their type) and how the mapping reads it."""

    text: pl.Expr
    dtype: pl.DataType


def check(
    frame: pl.DataFrame, name: str, table: TableMapping, limits: Limits, *, now: datetime
) -> Checked:
    """Judge a batch of rows as they were read.

    Args:
        frame: the file's columns plus `_place`, `_raw`, `_problem` (see `read`).
        name: "items", "events" or "searches".
        now: times later than this (plus the allowed clock skew) are in the future.
    """
    values: list[pl.Expr] = []
    reasons: list[tuple[pl.Expr, pl.Expr]] = []
    split = pl.col(PROBLEM).is_null()
    for field, value, defects in _fields(frame.schema, name, table, limits, now=now):
        values.append(value.alias(field))
        reasons += [
            (split & each.bad.fill_null(value=False), _reason(field, each)) for each in defects
        ]
    judged = frame.with_columns(
        (~split | pl.any_horizontal([bad for bad, _ in reasons])).alias(_BAD)
    )
    return Checked(
        accepted=judged.filter(~pl.col(_BAD)).select(*values, PLACE, RAW),
        rejected=judged.filter(_BAD).select(
            PLACE,
            RAW,
            pl.concat_list(PROBLEM, *(pl.when(bad).then(text) for bad, text in reasons))
            .list.drop_nulls()
            .alias(REASONS),
        ),
    )


def column_problems(schema: Mapping[str, pl.DataType], name: str, table: TableMapping) -> list[str]:
    """Columns that are missing or of a type that cannot be used, one line each."""
    problems = []
    for field, column in {**table.columns, **_attributes(table)}.items():
        shown = field.removeprefix(ATTRIBUTE)
        if column not in schema:
            have = ", ".join(schema)
            problems.append(f"no column {column!r} for {shown}; the file has {have}")
        elif expected := _unfit(schema[column], _kind(name, field), table.time):
            problems.append(
                f"column {column!r} for {shown} is {schema[column]}, expected {expected}"
            )
    return problems


# Fields ----------------------------------------------------------------------------------------


def _fields(
    schema: Mapping[str, pl.DataType],
    name: str,
    table: TableMapping,
    limits: Limits,
    *,
    now: datetime,
) -> Iterator[tuple[str, pl.Expr, list[_Defect]]]:
    """Every field that the mapping gives, its typed value and its defects."""
    latest = now + timedelta(seconds=limits.clock_skew_s)
    given = {**table.columns, **_attributes(table)}
    for field in (*FIELDS[name], *_attributes(table)):
        if field in table.constants:
            constant = pl.lit(str(table.constants[field]))
            source = _Source(text=constant, dtype=pl.String())
        elif field in given:
            source = _source(pl.col(given[field]), schema[given[field]], table.null)
        else:
            continue
        value, defects = _judge(_kind(name, field), source, table, limits, latest)
        if field in REQUIRED[name]:
            defects.append(_Defect(kind="is empty", bad=_is_blank(source.text)))
        yield field, value, defects


def _judge(
    kind: Kind, source: _Source, table: TableMapping, limits: Limits, latest: datetime
) -> tuple[pl.Expr, list[_Defect]]:
    match kind:
        case "time":
            return _time(source, table.time, latest)
        case "price":
            return _price(source.text)
        case "count":
            return _count(source.text)
        case "flag":
            return _named(source.text.str.to_lowercase(), _FLAGS, "is neither yes nor no")
        case "action":
            actions = table.actions or {action: action for action in ACTIONS}
            return _named(source.text, actions, "is unknown")
        case "id":
            return _text(source.text, limits.id_chars)
        case "text" | "attribute":
            return _text(source.text, limits.text_chars)


def _source(column: pl.Expr, dtype: pl.DataType, null: tuple[str, ...]) -> _Source:
    if dtype.is_temporal():
        return _Source(text=column, dtype=dtype)
    text = column.cast(pl.String)
    return _Source(text=pl.when(~text.is_in(list(null))).then(text), dtype=dtype)


def _text(text: pl.Expr, limit: int) -> tuple[pl.Expr, list[_Defect]]:
    length = text.str.len_chars()
    kind = f"is longer than {limit} characters"
    return text, [_Defect(kind=kind, bad=length > limit, detail=length.cast(pl.String))]


def _price(text: pl.Expr) -> tuple[pl.Expr, list[_Defect]]:
    value = text.str.strip_chars().cast(pl.Float64, strict=False)
    unread = (value.is_null() & text.is_not_null()) | value.is_nan()
    return value, [
        _Defect(kind="is not a number", bad=unread, detail=text),
        _Defect(kind="is negative", bad=value.is_finite() & (value < 0), detail=text),
        _Defect(kind="is not finite", bad=value.is_infinite(), detail=text),
    ]


def _count(text: pl.Expr) -> tuple[pl.Expr, list[_Defect]]:
    number = text.str.strip_chars().cast(pl.Float64, strict=False)
    value = number.cast(pl.Int32, strict=False)
    whole = value.is_not_null() & (value == number)
    return value, [
        _Defect(kind="is not a whole number", bad=text.is_not_null() & ~whole, detail=text),
        _Defect(kind="is negative", bad=value < 0, detail=text),
    ]


def _named(
    text: pl.Expr, names: Mapping[str, str] | Mapping[str, bool], otherwise: str
) -> tuple[pl.Expr, list[_Defect]]:
    kind = pl.Boolean() if names is _FLAGS else pl.String()
    value = text.replace_strict(names, default=None, return_dtype=kind)
    return value, [_Defect(kind=otherwise, bad=value.is_null() & text.is_not_null(), detail=text)]


def _time(source: _Source, time: Time, latest: datetime) -> tuple[pl.Expr, list[_Defect]]:
    value = moment(source.text, source.dtype, time)
    shown = source.text.cast(pl.String)
    unread = value.is_null() & source.text.is_not_null()
    return value, [
        _Defect(kind=f"is not a time ({time.format}, {time.zone})", bad=unread, detail=shown),
        _Defect(kind="is in the future", bad=value > latest, detail=shown),
        _Defect(kind="is before 1970", bad=value < _EPOCH, detail=shown),
    ]


# Types and texts -------------------------------------------------------------------------------


def _unfit(dtype: pl.DataType, kind: Kind, time: Time) -> str | None:
    """What was expected, if a column of this type cannot hold this kind."""
    text = dtype in (pl.String, pl.Binary, pl.Categorical, pl.Enum)
    whole_or_text = text or dtype.is_integer()
    stamp = dtype in (pl.Datetime, pl.Date) or (dtype.is_numeric() and time.format != "iso")
    fits, expected = {
        "id": (whole_or_text, "text or whole numbers"),
        "action": (whole_or_text, "text or whole numbers"),
        "text": (whole_or_text or dtype == pl.Boolean, "text"),
        "attribute": (text or dtype.is_numeric() or dtype == pl.Boolean, "text or numbers"),
        "flag": (whole_or_text or dtype == pl.Boolean, "yes or no"),
        "price": (text or dtype.is_numeric(), "numbers"),
        "count": (text or dtype.is_numeric(), "numbers"),
        "time": (text or stamp, "times, or numbers with a time.format such as epoch_s"),
    }[kind]
    return None if fits else expected


def _kind(name: str, field: str) -> Kind:
    return "attribute" if field.startswith(ATTRIBUTE) else FIELDS[name][field]


def _attributes(table: TableMapping) -> dict[str, str]:
    return {f"{ATTRIBUTE}{name}": column for name, column in table.attributes.items()}


def _is_blank(text: pl.Expr) -> pl.Expr:
    return text.is_null() | (text.cast(pl.String).str.strip_chars() == "")


def _reason(field: str, defect: _Defect) -> pl.Expr:
    head = pl.lit(f"{field.removeprefix(ATTRIBUTE)} {defect.kind}")
    if defect.detail is None:
        return head
    shown = defect.detail.fill_null("").str.slice(0, _SHOWN_CHARS)
    return pl.format("{}: '{}'", head, shown)
