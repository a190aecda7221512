"""The contestants of `pagoda bench pit`: one point-in-time join, in a process of its own.

    feature tables, requests.parquet -> rows, a Parquet folder: user_key, t_ms, view__column ...

`pagoda` is `training.data.rows.fetch` as training runs it; `feast` the same with Feast's own Spark
store. An as-of join knows one time, the rule two (a row's own, and when it was known): the peers
first drop every row that a newer one had overtaken before it was known.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import duckdb
import polars as pl
import typer
from feast.infra.offline_stores.contrib.spark_offline_store.spark import SparkOfflineStore
from pyspark.sql import SparkSession

from pagoda import settings, spark
from pagoda.asof import AsOfOfflineStore
from pagoda.console import run
from pagoda.contest import MEMORY_LIMIT, duckdb_config, files
from pagoda.settings import Settings
from pagoda.watch import measured
from pagoda.windows import DAY_MS
from training.bench.made_rows import SERVICE
from training.data import rows

app = typer.Typer(add_completion=False, help="One contestant of `pagoda bench pit`.")


@app.command()
def main(name: str, requests: Path, to: Path) -> None:
    """Let a contestant write its rows, and say what that took."""
    loaded = settings.load()
    if name in ("pagoda", "feast"):
        by_feast(loaded, requests, to, own=name == "pagoda")
    else:
        {"duckdb": by_duckdb, "polars": by_polars}[name](loaded, requests, to)


def by_feast(
    loaded: Settings,
    requests: Path,
    to: Path,
    *,
    own: bool,
    session: SparkSession | None = None,
) -> None:
    """Feast's `get_historical_features`, by Pagoda's plan or by Feast's own."""
    asked = pl.read_parquet(requests)
    given = nullcontext(session) if session else spark.session(loaded, "bench pit")
    with given as used, nullcontext() if own else _feasts_plan(), measured():
        rows.fetch(loaded, SERVICE, asked, to.parent, session=used)


@contextmanager
def _feasts_plan() -> Iterator[None]:
    """Within the block Feast's Spark store works as it does without Pagoda."""
    name, ours = "get_historical_features", AsOfOfflineStore.__dict__["get_historical_features"]
    setattr(AsOfOfflineStore, name, staticmethod(getattr(SparkOfflineStore, name)))
    try:
        yield
    finally:
        setattr(AsOfOfflineStore, name, ours)


def by_duckdb(loaded: Settings, requests: Path, to: Path) -> None:
    """DuckDB's ASOF join, a view after the other."""
    to.mkdir(parents=True)
    joins, columns, paths = "", "", {}
    for view in SERVICE.views:
        paths[view.name] = files(loaded, view.table)
        valid = (
            f"epoch_ms({view.name}.event_timestamp) >= asked_ms - {(view.ttl_days or 0) * DAY_MS}"
        )
        for column in view.columns:
            name = f"{view.name}__{column}"
            columns += f", CASE WHEN {valid} THEN {view.name}.{column} END AS {name}"
        joins += f"""
          ASOF LEFT JOIN (
            SELECT * FROM (
              SELECT *, epoch_ms(greatest(event_timestamp, created)) AS known,
                max((event_timestamp, created)) OVER (
                  PARTITION BY user_key ORDER BY greatest(event_timestamp, created),
                    event_timestamp, created ROWS UNBOUNDED PRECEDING
                ) AS newest
              FROM read_parquet(${view.name})
            ) WHERE newest = (event_timestamp, created)
            QUALIFY row_number() OVER (
              PARTITION BY user_key, known ORDER BY event_timestamp DESC, created DESC
            ) = 1
          ) AS {view.name}
          ON asked.user_key = {view.name}.user_key AND asked_ms >= {view.name}.known
        """  # noqa: S608
    with (
        duckdb.connect(config=duckdb_config(loaded)) as connection,
        measured(memory_limit=MEMORY_LIMIT),
    ):
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute(
            f"""
            COPY (
              SELECT asked.user_key, asked.t_ms {columns}
              FROM (SELECT *, t_ms - 1 AS asked_ms FROM read_parquet($requests)) AS asked {joins}
            ) TO '{to}' (FORMAT parquet, COMPRESSION snappy, PER_THREAD_OUTPUT)
            """,  # noqa: S608
            {"requests": str(requests), **paths},
        )


def by_polars(loaded: Settings, requests: Path, to: Path) -> None:
    """Polars' `join_asof`, a view after the other."""
    to.mkdir(parents=True)
    paths = {view.name: files(loaded, view.table) for view in SERVICE.views}
    with measured():
        asked = pl.scan_parquet(requests).with_columns(at=pl.col("t_ms") - 1).sort("at")
        for view in SERVICE.views:
            known = pl.max_horizontal("event_timestamp", "created")
            version = pl.struct("event_timestamp", "created").rank("dense")
            held = (
                pl.scan_parquet(paths[view.name])
                .select(
                    "user_key",
                    known.dt.epoch("ms").alias("known"),
                    version.alias("version"),
                    pl.col("event_timestamp").dt.epoch("ms").alias("row_ms"),
                    *(pl.col(name).alias(f"{view.name}__{name}") for name in view.columns),
                )
                .sort("known", "version")
                .filter(pl.col("version") == pl.col("version").cum_max().over("user_key"))
            )
            names = [f"{view.name}__{name}" for name in view.columns]
            valid = pl.col("row_ms") >= pl.col("at") - (view.ttl_days or 0) * DAY_MS
            asked = (
                asked.join_asof(
                    held,
                    left_on="at",
                    right_on="known",
                    by="user_key",
                    check_sortedness=False,
                )
                .with_columns(pl.when(valid).then(pl.col(name)).alias(name) for name in names)
                .drop("version", "row_ms", "known", strict=False)
            )
        asked.drop("at").collect().write_parquet(to / "rows.parquet", compression="snappy")


if __name__ == "__main__":
    run(app)
