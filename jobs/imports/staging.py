"""Accepted rows of one table on disk, before anything reaches the lake.

A file is read once, in batches; only what must be known about all rows at once stays in memory:
17 bytes a row (key, day, occurrence, whether it was dropped). The rows lie in Parquet parts,
each sorted by time, so that days can be read back one after the other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import date, datetime, timedelta
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from jobs.imports.read import PLACE, RAW
from jobs.imports.rows import REASONS
from pagoda.errors import InputError
from pagoda.ids import Kind, keys_of

ROW, KEY = "_row", "_key"
_HIDDEN = (PLACE, RAW, ROW, KEY)
_EPOCH = date(1970, 1, 1)
_NO_DAY = np.int32(-1)
_ROW_GROUP = 25_000
_DUPLICATES_AT_ONCE = 250_000


class Staged:
    """The accepted rows of one table.

    Args:
        kind: of the table's id.
        id_column: what must be unique; if the files lack it, equal rows are counted instead.
        time: the column that orders rows into days; None: rows keep their order.
    """

    def __init__(self, folder: Path, *, kind: Kind, id_column: str, time: str | None) -> None:
        folder.mkdir(parents=True)
        self._folder = folder
        self._kind = kind
        self._id = id_column
        self._time = time
        self._parts: list[Path] = []
        self._key_parts: list[npt.NDArray[np.int64]] = []
        self._day_parts: list[npt.NDArray[np.int32]] = []
        self._length = 0
        self.has_ids = True
        self._dropped: npt.NDArray[np.bool_] = np.zeros(0, dtype=np.bool_)
        self._occurrence: npt.NDArray[np.int32] = np.zeros(0, dtype=np.int32)
        self._days: npt.NDArray[np.int32] = np.zeros(0, dtype=np.int32)

    def add(self, accepted: pl.DataFrame) -> None:
        """Stage a batch as `rows.check` accepted it."""
        if accepted.is_empty():
            return
        self.has_ids = self._id in accepted.columns
        names = accepted[self._id] if self.has_ids else _contents(accepted)
        keys = keys_of(self._kind, names)
        rows = accepted.with_columns(
            pl.int_range(pl.len()).add(self._length).alias(ROW), pl.Series(KEY, keys)
        )
        days = np.full(len(rows), _NO_DAY)
        if self._time:
            days = rows[self._time].dt.date().cast(pl.Int32).to_numpy()
            rows = rows.sort(self._time, maintain_order=True)
        part = self._folder / f"part-{len(self._parts):06}.parquet"
        self._write(rows, part)
        self._parts.append(part)
        self._key_parts.append(keys)
        self._day_parts.append(days)
        self._length += len(rows)

    def retime(self, start: datetime) -> None:
        """Let times say no more than an order: `start`, and a millisecond more for each row.

        Of rows with equal times the one that came in first stands first.
        """
        assert self._time
        times = np.empty(self._length, np.int64)
        for part in self._parts:
            rows = pl.read_parquet(part, columns=[ROW, self._time])
            times[rows[ROW].to_numpy()] = rows[self._time].to_physical().to_numpy()
        place = np.empty(self._length, np.int64)
        place[np.argsort(times, kind="stable")] = np.arange(self._length)
        for number, part in enumerate(self._parts):
            rows = pl.read_parquet(part)
            after = pl.lit(pl.Series(place[rows[ROW].to_numpy()])).cast(pl.Duration("ms"))
            moved = rows.with_columns((pl.lit(start) + after).alias(self._time)).sort(ROW)
            self._day_parts[number] = moved[self._time].dt.date().cast(pl.Int32).to_numpy()
            self._write(moved.sort(self._time), part)

    def settle(self) -> Iterator[pl.DataFrame]:
        """Find duplicates, once all rows are in; gives the rows that go, with their reasons.

        Of identical rows the first stays; of rows with `updated_at` the newest. Where rows of one
        id contradict each other, none stays: nobody can say which is right.
        Raises: InputError if two ids share a key.
        """
        keys = np.concatenate([*self._key_parts, np.zeros(0, dtype=np.int64)])
        self._days = np.concatenate([*self._day_parts, np.zeros(0, dtype=np.int32)])
        self._key_parts, self._day_parts = [], []
        self._dropped = np.zeros(len(keys), dtype=np.bool_)
        if not self.has_ids:
            self._occurrence = _occurrences(keys)
            return
        distinct, counts = np.unique(keys, return_counts=True)
        repeated, counts = distinct[counts > 1], counts[counts > 1]
        for chosen in _chunks(repeated, counts, _DUPLICATES_AT_ONCE):
            rows = self._scan().filter(pl.col(KEY).is_in(pl.Series(chosen).implode())).collect()
            self._refuse_collisions(rows)
            going = _duplicates(rows.sort(ROW), self._id)
            self._dropped[going[ROW].to_numpy()] = True
            yield going.select(PLACE, RAW, REASONS)

    def __len__(self) -> int:
        return int((~self._dropped).sum()) if len(self._dropped) else self._length

    def days(self) -> list[date]:
        """The distinct days with rows, ascending."""
        return [_EPOCH + timedelta(days=int(day)) for day in np.unique(self._days[~self._dropped])]

    def batches(self, rows: int) -> Iterator[pl.DataFrame]:
        """The rows that stay, some `rows` at a time, days in ascending order.

        A day of more than twice as many is read in pieces. Rows without an id get one from their
        content and their number among equal rows.
        """
        if self._time is None:
            for part in self._parts:
                yield self._finished(pl.read_parquet(part))
            return
        days, counts = np.unique(self._days[~self._dropped], return_counts=True)
        day = pl.col(self._time).dt.date().cast(pl.Int32)
        for chosen in _chunks(days, counts, rows):
            between = self._scan().filter(day.is_between(int(chosen[0]), int(chosen[-1])))
            held = int(counts[np.isin(days, chosen)].sum())
            for piece in self._pieces(between, rows) if held > 2 * rows else [between]:
                yield from (
                    self._finished(piece.collect()).sort(self._time, self._id).iter_slices(rows)
                )

    def _pieces(self, whole: pl.LazyFrame, rows: int) -> Iterator[pl.LazyFrame]:
        """Some `rows` at a time, ascending; rows of one time stay together."""
        assert self._time
        time = pl.col(self._time)
        begins = whole.select(time.sort().gather_every(rows).unique().sort()).collect().to_series()
        for begin, end in zip(begins, [*begins[1:], None], strict=True):
            within = time >= begin if end is None else (time >= begin) & (time < end)
            yield whole.filter(within)

    def distinct(self, column: str) -> pl.DataFrame:
        """The distinct values of a column, as that column."""
        if not self._parts:
            return pl.DataFrame(schema={column: pl.String})
        kept = pl.concat(
            [
                self._kept(pl.read_parquet(part, columns=[column, ROW])).select(column).unique()
                for part in self._parts
            ]
        )
        return kept.drop_nulls().unique()

    def soon_after(self, who: str, within: timedelta) -> float:
        """Of the rows that follow another of the same `who`, the share that do so within a time."""
        assert self._time
        after = pl.col(self._time) - pl.col(self._time).shift(1).over("who")
        by_time = (
            self._scan()
            .select(pl.col(who).hash().alias("who"), self._time)
            .sort("who", self._time)
            .select((after <= within).mean())
        )
        share = by_time.collect().item()
        return 1.0 if share is None else float(share)

    def columns(self) -> Sequence[str]:
        """The columns that the rows have."""
        if not self._parts:
            return ()
        return [name for name in pl.read_parquet_schema(self._parts[0]) if name not in _HIDDEN]

    @staticmethod
    def _write(rows: pl.DataFrame, part: Path) -> None:
        rows.write_parquet(part, compression="zstd", compression_level=1, row_group_size=_ROW_GROUP)

    def _scan(self) -> pl.LazyFrame:
        return pl.scan_parquet(self._parts)

    def _kept(self, rows: pl.DataFrame) -> pl.DataFrame:
        return rows.filter(pl.Series(~self._dropped[rows[ROW].to_numpy()]))

    def _finished(self, rows: pl.DataFrame) -> pl.DataFrame:
        rows = self._kept(rows)
        if self.has_ids:
            rows = rows.with_columns(pl.col(KEY).alias(f"{self._kind}_key"))
        else:
            number = pl.Series("_number", self._occurrence[rows[ROW].to_numpy()])
            hexadecimal = pl.Series("_hex", [f"{key:016x}" for key in rows[KEY]], dtype=pl.String)
            rows = rows.with_columns(pl.format("{}-{}", hexadecimal, number).alias(self._id))
        return rows.drop(*_HIDDEN)

    def _refuse_collisions(self, rows: pl.DataFrame) -> None:
        clashes = (
            rows.group_by(KEY)
            .agg(pl.col(self._id).unique().sort())
            .filter(pl.col(self._id).list.len() > 1)
        )
        if len(clashes):
            raise InputError(
                "two ids have the same 63-bit key; nothing was written",
                problems=[
                    f"{self._kind} " + " and ".join(repr(each) for each in ids) + f": key {key}"
                    for key, ids in clashes.iter_rows()
                ],
                next_step="Rename one of each two ids in the source.",
            )


def _contents(rows: pl.DataFrame) -> pl.Series:
    """One text per row from all that it says, the same for equal rows."""
    said = [
        pl.col(name).cast(pl.String).fill_null("\x00")
        for name in sorted(set(rows.columns) - set(_HIDDEN))
    ]
    return rows.select(pl.concat_str(said, separator="\x1f").alias("content"))["content"]


def _occurrences(keys: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
    """How many equal keys stand before each one."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]][: len(keys)])
    lengths = np.diff(np.r_[starts, len(keys)])
    numbers = np.empty(len(keys), dtype=np.int32)
    numbers[order] = np.arange(len(keys)) - np.repeat(starts, lengths)
    return numbers


def _duplicates(rows: pl.DataFrame, id_column: str) -> pl.DataFrame:
    """Of rows (in file order) that share ids, those that go, with `_reasons`."""
    values = [name for name in rows.columns if name not in _HIDDEN]
    newest = pl.lit(value=True)
    if "updated_at" in values:  # a row without one is older than every row with one
        updated = pl.col("updated_at").dt.epoch("ms").fill_null(-1)
        newest = updated == updated.max().over(id_column)
    group = [id_column, "_newest"]
    rows = rows.with_columns(newest.alias("_newest")).with_columns(
        pl.struct(values).rank("dense").n_unique().over(group).alias("_versions"),
        pl.int_range(pl.len()).over(group).alias("_number"),
        pl.col(PLACE).first().over(group).alias("_first"),
        pl.col(PLACE).get(1, null_on_oob=True).over(group).alias("_second"),
        pl.col(PLACE).filter("_newest").first().over(id_column).alias("_newest_place"),
    )
    first = pl.col("_number") == 0
    other = pl.when(first).then("_second").otherwise("_first")
    reason = (
        pl.when(~pl.col("_newest"))
        .then(pl.format("{} is older than another row: '{}'", pl.lit(id_column), "_newest_place"))
        .when(pl.col("_versions") > 1)
        .then(pl.format("{} contradicts another row: '{}'", pl.lit(id_column), other))
        .when(~first)
        .then(pl.format("{} repeats an identical row: '{}'", pl.lit(id_column), "_first"))
    )
    return (
        rows.with_columns(reason.alias("_reason"))
        .drop_nulls("_reason")
        .select(PLACE, RAW, ROW, pl.concat_list("_reason").alias(REASONS))
    )


def _chunks(
    values: npt.NDArray[np.generic], counts: npt.NDArray[np.int64], rows: int
) -> Iterator[npt.NDArray[np.generic]]:
    """Consecutive values whose counts add up to some `rows`; each value is whole."""
    bucket = (np.cumsum(counts) - counts) // rows
    for each in np.unique(bucket):
        yield values[bucket == each]
