from __future__ import annotations

import gzip
from pathlib import Path

import polars as pl
import pytest

from jobs.imports import read
from jobs.imports.mapping import TableMapping
from pagoda.errors import InputError

TABLE = TableMapping(files=("x.csv",), columns={"item_id": "id", "title": "name"})


def rows(path: Path, content: bytes, table: TableMapping = TABLE, size: int = 2) -> pl.DataFrame:
    path.write_bytes(content)
    return pl.concat(read.batches(path, table, shown_as=path.name, rows=size))


def test_each_record_knows_its_line_and_its_bytes(tmp_path: Path) -> None:
    frame = rows(tmp_path / "x.csv", b'id,name\r\n1,one\r\n\r\n2,"two\r\nlines"\r\n3,three', size=2)
    assert frame.select("id", "name", "_place", "_raw", "_problem").rows() == [
        ("1", "one", "x.csv:2", b"1,one\r\n", None),
        ("2", "two\r\nlines", "x.csv:4", b'2,"two\r\nlines"\r\n', None),
        ("3", "three", "x.csv:6", b"3,three", None),
    ]


def test_columns_may_stand_in_any_order_with_others_beside_them(tmp_path: Path) -> None:
    frame = rows(tmp_path / "x.csv", b"z,name,id\n0,one,1\n")
    assert frame.select("id", "name").rows() == [("1", "one")]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b"1\n", "wrong number of fields: 1, expected 2"),
        (b"1,one,more\n", "wrong number of fields: 3, expected 2"),
        (b"1,caf\xe9\n", "not UTF-8: invalid continuation byte at byte 5"),
        (b'1,"one"more\n', "not CSV: ',' expected after '\"'"),
        (b"1," + b"x" * (1 << 21) + b"\n", "not CSV: field larger than field limit (1048576)"),
    ],
)
def test_a_line_that_cannot_be_split_is_kept_with_the_reason(
    tmp_path: Path, line: bytes, problem: str
) -> None:
    frame = rows(tmp_path / "x.csv", b"id,name\n" + line + b"2,two\n")
    assert frame["_raw"].to_list() == [line, b"2,two\n"]
    assert frame["_problem"].to_list() == [problem, None]
    assert frame["id"].to_list() == [None, "2"]


def test_a_quote_that_never_closes_refuses_the_file_instead_of_swallowing_it(
    tmp_path: Path,
) -> None:
    with pytest.raises(InputError, match=r"x\.csv:3: a quote opened here is not closed"):
        rows(tmp_path / "x.csv", b'id,name\n1,one\n2,"two\n3,three\n')


def test_quotes_can_be_plain_characters(tmp_path: Path) -> None:
    table = TABLE.model_copy(update={"quote": ""})
    frame = rows(tmp_path / "x.csv", b'id,name\n2,"two\n3,12" pan\n', table)
    assert frame["name"].to_list() == ['"two', '12" pan']


def test_compressed_files_byte_order_marks_and_files_without_header(tmp_path: Path) -> None:
    table = TABLE.model_copy(update={"header": ("id", "name"), "delimiter": "\t"})
    frame = rows(tmp_path / "x.tsv.gz", gzip.compress("1\tone\n2\tzwölf\n".encode()), table)
    assert frame.select("id", "name", "_place").rows() == [
        ("1", "one", "x.tsv.gz:1"),
        ("2", "zwölf", "x.tsv.gz:2"),
    ]
    marked = rows(tmp_path / "x.csv", b"\xef\xbb\xbfid,name\n1,one\n")
    assert marked["id"].to_list() == ["1"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        ("id,name\n1,one\n".encode("utf-16"), "the file is UTF-16"),
        (b"id,id\n1,2\n", "columns stand twice in the header: id"),
        (b"id,n\xffme\n", "the header is not UTF-8 text"),
    ],
)
def test_a_file_that_cannot_be_opened_as_csv_is_refused(
    tmp_path: Path, content: bytes, message: str
) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        read.columns_of(path, TABLE)


def test_a_broken_archive_says_where_reading_stopped(tmp_path: Path) -> None:
    whole = gzip.compress(b"id,name\n" + b"".join(b"%d,x\n" % n for n in range(50_000)), 1)
    with pytest.raises(InputError, match=r"x\.csv\.gz:\d+: cannot be read"):
        rows(tmp_path / "x.csv.gz", whole[:-2_000], size=100_000)


def test_parquet_rows_keep_types_and_show_themselves_as_json(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    pl.DataFrame({"id": [1, 2, 3], "name": ["a", None, "c"], "z": [0, 0, 0]}).write_parquet(path)
    frame = pl.concat(read.batches(path, TABLE, shown_as="x.parquet", rows=2))
    assert frame.select("id", "name", "_place", "_raw").rows() == [
        (1, "a", "x.parquet:row 1", b'{"id":1,"name":"a"}'),
        (2, None, "x.parquet:row 2", b'{"id":2,"name":null}'),
        (3, "c", "x.parquet:row 3", b'{"id":3,"name":"c"}'),
    ]


def test_parquet_bytes_are_read_as_text_where_they_are_text(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    pl.DataFrame({"id": [b"1", b"\xff2", None], "name": ["a", "b", "c"]}).write_parquet(path)
    frame = pl.concat(read.batches(path, TABLE, shown_as="x.parquet"))
    assert frame["id"].to_list() == ["1", "\\xff2", None]
    assert frame["_problem"].to_list() == [None, "not UTF-8: column id", None]


def test_what_is_not_parquet_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    path.write_bytes(b"id,name\n")
    with pytest.raises(InputError, match="not a Parquet file"):
        read.columns_of(path, TABLE)
