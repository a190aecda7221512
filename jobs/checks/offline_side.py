"""The offline side of parity: Feast's historical features at each user's moment."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd
import polars as pl

from jobs.batch.build import Days, build_all
from jobs.checks import known
from jobs.checks.known import time_of
from jobs.checks.online_side import Observation
from pagoda import lake
from pagoda.features import Service
from pagoda.schemas import ROBOTS
from pagoda.settings import Settings
from pagoda.store import open_store
from pagoda.windows import DAY_MS, WindowSpec, start_of_day

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

Rows = Mapping[str, Mapping[str, Any] | None]
Moment = tuple[int, int]  # user key, t in epoch milliseconds
_SEPARATOR = "__"  # of Feast's full feature names
# What Kafka took before midnight may land, and a batch begin, some minutes after it.
_LANDING_MS = 600_000


def build_days(
    session: SparkSession, settings: Settings, moments: Collection[Moment], service: Service
) -> None:
    """Bring the service's tables, for the moments' days, up to what has landed."""
    days = [time_of(t_ms).date() for _, t_ms in moments]
    build_all(session, settings, Days(first=min(days), last=max(days)), views=service.views)


def historical_rows(
    settings: Settings, moments: Collection[Moment], service: Service
) -> dict[Moment, Rows]:
    """Each moment to its rows of the service's views, strictly before and as known before it.

    Feast takes the active Spark session.
    """
    distinct = sorted(set(moments))
    frame = pd.DataFrame(
        {
            "user_key": [user for user, _ in distinct],
            "t_ms": [t_ms for _, t_ms in distinct],
            # Feast's join is inclusive; law 1 is not.
            "event_timestamp": [time_of(t_ms - 1) for _, t_ms in distinct],
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
    return {(row["user_key"], row["t_ms"]): _by_view(row, service) for row in joined.to_pylist()}


def _by_view(row: Mapping[str, Any], service: Service) -> Rows:
    return {
        view.name: {column: row[f"{view.name}{_SEPARATOR}{column}"] for column in view.columns}
        for view in service.views
    }


def sample_users(settings: Settings, *, users: int, days: int, now_ms: int) -> dict[int, str]:
    """Key to id of users to look at: half of them active in the stream, half others.

    The choice is by key, so it is the same each time while activity is.
    """
    active = known.active_users(settings, from_ms=now_ms - days * DAY_MS)
    streamed = _first(active.filter("streamed"), max(users // 2, 1))
    others = _first(active.filter(~pl.col("user_key").is_in(list(streamed))), users - len(streamed))
    return streamed | others


def _first(users: pl.LazyFrame, count: int) -> dict[int, str]:
    chosen = users.select("user_key", "user_id").bottom_k(count, by="user_key")
    return dict(chosen.collect(engine="streaming").sort("user_key").iter_rows())


def late_users(
    settings: Settings,
    seen: Sequence[Observation],
    spec: WindowSpec,
    *,
    click_actions: Collection[str],
) -> set[int]:
    """Users with a message so late that the stream refused it and the next batch must bring it.

    That is one older than the stream's days when it came, and that came after the day began
    whose `user_day` row is online.
    """
    rows_from = pl.DataFrame(
        [(each.user_key, each.day_from_ms or 0) for each in seen],
        schema={"user_key": pl.Int64, "from_ms": pl.Int64},
        orient="row",
    )
    first = min(start_of_day(each.t_ms) for each in seen)
    records = known.records(
        settings,
        rows_from["user_key"].to_list(),
        from_ms=first - (spec.recent_days + spec.long_term_days) * DAY_MS,
        actions={*click_actions, "buy", "collect"},
    )
    late = records.join(rows_from, on="user_key").filter(late_for("from_ms", spec))
    return set(late["user_key"].to_list())


def late_for(batch_from: str, spec: WindowSpec) -> pl.Expr:
    """Whether a record came too late for the stream, and for the batch row of that midnight.

    Args:
        batch_from: the column that holds when the online `user_day` row's day began.
    """
    kept_ms = spec.batch_delay_days * DAY_MS
    refused = pl.col("ts") < pl.col("ingested") // DAY_MS * DAY_MS - kept_ms
    return pl.col("streamed") & refused & (pl.col("ingested") >= pl.col(batch_from) - _LANDING_MS)


def robot_users(settings: Settings, seen: Sequence[Observation], spec: WindowSpec) -> set[int]:
    """Users with a day in the windows on which they were robots: features leave it out, the stream
    cannot know.
    """
    reach = spec.recent_days + spec.long_term_days
    first = time_of(min(each.t_ms for each in seen) - reach * DAY_MS).date()
    rows = (
        lake.open_table(settings, ROBOTS)
        .scan(f"day >= '{first.isoformat()}'", selected_fields=("user_key", "day"))
        .to_arrow()
    )
    return set(rows["user_key"].to_pylist()) & {each.user_key for each in seen}
