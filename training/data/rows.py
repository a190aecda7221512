"""Feature rows of requests, from Feast's point-in-time join on Spark.

The entity frame has one row per distinct (user_key, t): the join carries whole arrays once an
entity row. Its event_timestamp is t - 1 ms, because Feast's join is inclusive and only events
strictly before t may be seen, and rows count only if they were known by then
(`filter_by_created_timestamp`).
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import nullcontext
from datetime import date
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.dataset as arrow_dataset

from pagoda import lake, spark, store
from pagoda.errors import InputError
from pagoda.features import Service, View
from pagoda.schemas import BUILT_DAYS
from pagoda.settings import Settings
from pagoda.windows import WindowSpec
from training.data.lines import Snapshots, Span

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

MOMENT = "t_ms"  # the request's own time again, epoch milliseconds
_ROWS_PER_BATCH = 2_000
_FILES = 4


def fetch(
    settings: Settings,
    service: Service,
    requests: pl.DataFrame,
    folder: Path,
    *,
    session: SparkSession | None = None,
) -> Path:
    """Write the feature rows of requests as Parquet into `folder`; those already there stay.

    Args:
        requests: distinct `user_key`, `t_ms`.
        session: a Spark session to use; without one a session is started for this and stopped.
    Raises: InputError if Feast returns another number of rows than it was asked for.
    """
    rows = folder / "rows"
    if (rows / "_SUCCESS").exists() and _count(rows) == len(requests):
        return rows
    shutil.rmtree(rows, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    entities = folder / "requests.parquet"
    requests.select(
        "user_key",
        event_timestamp=pl.from_epoch(pl.col("t_ms") - 1, "ms").dt.replace_time_zone("UTC"),
    ).write_parquet(entities)
    with nullcontext(session) if session else spark.session(settings, "training rows") as used:
        _join(settings, service, used, entities, rows)
    found = _count(rows)
    if found != len(requests):
        raise InputError(
            "Feast returned another number of rows than it was asked for",
            where=service.name,
            expected=f"{len(requests)} rows, one a request",
            found=f"{found}",
            next_step="Look for duplicate (user, event_timestamp, created) rows in its tables.",
        )
    return rows


def read(rows: Path, lines: pl.DataFrame) -> Iterator[pa.RecordBatch]:
    """The rows of these lines' requests, in batches."""
    at, between = arrow_dataset.field(MOMENT), (lines[MOMENT].min(), lines[MOMENT].max())
    batches = arrow_dataset.dataset(rows).to_batches(
        filter=(at >= between[0]) & (at <= between[1]),
        batch_size=_ROWS_PER_BATCH,
        batch_readahead=1,
        fragment_readahead=1,
    )
    wanted = set(lines.select("user_key", MOMENT).iter_rows())
    for batch in batches:
        keys = zip(batch["user_key"].to_pylist(), batch[MOMENT].to_pylist(), strict=True)
        yield batch.filter(pa.array([key in wanted for key in keys], pa.bool_()))


def content(
    settings: Settings,
    service: Service,
    span: Span,
    windows: WindowSpec,
    at: Snapshots = MappingProxyType({}),
) -> str:
    """A digest of which feature rows there are for these days.

    A row's `created` is the largest ingested_at inside it, so whatever changes a row changes this,
    and building the same day again does not.

    Raises: InputError as `require_built` does.
    """
    require_built(settings, service, span, windows)
    digest = hashlib.blake2b(digest_size=16)
    for view in service.views:
        columns = (view.entity, "event_timestamp", "created")
        keys = pl.concat(_scan(settings, view, span, *columns, at=at))
        for column in keys.sort(pl.all()):
            digest.update(np.ascontiguousarray(column.to_physical().to_numpy()).tobytes())
    return digest.hexdigest()


def require_built(settings: Settings, service: Service, span: Span, windows: WindowSpec) -> None:
    """Every day's rows hold what the service names and the windows need.

    Raises: InputError naming, for every view, days that were not built, and days that were built
    before a column or a longer window came.
    """
    problems = []
    for view in service.views:
        built = _scan(settings, view, span, "day", "definition")
        days = pl.concat([each.unique() for each in built]).unique()
        lacking: dict[str, list[date]] = {}
        for day, definition in days.sort("day").iter_rows():
            for problem in view.lacking(definition, windows):
                lacking.setdefault(problem, []).append(day)
        problems += [
            f"{view.name}: rows of {len(set(found))} days, {found[0]} to {found[-1]}, were built "
            f"for other features: {problem}"
            for problem, found in lacking.items()
        ]
        # The stream's view has rows only of days on which something happened.
        if view.online_writer == "materialise":
            known = {*days["day"].to_list(), *_built_of_nothing(settings, view)}
            missing = sorted(set(span.dates) - known)
            if missing:
                problems.append(
                    f"{view.name}: features of {len(missing)} days were not built, "
                    f"{missing[0]} to {missing[-1]}"
                )
    if problems:
        raise InputError(
            "feature rows lack what the model reads",
            where=service.name,
            problems=problems,
            next_step=f"Run `pagoda features build --from {span.first} --to {span.last}`.",
        )


def _built_of_nothing(settings: Settings, view: View) -> list[date]:
    """Days that were built and have no rows because nothing came before them."""
    scan = lake.open_table(settings, BUILT_DAYS).scan(row_filter=f"view == '{view.name}'")
    return [row["day"] for row in scan.to_arrow().to_pylist() if not any(row["inputs"])]


def _scan(
    settings: Settings,
    view: View,
    span: Span,
    *columns: str,
    at: Snapshots = MappingProxyType({}),
) -> Iterator[pl.DataFrame]:
    """Some columns of these days' rows, batch by batch; at least one, perhaps empty."""
    scan = lake.open_table(settings, view.table).scan(
        row_filter=f"day >= '{span.first}' and day < '{span.end}'",
        selected_fields=columns,
        snapshot_id=at.get(view.name),
    )
    reader = scan.to_arrow_batch_reader()
    yield pl.DataFrame(reader.schema.empty_table())
    yield from map(pl.DataFrame, reader)


def _join(
    settings: Settings, service: Service, session: SparkSession, entities: Path, rows: Path
) -> None:
    from pyspark.sql import functions

    feature_store = store.open_store(settings)
    job = feature_store.get_historical_features(
        entity_df=session.read.parquet(entities.as_uri()),
        features=feature_store.get_feature_service(service.name),
        full_feature_names=True,
        filter_by_created_timestamp=True,
    )
    joined: DataFrame = job.to_spark_df()
    moment = functions.unix_millis("event_timestamp") + functions.lit(1)
    # In an order of their own, however the join ran: the same rows give the same batches.
    ordered = (
        joined.withColumn(MOMENT, moment)
        .drop("event_timestamp")
        .repartition(_FILES, "user_key")
        .sortWithinPartitions(MOMENT, "user_key")
    )
    ordered.write.parquet(rows.as_uri())


def _count(rows: Path) -> int:
    return int(arrow_dataset.dataset(rows).count_rows())
