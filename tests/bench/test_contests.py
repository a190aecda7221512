"""Benches in short: the contestants' rows are equal, and a difference would be seen."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl
import pytest

from jobs.bench import by_duckdb, by_polars, by_spark, features, shop
from pagoda import store
from pagoda.contest import differences, own_home, run_alone
from pagoda.errors import CheckFailed, InputError, MachineError
from pagoda.settings import Settings
from tests.conftest import Home
from training.bench import joins, made_rows, pit

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


@pytest.mark.spark
def test_histories_are_the_same_by_spark_duckdb_and_polars(
    spark: SparkSession, home: Home, tmp_path: Path
) -> None:
    settings = home("bench_features")
    made = shop.prepare(settings, events=8_000, seed=3, session=spark)
    by_spark.write(settings, shop.days(), tmp_path / "spark", session=spark)
    by_duckdb.write(settings, shop.days(), tmp_path / "duckdb")
    by_polars.write(settings, shop.days(), tmp_path / "polars")
    rows = pl.read_parquet(tmp_path / "duckdb" / "*.parquet")
    assert len(rows) > made.users * 10
    assert rows["long_click_ts"].list.len().max() > 10
    for peer in ("duckdb", "polars"):
        found = differences(
            tmp_path / "spark", tmp_path / peer, features.COMPARED, ("user_key", "day")
        )
        assert found == [], peer


@pytest.mark.spark
def test_training_rows_are_the_same_by_pagoda_feast_duckdb_and_polars(
    spark: SparkSession, home: Home, tmp_path: Path
) -> None:
    settings = home("bench_pit")
    made_rows.fill(settings, rows=3_000, seed=3, days=8)
    store.apply(settings)
    asked = tmp_path / "asked.parquet"
    made_rows.requests(settings, count=500, seed=3, days=8).write_parquet(asked)
    folders = {name: tmp_path / name / "rows" for name in pit.NAMES}
    joins.by_duckdb(settings, asked, folders["duckdb"])
    joins.by_polars(settings, asked, folders["polars"])
    for name in ("pagoda", "feast"):
        own = name == "pagoda"
        joins.by_feast(settings, asked, folders[name], own=own, session=spark)
    rows = pl.read_parquet(folders["duckdb"] / "*.parquet")
    for view in made_rows.SERVICE.views:  # some find a row, some none that is young enough
        found = rows[f"{view.name}__{next(iter(view.columns))}"].is_not_null()
        assert 0 < found.sum() < len(rows), view.name
    for name in pit.NAMES[1:]:
        keys = ("user_key", "t_ms")
        assert differences(folders["pagoda"], folders[name], pit.COMPARED, keys) == [], name


def test_every_kind_of_difference_is_told(tmp_path: Path) -> None:
    same = {"key": [1, 2, 3, 3], "values": [[1], [2, 3], [4], [5]]}
    others = {
        "only in the second": {"key": [1, 2, 3, 3, 4], "values": [[1], [2, 3], [4], [5], []]},
        "only in the first": {"key": [1, 2, 3], "values": [[1], [2, 3], [4]]},
        "other values": {"key": [1, 2, 3, 3], "values": [[1], [3, 2], [4], [5]]},
    }
    write(tmp_path / "one", same)
    write(tmp_path / "again", {name: values[::-1] for name, values in same.items()})
    compared = ["key", "values"]
    assert differences(tmp_path / "one", tmp_path / "again", compared, ["key"]) == []
    for said, rows in others.items():
        write(tmp_path / said, rows)
        found = differences(tmp_path / "one", tmp_path / said, compared, ["key"])
        assert any(said in each for each in found), found


def write(folder: Path, rows: dict[str, list[object]]) -> None:
    folder.mkdir()
    pl.DataFrame(rows).write_parquet(folder / "rows.parquet")


def test_a_bench_has_a_home_of_its_own_and_leaves_nothing(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PAGODA_LAKE__NAMESPACE", "production")
    before = dict(os.environ)
    with own_home(settings, keep=None, need_gb=0) as home:
        assert home.lake.namespace == "pagoda"
        assert home.home != settings.home
        assert home.spark == settings.spark
        assert list(home.jars.iterdir())
        with pytest.raises(CheckFailed, match="no_such_module"):
            run_alone(home, "no_such_module")
    assert not home.home.exists()
    assert dict(os.environ) == before
    (tmp_path / "somebody's").write_text("")
    with (
        pytest.raises(InputError, match="not made by a bench"),
        own_home(settings, keep=tmp_path, need_gb=0),
    ):
        pass
    with (
        pytest.raises(MachineError, match="too little disk"),
        own_home(settings, keep=None, need_gb=1e9),
    ):
        pass
