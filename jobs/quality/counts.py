"""What a view's table holds, as counts: one streaming pass, whatever the number of rows.

    feature table -> (day, column, value, rows)

A value is what a column is judged by: of a list its length; of a number the number, to three
significant digits; of a text the bucket that its hash falls into, of 64. So the result is as
small for a billion rows as for a thousand, and every rate, quantile and drift comes from it.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date
from typing import Literal

import polars as pl
import pyarrow as pa

from jobs.quality.distribution import Distribution
from pagoda import lake
from pagoda.features import View
from pagoda.settings import Settings

Measure = Literal["length", "number", "kind"]
EMPTY = {"length": 0.0, "kind": -1.0}  # the value that an empty list or text has
_KINDS = 64
_RAGGED = "ragged "  # before a sequence's name: whether its lists differ in length


def measure(kind: pa.DataType) -> Measure:
    """What a column of this type is judged by."""
    if pa.types.is_list(kind):
        return "length"
    return "kind" if kind in (pa.string(), pa.bool_()) else "number"


def sequences(view: View) -> dict[str, list[str]]:
    """Sequence name to its parallel list columns: `click` to click_ts, click_events, …"""
    found: dict[str, list[str]] = {}
    for column, kind in view.columns.items():
        if measure(kind) == "length":
            found.setdefault(column.rpartition("_")[0], []).append(column)
    return found


def count(settings: Settings, view: View, spans: Iterable[tuple[date, date]]) -> pl.DataFrame:
    """Rows per day, column and value (null for a null), of some spans of UTC days, inclusive."""
    wanted = pl.any_horizontal(pl.col("day").is_between(first, last) for first, last in spans)
    rows = lake.scan(settings, view.table).filter(wanted)
    return (
        rows.select(
            "day",
            *(_value(column, kind) for column, kind in view.columns.items()),
            *(_ragged(name, lists) for name, lists in sequences(view).items()),
        )
        .unpivot(index="day", variable_name="column", value_name="value")
        .group_by("day", "column", "value")
        .agg(rows=pl.len().cast(pl.Int64))
        .collect(engine="streaming")
    )


def distribution(counted: pl.DataFrame, column: str, *, first: date, last: date) -> Distribution:
    """A column's distribution over some of the counted days."""
    of_column = counted.filter((pl.col("column") == column) & pl.col("day").is_between(first, last))
    by_value = of_column.group_by("value").agg(pl.sum("rows")).sort("value")
    filled = by_value.drop_nulls("value")
    return Distribution(
        values=filled["value"].to_numpy(),
        rows=filled["rows"].to_numpy(),
        nulls=int(by_value.filter(pl.col("value").is_null())["rows"].sum()),
    )


def ragged_rows(counted: pl.DataFrame, sequence: str, *, first: date, last: date) -> int:
    """Rows in which the lists of a sequence differ in length: no reader can use them."""
    found = distribution(counted, _RAGGED + sequence, first=first, last=last)
    return int(found.rows[found.values == 1].sum())


def _value(column: str, kind: pa.DataType) -> pl.Expr:
    value = pl.col(column)
    if pa.types.is_list(kind):
        value = value.list.len()
    elif kind == pa.string():
        bucket = (value.hash(seed=0) % _KINDS).cast(pl.Float64)
        value = pl.when(value == "").then(EMPTY["kind"]).when(value.is_not_null()).then(bucket)
    return value.cast(pl.Float64).round_sig_figs(3).alias(column)


def _ragged(name: str, lists: list[str]) -> pl.Expr:
    first, *others = (pl.col(column).list.len() for column in lists)
    differ = pl.any_horizontal([other.ne_missing(first) for other in others] or [pl.lit(False)])
    return differ.cast(pl.Float64).alias(_RAGGED + name)
