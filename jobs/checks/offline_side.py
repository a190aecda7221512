"""The offline side of parity: Feast's historical features at each user's moment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pandas as pd
import polars as pl

from jobs.batch.build import Days, build_all
from jobs.checks.online_side import Observation
from pagoda import lake
from pagoda.features import Service
from pagoda.schemas import EVENTS, ROBOTS, SEARCHES
from pagoda.settings import Settings
from pagoda.store import open_store
from pagoda.windows import DAY_MS, WindowSpec, start_of_day

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

Rows = Mapping[str, Mapping[str, Any] | None]
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SEPARATOR = "__"  # of Feast's full feature names


def build_today(
    session: SparkSession, settings: Settings, seen: Sequence[Observation], service: Service
) -> None:
    """Bring the service's tables, for the observed moments' days, up to what has landed."""
    days = [_time(each.t_ms).date() for each in seen]
    build_all(session, settings, Days(first=min(days), last=max(days)), views=service.views)


def historical_rows(
    settings: Settings, seen: Sequence[Observation], service: Service
) -> dict[int, Rows]:
    """User to its rows of the service's views, strictly before and as known before its moment.

    Feast takes the active Spark session.
    """
    frame = pd.DataFrame(
        {
            "user_key": [each.user_key for each in seen],
            # Feast's join is inclusive; law 1 is not.
            "event_timestamp": [_time(each.t_ms - 1) for each in seen],
        }
    )
    joined = (
        open_store(settings)
        .get_historical_features(
            frame,
            features=[f"{view.name}:{column}" for view in service.views for column in view.columns],
            full_feature_names=True,
            filter_by_created_timestamp=True,
        )
        .to_spark_df()
        .toArrow()
    )
    return {row["user_key"]: _by_view(row, service) for row in joined.to_pylist()}


def _by_view(row: Mapping[str, Any], service: Service) -> Rows:
    return {
        view.name: {column: row[f"{view.name}{_SEPARATOR}{column}"] for column in view.columns}
        for view in service.views
    }


def sample_users(settings: Settings, *, users: int, days: int, now_ms: int) -> dict[int, str]:
    """Key to id of users to look at: half of them active in the stream, half others.

    The choice is by key, so it is the same each time while activity is.
    """
    since = _time(now_ms - days * DAY_MS)
    frames = [
        pl.DataFrame(
            lake.open_table(settings, table)
            .scan(f"ts >= '{since.isoformat()}'", selected_fields=("user_key", "user_id", "source"))
            .to_arrow()
        )
        for table in (EVENTS, SEARCHES)
    ]
    active = (
        pl.concat(frames)
        .group_by("user_key")
        .agg(
            pl.first("user_id"), pl.col("source").str.starts_with("kafka:").any().alias("streamed")
        )
        .sort("user_key")
    )
    streamed = active.filter("streamed").head(max(users // 2, 1))
    others = active.join(streamed, on="user_key", how="anti").head(users - len(streamed))
    chosen = pl.concat([streamed, others])
    return dict(zip(chosen["user_key"].to_list(), chosen["user_id"].to_list(), strict=True))


def late_users(settings: Settings, seen: Sequence[Observation], spec: WindowSpec) -> set[int]:
    """Users with a message so late that the stream refused it and the next batch must bring it.

    That is one older than the stream's days when it came, and that came after the day began
    whose `user_day` row is online.
    """
    rows_from = {each.user_key: each.day_from_ms or 0 for each in seen}
    first = min(start_of_day(each.t_ms) for each in seen)
    reach = spec.recent_days + spec.long_term_days
    late: set[int] = set()
    for table, key in ((EVENTS, "event_key"), (SEARCHES, "search_key")):
        rows = (
            lake.open_table(settings, table)
            .scan(
                f"ts >= '{_time(first - reach * DAY_MS).isoformat()}'",
                selected_fields=("user_key", key, "ts", "ingested_at"),
            )
            .to_arrow()
        )
        known = (
            pl.DataFrame(rows)
            .filter(pl.col("user_key").is_in(list(rows_from)))
            .group_by("user_key", key, "ts")
            .agg(pl.min("ingested_at"))
            .with_columns(pl.col("ts", "ingested_at").dt.epoch("ms"))
        )
        for user, ts, ingested in known.select("user_key", "ts", "ingested_at").iter_rows():
            refused = ts < start_of_day(ingested) - spec.batch_delay_days * DAY_MS
            if refused and ingested >= rows_from[user]:
                late.add(user)
    return late


def robot_users(settings: Settings, seen: Sequence[Observation], spec: WindowSpec) -> set[int]:
    """Users with a day in the windows on which they were robots: features leave it out, the stream
    cannot know.
    """
    reach = spec.recent_days + spec.long_term_days
    first = _time(min(each.t_ms for each in seen) - reach * DAY_MS).date()
    rows = (
        lake.open_table(settings, ROBOTS)
        .scan(f"day >= '{first.isoformat()}'", selected_fields=("user_key", "day"))
        .to_arrow()
    )
    return set(rows["user_key"].to_pylist()) & {each.user_key for each in seen}


def _time(ms: int) -> datetime:
    return _EPOCH + timedelta(milliseconds=ms)
