"""Times as files write them, to UTC.

Every function gives null where the text is no time; `rows` makes a reason of that.
"""

from __future__ import annotations

import polars as pl

from jobs.imports.mapping import Time

UTC_US = pl.Datetime("us", "UTC")
_CLOCKS = ("%H:%M:%S%.f", "%H:%M")
_ZONE_CODES = ("%z", "%:z", "%#z")
_CLOCK_CODES = ("%H", "%I", "%T", "%R", "%r", "%X", "%c", "%s")


def moment(source: pl.Expr, dtype: pl.DataType, time: Time) -> pl.Expr:
    """`source` (text, or a date or datetime column of type `dtype`) as UTC in milliseconds."""
    return _moment(source, dtype, time).dt.truncate("1ms")


def _moment(source: pl.Expr, dtype: pl.DataType, time: Time) -> pl.Expr:
    if isinstance(dtype, pl.Datetime):
        micros = source.cast(pl.Datetime("us", dtype.time_zone))
        return micros.dt.convert_time_zone("UTC") if dtype.time_zone else _in_zone(micros, time)
    if dtype == pl.Date:
        return _in_zone(source.cast(pl.Datetime("us")), time)
    text = source.str.strip_chars()
    if time.format.startswith("epoch_"):
        return _epoch(text, micros_per_unit=1_000_000 if time.format == "epoch_s" else 1_000)
    if time.format == "iso":
        return _iso(text, time)
    return _pattern(text, time)


def _epoch(text: pl.Expr, *, micros_per_unit: int) -> pl.Expr:
    micros = (text.cast(pl.Float64, strict=False) * micros_per_unit).round()
    return micros.cast(pl.Int64, strict=False).cast(UTC_US, strict=False)


def _iso(text: pl.Expr, time: Time) -> pl.Expr:
    plain = text.str.replace(" ", "T", literal=True).str.replace("[Zz]$", "+00:00")
    aware = [_parsed(plain, f"%Y-%m-%dT{clock}%:z") for clock in _CLOCKS]
    naive = [_parsed(plain, f"%Y-%m-%dT{clock}") for clock in _CLOCKS]
    naive.append(_day(plain, "%Y-%m-%d"))
    return pl.coalesce([*aware, *(_in_zone(each, time) for each in naive)])


def _pattern(text: pl.Expr, time: Time) -> pl.Expr:
    if any(code in time.format for code in _ZONE_CODES):
        return _parsed(text, time.format).dt.convert_time_zone("UTC")
    if any(code in time.format for code in _CLOCK_CODES):
        return _in_zone(_parsed(text, time.format), time)
    return _in_zone(_day(text, time.format), time)


def _parsed(text: pl.Expr, pattern: str) -> pl.Expr:
    return text.str.to_datetime(pattern, strict=False, time_unit="us")


def _day(text: pl.Expr, pattern: str) -> pl.Expr:
    return text.str.to_date(pattern, strict=False).cast(pl.Datetime("us"))


def _in_zone(naive: pl.Expr, time: Time) -> pl.Expr:
    return naive.dt.replace_time_zone(
        time.zone, ambiguous="earliest", non_existent="null"
    ).dt.convert_time_zone("UTC")
