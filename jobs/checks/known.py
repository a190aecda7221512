"""What the lake knows of some users: each record that could stand in one of their windows.

    lake.events, lake.searches -> one frame, a row a record

A record that was sent twice counts once, from when it was first known.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime, timedelta

import polars as pl

from pagoda import lake
from pagoda.schemas import EVENTS, SEARCHES
from pagoda.settings import Settings

SEARCH = "search"  # beside the actions of events
TIMES = ("user_key", "key", "ts", "ingested", "streamed")
WHOLE = (*TIMES, "user_id", "id", "action", "what", "source")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def records(
    settings: Settings,
    users: Collection[int],
    *,
    from_ms: int,
    actions: Collection[str],
    columns: Collection[str] = TIMES,
) -> pl.DataFrame:
    """What these users searched since a moment, and their events of these actions.

    Columns, of which some are chosen: user_key, user_id; key and id of the event or search; ts and
    ingested, epoch milliseconds; streamed, whether it came through Kafka; source, from where
    exactly; action; what, the item's id or the query.
    """
    theirs = (pl.col("ts") >= time_of(from_ms)) & pl.col("user_key").is_in(list(users))
    events = (
        lake.scan(settings, EVENTS)
        .filter(theirs & pl.col("action").is_in(list(actions)))
        .with_columns(key="event_key", id="event_id", what="item_id")
    )
    searches = (
        lake.scan(settings, SEARCHES)
        .filter(theirs)
        .with_columns(key="search_key", id="search_id", what="query", action=pl.lit(SEARCH))
    )
    found = pl.concat([_told(events).select(*columns), _told(searches).select(*columns)])
    return (
        found.collect(engine="streaming")
        .sort("ingested")
        .unique(["user_key", "key", "ts"], keep="first", maintain_order=True)
    )


def active_users(settings: Settings, *, from_ms: int) -> pl.LazyFrame:
    """Users with a record since a moment: user_key, user_id, streamed (any of it)."""
    frames = [
        _told(lake.scan(settings, table).filter(pl.col("ts") >= time_of(from_ms)))
        for table in (EVENTS, SEARCHES)
    ]
    return (
        pl.concat([frame.select("user_key", "user_id", "streamed") for frame in frames])
        .group_by("user_key")
        .agg(pl.first("user_id"), pl.any("streamed"))
    )


def time_of(ms: int) -> datetime:
    """Epoch milliseconds as a time."""
    return _EPOCH + timedelta(milliseconds=ms)


def _told(table: pl.LazyFrame) -> pl.LazyFrame:
    return table.with_columns(
        pl.col("ts").dt.epoch("ms"),
        pl.col("ingested_at").dt.epoch("ms").alias("ingested"),
        pl.col("source").str.starts_with("kafka:").alias("streamed"),
    )
