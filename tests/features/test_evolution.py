"""Lake tables follow their declaration and lose nothing; what cannot follow is named."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyspark.sql import SparkSession

from pagoda import evolution, lake
from pagoda.errors import InputError
from pagoda.schemas import INT64S, TS, Table
from pagoda.settings import PROJECT_ROOT, Settings, load
from tests.conftest import Home

DAY = pa.field("ts", TS, nullable=False)


def declared(*fields: pa.Field, name: str = "things") -> Table:
    schema = pa.schema([pa.field("key", pa.int64(), nullable=False), DAY, *fields])
    return Table(name=name, purpose="To change.", schema=schema, partition_by_day="ts")


OLD = declared(pa.field("position", pa.int32()), pa.field("rate", pa.float32()))
NEW = declared(
    pa.field("colour", pa.string()),  # in the middle: order does not matter
    pa.field("position", pa.int64()),
    pa.field("rate", pa.float64()),
    pa.field("times", INT64S),
    pa.field("more", pa.map_(pa.string(), pa.string())),
)


@pytest.fixture
def fresh(tmp_path: Path) -> Settings:
    return load(home=tmp_path)


def append(settings: Settings, table: Table, *made: Mapping[str, Any]) -> None:
    """As a writer of that declaration does it, whatever the table has become since."""
    rows = [{"ts": 1_700_000_000_000_000, **row} for row in made]
    names = table.schema.names
    full = [{name: row.get(name) for name in names} for row in rows]
    lake.open_table(settings, table).append(pa.Table.from_pylist(full, schema=table.schema))


def read(settings: Settings, table: Table) -> list[dict[str, Any]]:
    found = lake.open_table(settings, table).scan().to_arrow().drop(["ts"]).to_pylist()
    return sorted(found, key=lambda row: row["key"])


def columns(settings: Settings, table: Table) -> list[str]:
    return [field.name for field in lake.open_table(settings, table).schema().fields]


def test_columns_are_added_and_widened_and_old_rows_hold_null(fresh: Settings) -> None:
    append(fresh, OLD, {"key": 1, "position": 7, "rate": 0.5})
    append(fresh, NEW, {"key": 2, "position": 2**40, "rate": 1e300, "colour": "red", "times": [3]})
    nothing = {"colour": None, "times": None, "more": None}
    assert read(fresh, NEW) == [
        {"key": 1, "position": 7, "rate": 0.5, **nothing},
        {"key": 2, "position": 2**40, "rate": 1e300, **nothing, "colour": "red", "times": [3]},
    ]


def test_a_writer_of_the_old_declaration_goes_on_writing(fresh: Settings) -> None:
    append(fresh, OLD, {"key": 1, "position": 7})
    lake.open_table(fresh, NEW)
    append(fresh, OLD, {"key": 2, "position": 8})
    assert [row["position"] for row in read(fresh, OLD)] == [7, 8]
    assert evolution.of_table(lake.open_table(fresh, OLD), NEW) == evolution.Differences()


def test_what_was_required_may_become_optional(fresh: Settings) -> None:
    append(fresh, declared(pa.field("shop", pa.string(), nullable=False)), {"key": 1, "shop": "a"})
    relaxed = declared(pa.field("shop", pa.string()))
    append(fresh, relaxed, {"key": 2})
    assert [row["shop"] for row in read(fresh, relaxed)] == ["a", None]


def test_what_cannot_follow_is_refused_whole_and_every_column_named(fresh: Settings) -> None:
    append(fresh, OLD, {"key": 1, "position": 7, "rate": 0.5})
    impossible = declared(
        pa.field("colour", pa.string()),
        pa.field("shop", pa.string(), nullable=False),
        pa.field("position", pa.string()),
        pa.field("rate", pa.float32(), nullable=False),
    )
    with pytest.raises(InputError) as refused:
        lake.open_table(fresh, impossible)
    assert [problem.split(";")[0] for problem in refused.value.problems] == [
        "column shop: missing, expected string in every row",
        "column position: expected string, found int32",
        "column rate: expected in every row, found optional: some may lack it",
    ]
    assert "lake table things" in str(refused.value)
    assert columns(fresh, OLD) == OLD.schema.names


def test_many_who_find_the_same_difference_while_rows_come_lose_nothing(fresh: Settings) -> None:
    """Old and new writers at once, from threads and from another process."""
    append(fresh, OLD, {"key": -1})
    other = subprocess.Popen(
        [sys.executable, "-c", _OPEN_AND_APPEND, str(fresh.home)], cwd=PROJECT_ROOT
    )
    with ThreadPoolExecutor(4) as pool:
        tables = [OLD, NEW] * 4
        for done in [
            pool.submit(append, fresh, table, {"key": key, "position": key})
            for key, table in enumerate(tables)
        ]:
            done.result()
    assert other.wait(timeout=60) == 0
    found = read(fresh, NEW)
    assert [row["key"] for row in found] == [-1, *range(8), 100]
    assert [row["position"] for row in found] == [None, *range(8), 2**50]
    assert sorted(columns(fresh, NEW)) == sorted(NEW.schema.names)


_OPEN_AND_APPEND = """
import sys
from pathlib import Path
from pagoda.settings import load
from tests.features.test_evolution import NEW, append
append(load(home=Path(sys.argv[1])), NEW, {"key": 100, "position": 2**50})
"""

kinds = st.sampled_from([pa.int32(), pa.int64(), pa.float32(), pa.float64(), pa.string(), INT64S])
fields = st.dictionaries(
    st.sampled_from("abcdef"), st.tuples(kinds, st.booleans()), max_size=6
).map(lambda made: pa.schema([pa.field(n, k, nullable=null) for n, (k, null) in made.items()]))
WIDER = {("int32", "int64"), ("float", "double")}


@given(there=fields, wanted=fields)
def test_a_difference_is_a_change_or_a_problem_by_these_rules(
    there: pa.Schema, wanted: pa.Schema
) -> None:
    found = evolution.differences(there, wanted)
    for field in wanted:
        if field.name not in there.names:
            fits, changes = field.nullable, 1
        else:
            has = there.field(field.name)
            types = (str(has.type), str(field.type))
            same_or_wider = types[0] == types[1] or types[::-1] in WIDER
            fits = (same_or_wider or types in WIDER) and (field.nullable or not has.nullable)
            changes = (types in WIDER) + (field.nullable and not has.nullable)
        named = [each for each in found.problems if each.startswith(f"column {field.name}:")]
        assert bool(named) == (not fits)
        if fits:
            assert len([e for e in found.changes if e.split()[1] == field.name]) == changes
    assert evolution.differences(there, there) == evolution.Differences()


@pytest.mark.spark
def test_spark_reads_and_writes_a_table_that_changed(spark: SparkSession, home: Home) -> None:
    settings = home("evolving")
    append(settings, OLD, {"key": 1, "position": 7})
    name = lake.spark_name(settings, OLD)
    assert spark.table(name).count() == 1
    lake.open_table(settings, NEW)
    rows = spark.createDataFrame([(2, 2**40)], "key bigint, position bigint")
    known = spark.table(name).where("key = 1").select("ts")
    spark.table(name).limit(0).unionByName(rows.crossJoin(known), allowMissingColumns=True).writeTo(
        name
    ).append()
    found = spark.table(name).orderBy("key").select("key", "position", "colour").collect()
    assert [tuple(row) for row in found] == [(1, 7, None), (2, 2**40, None)]
