"""Reading a user's files in batches of bounded size, each row with its place and raw content.

A batch is a frame with one column per mapped file column (CSV: text) and
`_place` ("events.csv:12"), `_raw` (the bytes of the line; JSON for Parquet) and `_problem`
(why the row could not even be split into columns, else null). A row is a CSV record or a Parquet
row; blank lines are none. Nothing is dropped here.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from jobs.imports.mapping import TableMapping, is_parquet
from pagoda.errors import InputError

BATCH_ROWS = 100_000
PLACE, RAW, PROBLEM = "_place", "_raw", "_problem"
_BATCH_BYTES = 1 << 26
_FIELD_CHARS = 1 << 20
_TEXTS = (pa.string(), pa.large_string(), pa.binary(), pa.large_binary())
_UTF16 = (b"\xff\xfe", b"\xfe\xff")


def columns_of(path: Path, table: TableMapping) -> dict[str, pl.DataType]:
    """The file's columns with their types. Raises: InputError if it cannot be opened as such."""
    if is_parquet(table, path):
        try:
            return dict(pl.read_parquet_schema(path))
        except (pl.exceptions.ComputeError, OSError) as error:
            raise InputError(f"not a Parquet file: {error}", where=str(path)) from error
    names = table.header or _header(path, table)
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"columns stand twice in the header: {', '.join(twice)}", where=str(path))
    return {name: pl.String() for name in names}


def first_lines(path: Path, count: int) -> list[str]:
    """The first lines of a text file. Raises: InputError if it cannot be read as such."""
    lines = _open(path)
    try:
        found = list(islice(lines, count))
    except OSError as error:
        raise InputError(f"cannot be read: {error}", where=str(path)) from error
    finally:
        lines.close()
    # What is not UTF-8 is found row by row later; here it need only be fit to be shown.
    return [line.encode("utf-8", "surrogateescape").decode("utf-8", "replace") for line in found]


def batches(
    path: Path, table: TableMapping, *, shown_as: str, rows: int = BATCH_ROWS
) -> Iterator[pl.DataFrame]:
    """The rows of one file. Raises: InputError where the rest of a file cannot be read."""
    wanted = sorted({*table.columns.values(), *table.attributes.values()})
    if is_parquet(table, path):
        yield from _parquet(path, wanted, shown_as=shown_as, rows=rows)
    else:
        yield from _csv(path, table, wanted, shown_as=shown_as, rows=rows)


# Parquet ---------------------------------------------------------------------------------------


def _parquet(
    path: Path, wanted: Sequence[str], *, shown_as: str, rows: int
) -> Iterator[pl.DataFrame]:
    first = 1
    try:
        for batch in pq.ParquetFile(path).iter_batches(batch_size=rows, columns=list(wanted)):
            data, problems = _decoded(pa.Table.from_batches([batch]))
            frame = pl.from_arrow(data)
            assert isinstance(frame, pl.DataFrame)
            yield frame.with_columns(
                pl.format("{}:row {}", pl.lit(shown_as), pl.int_range(pl.len()) + first).alias(
                    PLACE
                ),
                pl.struct(data.column_names).struct.json_encode().cast(pl.Binary).alias(RAW),
                pl.Series(PROBLEM, problems, dtype=pl.String),
            )
            first += len(frame)
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"cannot be read: {error}", where=f"{shown_as}:row {first}") from error


def _decoded(data: pa.Table) -> tuple[pa.Table, list[str | None]]:
    """Texts checked to be UTF-8, and for each row what is not.

    Nobody else checks: neither Arrow when it reads nor Polars when it takes over.
    """
    problems: list[str | None] = [None] * data.num_rows
    for position, field in enumerate(data.schema):
        if field.type not in _TEXTS:
            continue
        raw = data.column(position).cast(pa.large_binary())
        try:
            column = raw.cast(pa.large_string())
        except pa.ArrowInvalid:
            texts = [_decode(value) for value in raw.to_pylist()]
            for row, (before, after) in enumerate(zip(raw.to_pylist(), texts, strict=True)):
                if before is not None and after.encode() != before:
                    problems[row] = f"not UTF-8: column {field.name}"
            column = pa.chunked_array([pa.array(texts, pa.large_string())])
        data = data.set_column(position, field.name, column)
    return data, problems


def _decode(value: bytes | None) -> Any:
    return None if value is None else value.decode("utf-8", "backslashreplace")


# CSV -------------------------------------------------------------------------------------------


class _Lines:
    """Text lines for the csv module, and the bytes of the record that it is reading.

    Bytes that are not UTF-8 become lone surrogates, which `_records` finds and reports.
    """

    def __init__(self, path: Path) -> None:
        self._file = io.BufferedReader(pa.input_stream(str(path), compression="detect"))
        self.number = 0
        self.record: list[bytes] = []

    def __iter__(self) -> Iterator[str]:
        for line in self._file:
            self.number += 1
            text = line.removeprefix(b"\xef\xbb\xbf") if self.number == 1 else line
            self.record.append(line)
            yield text.decode("utf-8", "surrogateescape")

    def take(self) -> tuple[int, bytes]:
        """First line and bytes of the record just read."""
        raw = b"".join(self.record)
        first = self.number - len(self.record) + 1
        self.record.clear()
        return first, raw

    def close(self) -> None:
        self._file.close()


def _header(path: Path, table: TableMapping) -> tuple[str, ...]:
    lines = _open(path)
    try:
        names = next(_reader(iter(lines), table), None)
    except (csv.Error, OSError) as error:
        raise InputError(f"the header cannot be read: {error}", where=str(path)) from error
    finally:
        lines.close()
    if not names:
        raise InputError("the file is empty", where=str(path), expected="a header line")
    if not "".join(names).isprintable():
        raise InputError("the header is not UTF-8 text", where=str(path))
    return tuple(names)


def _csv(
    path: Path, table: TableMapping, wanted: Sequence[str], *, shown_as: str, rows: int
) -> Iterator[pl.DataFrame]:
    names = list(table.header or _header(path, table))
    batch = _Batch(wanted, [names.index(name) for name in wanted])
    for first, raw, fields, problem in _records(path, table, len(names), shown_as):
        batch.add(first, raw, fields, problem)
        if len(batch.raws) == rows or batch.size > _BATCH_BYTES:
            yield batch.frame(shown_as)
            batch = _Batch(wanted, batch.positions)
    if batch.raws:
        yield batch.frame(shown_as)


class _Batch:
    """Records by column: a list per row would keep Python's garbage collector busy."""

    def __init__(self, wanted: Sequence[str], positions: Sequence[int]) -> None:
        self.positions = positions
        self._columns: dict[str, list[str | None]] = {name: [] for name in wanted}
        self._firsts: list[int] = []
        self.raws: list[bytes] = []
        self._problems: list[str | None] = []
        self.size = 0

    def add(self, first: int, raw: bytes, fields: Sequence[str], problem: str | None) -> None:
        self._firsts.append(first)
        self.raws.append(raw)
        self.size += len(raw)
        self._problems.append(problem)
        for column, position in zip(self._columns.values(), self.positions, strict=True):
            column.append(None if problem else fields[position])

    def frame(self, shown_as: str) -> pl.DataFrame:
        data = {name: pa.array(column, pa.string()) for name, column in self._columns.items()}
        data |= {
            PLACE: pa.array(self._firsts, pa.int64()),
            RAW: pa.array(self.raws, pa.binary()),
            PROBLEM: pa.array(self._problems, pa.string()),
        }
        frame = pl.from_arrow(pa.table(data))
        assert isinstance(frame, pl.DataFrame)
        return frame.with_columns(pl.format("{}:{}", pl.lit(shown_as), PLACE).alias(PLACE))


def _records(
    path: Path, table: TableMapping, width: int, shown_as: str
) -> Iterator[tuple[int, bytes, list[str], str | None]]:
    """First line, bytes, fields and problem of every record below the header."""
    lines = _open(path)
    text = iter(lines)
    reader = _reader(text, table)
    skip_header = not table.header
    try:
        while True:
            problem = None
            try:
                fields = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                if len(lines.record) > 1:
                    first, _ = lines.take()
                    raise InputError(
                        f"a quote opened here is not closed properly ({error})",
                        where=f"{shown_as}:{first}",
                        next_step='Correct the line, or say quote = "" where quotes are plain '
                        "characters.",
                    ) from error
                fields, problem = [], f"not CSV: {error}"
                reader = _reader(text, table)
            first, raw = lines.take()
            if skip_header:
                skip_header = False
                continue
            if not fields and not problem:
                continue  # a blank line
            yield first, raw, fields, problem or _defect(fields, raw, width)
    except OSError as error:
        raise InputError(
            f"cannot be read: {error}", where=f"{shown_as}:{lines.number + 1}"
        ) from error
    finally:
        lines.close()


def _defect(fields: list[str], raw: bytes, width: int) -> str | None:
    if len(fields) != width:
        return f"wrong number of fields: {len(fields)}, expected {width}"
    if not raw.isascii():
        try:
            raw.decode("utf-8")
        except UnicodeDecodeError as error:
            return f"not UTF-8: {error.reason} at byte {error.start}"
    return None


def _reader(text: Iterator[str], table: TableMapping) -> Iterator[list[str]]:
    csv.field_size_limit(_FIELD_CHARS)
    return csv.reader(
        text,
        delimiter=table.delimiter,
        quotechar=table.quote or None,
        quoting=csv.QUOTE_MINIMAL if table.quote else csv.QUOTE_NONE,
        strict=True,
    )


def _open(path: Path) -> _Lines:
    try:
        with path.open("rb") as file:
            if file.read(2) in _UTF16:
                raise InputError("the file is UTF-16", where=str(path), expected="UTF-8")
        return _Lines(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(f"cannot be opened: {error}", where=str(path)) from error
