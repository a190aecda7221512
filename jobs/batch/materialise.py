"""Write the newest valid feature rows to the online store, with Feast's Spark engine.

    user_day, user_items, user_stats, item_stats, item_profile -> online store

Valid at a moment are rows no younger than it and no older than their view's TTL; the newest
version of the newest row of each entity is written, and rows of entities that have none are taken
out. `user_intraday` is the stream's alone. A rerun writes the same values again.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Collection
from contextlib import redirect_stdout
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as sf
from redis import Redis
from redis.exceptions import RedisError

from jobs.batch.withdraw import withdraw
from pagoda import faults, features, lake, settings, spark, store
from pagoda.console import emit_table, people, run
from pagoda.errors import DependencyDown, NothingToDo
from pagoda.features import View
from pagoda.sequences import Int64s
from pagoda.settings import Settings

if TYPE_CHECKING:
    from feast import FeatureStore

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

app = typer.Typer(add_completion=False, help="Write the newest feature rows to the online store.")


@app.command()
def main(
    only: Annotated[
        list[str] | None, typer.Option("--view", help="Only this view; repeatable.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Write the newest valid rows of every view but the stream's to the online store."""
    loaded = settings.load()
    views = [features.view(name) for name in only] if only else features.VIEWS
    with spark.session(loaded, "materialise") as session:
        summary = materialise(session, loaded, at=datetime.now(UTC), views=views)
    emit_table(summary, title="Written to the online store", as_json=as_json)


def materialise(
    session: SparkSession,
    loaded: Settings,
    *,
    at: datetime,
    views: Collection[View] = features.VIEWS,
) -> list[dict[str, Any]]:
    """Write what is valid at a moment. Returns: a summary row for each view.

    Args:
        views: only these; the stream's is left out in any case.

    Raises:
        NothingToDo: a view has no valid row; the others have been written.
        DependencyDown: the online store does not answer.
    """
    _require_redis(loaded)
    with store.registry_lock(loaded):
        feature_store = store.open_store(loaded)
        summary = [
            _materialise(session, loaded, feature_store, view, at)
            for view in views
            if view.online_writer == "materialise"
        ]
    empty = [row["view"] for row in summary if not row["entities"]]
    if empty:
        raise NothingToDo(
            f"no rows of {', '.join(empty)} are valid at {at:%Y-%m-%d %H:%M} UTC",
            where="lake",
            next_step="Build the features of this day: `pagoda features build`.",
        )
    return summary


def _materialise(
    session: SparkSession, loaded: Settings, feature_store: FeatureStore, view: View, at: datetime
) -> dict[str, Any]:
    began = time.monotonic()
    since = at - timedelta(days=view.ttl_days) if view.ttl_days else _EPOCH
    valid = session.table(lake.spark_name(loaded, view.table)).where(
        sf.col("event_timestamp").between(sf.lit(since), sf.lit(at))
    )
    entities = _entities(valid, view)
    withdrawn = 0
    if len(entities):
        people.print(f"{view.name}: {len(entities)} entities")
        with redirect_stdout(sys.stderr):  # Feast prints; stdout is for data
            try:
                feature_store.materialize(since, at, feature_views=[view.name])
            except Exception:
                _require_redis(loaded)  # it was the workers that could not write
                raise
        withdrawn = withdraw(loaded, view, entities)
    faults.point(f"materialise.{view.name}")
    return {
        "view": view.name,
        "entities": len(entities),
        "withdrawn": withdrawn,
        "seconds": round(time.monotonic() - began, 1),
    }


def _entities(valid: DataFrame, view: View) -> Int64s:
    """Who has a valid row, sorted; 8 bytes each."""
    distinct = valid.select(view.entity).distinct().toArrow()
    return np.sort(distinct[view.entity].to_numpy())


def _require_redis(loaded: Settings) -> None:
    try:
        with Redis(
            host=loaded.redis.host, port=loaded.redis.port, password=loaded.redis_password()
        ) as redis:
            redis.ping()
    except RedisError as error:
        raise DependencyDown("redis", str(error)) from error


if __name__ == "__main__":
    run(app)
