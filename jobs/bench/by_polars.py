"""Histories of user-days by Polars: the history in memory, sorted; then slices, users in turn.

Says of every row what `jobs.batch.user_day` says, for events that were known when they happened:
so it writes no late versions, which production's job does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path

import polars as pl

from jobs.bench.inputs import robot_days
from pagoda import dataset, features
from pagoda.contest import files
from pagoda.schemas import EVENTS, SEARCHES
from pagoda.settings import Settings
from pagoda.watch import measured
from pagoda.windows import LONG_TERM_ACTIONS, WindowSpec

_KINDS = (*LONG_TERM_ACTIONS, "query")
_CHUNK_EVENTS = 250_000  # whole users: rows are many times what they are made of


def write(settings: Settings, days: list[date], to: Path) -> None:
    """Write the rows of these days as Parquet."""
    robots = robot_days(settings)
    events, searches = files(settings, EVENTS), files(settings, SEARCHES)
    clicks = dataset.load(settings).click_actions
    to.mkdir()
    with measured():
        history = _history(events, searches, clicks, robots)
        for number, users in enumerate(_by_users(history)):
            rows = _rows(users, days, features.CANDIDATES)
            rows.write_parquet(to / f"{number}.parquet", compression="snappy")


def _history(
    events: list[str], searches: list[str], clicks: Sequence[str], robots: pl.DataFrame
) -> pl.DataFrame:
    """Each event once as it was first known, without robots' days; by user, time and key."""
    action = pl.col("action")
    done = pl.scan_parquet(events).filter(action.is_in(["buy", "collect", *clicks]))
    asked = pl.scan_parquet(searches)
    both = pl.concat(
        [
            _once(done.rename({"event_key": "key", "item_key": "item"})).select(
                *_COMMON,
                "item",
                text=pl.lit(None, pl.String),
                is_click=action.is_in(list(clicks)),
                is_buy=action == "buy",
                is_collect=action == "collect",
                is_query=pl.lit(value=False),
            ),
            _once(asked.rename({"search_key": "key", "query": "text"})).select(
                *_COMMON,
                pl.lit(None, pl.Int64).alias("item"),
                "text",
                is_click=pl.lit(value=False),
                is_buy=pl.lit(value=False),
                is_collect=pl.lit(value=False),
                is_query=pl.lit(value=True),
            ),
        ]
    )
    kept = both.join(robots.lazy(), on=["user_key", "day"], how="anti")
    return kept.sort("user_key", "ts", "key").collect(engine="streaming")


_COMMON = (
    "user_key",
    "key",
    pl.col("ts").dt.date().alias("day"),
    pl.col("ts").dt.epoch("ms").alias("ts"),
    pl.col("ingested_at").dt.epoch("ms").alias("ingested"),
)


def _once(rows: pl.LazyFrame) -> pl.LazyFrame:
    first = pl.col("ingested_at") == pl.col("ingested_at").min().over("key", "ts")
    return rows.filter(first).unique(["key", "ts"])


def _by_users(history: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """The history in chunks of whole users."""
    starts = history["user_key"].rle().struct.field("len").cum_sum()
    begin = 0
    while begin < len(history):
        reached = starts.search_sorted(begin + _CHUNK_EVENTS)
        end = int(starts[min(int(reached), len(starts) - 1)])
        yield history[begin:end]
        begin = end


def _rows(history: pl.DataFrame, days: list[date], spec: WindowSpec) -> pl.DataFrame:
    ranges = _ranges(history, days, spec)
    rows = ranges
    for kind in _KINDS:
        lists = (
            history.lazy()
            .filter(pl.col(f"is_{kind}"))
            .group_by("user_key", maintain_order=True)
            .agg(
                pl.col("ts").alias(f"{kind}_ts"),
                pl.col("key").alias(f"{kind}_event"),
                pl.col("text" if kind == "query" else "item").alias(f"{kind}_value"),
                pl.col("ingested").alias(f"{kind}_ingested"),
            )
        )
        rows = rows.join(lists, on="user_key", how="left")
    # Only where somebody did more than a window holds within a day do pieces lie apart.
    apart = pl.any_horizontal(
        pl.col(f"{kind}_start_{n}") > pl.col(f"{kind}_stop_{n - 1}")
        for kind in LONG_TERM_ACTIONS
        for n in range(1, spec.stream_days)
    )
    return (
        pl.concat(
            [
                rows.filter(~apart).select(_columns(spec, together=True)),
                rows.filter(apart).select(_columns(spec, together=False)),
            ]
        )
        .filter(pl.col("created").is_not_null())
        .collect()
    )


def _ranges(history: pl.DataFrame, days: list[date], spec: WindowSpec) -> pl.LazyFrame:
    """Where a user-day's windows begin and end in a user's arrays."""
    counts = history.lazy().group_by("user_key", "day").agg(pl.col(f"is_{k}").sum() for k in _KINDS)
    spine = (
        history.lazy()
        .select(pl.col("user_key").unique())
        .join(pl.LazyFrame({"day": days}), how="cross")
    )
    before = (
        spine.join(counts, on=["user_key", "day"], how="left")
        .sort("user_key", "day")
        .with_columns(pl.col(f"is_{k}").fill_null(0).cast(pl.Int64) for k in _KINDS)
        .with_columns(
            (pl.col(f"is_{k}").cum_sum() - pl.col(f"is_{k}")).over("user_key").alias(k)
            for k in _KINDS
        )
    )

    def ago(kind: str, back: int) -> pl.Expr:
        return pl.col(kind).shift(back, fill_value=0).over("user_key")

    recent, long = spec.recent_days, spec.recent_days + spec.long_term_days
    bounds = [
        bound
        for kind, limit in (("click", spec.clicks), ("query", spec.queries))
        for bound in (
            pl.col(kind).alias(f"{kind}_stop"),
            pl.max_horizontal(ago(kind, recent), pl.col(kind) - limit).alias(f"{kind}_start"),
        )
    ]
    for kind in LONG_TERM_ACTIONS:
        for late in range(spec.stream_days):
            stop = ago(kind, recent - late)
            start = pl.max_horizontal(ago(kind, long - late), stop - spec.long_term)
            bounds += [stop.alias(f"{kind}_stop_{late}"), start.alias(f"{kind}_start_{late}")]
    return before.select("user_key", "day", *bounds)


def _columns(spec: WindowSpec, *, together: bool) -> list[pl.Expr]:
    def taken(name: str, start: pl.Expr, stop: pl.Expr) -> pl.Expr:
        kind = pl.String if name == "query_value" else pl.Int64
        held = pl.col(name).fill_null(pl.lit([], pl.List(kind)))
        return held.list.slice(start, pl.max_horizontal(stop - start, 0))

    def recent(kind: str, part: str) -> pl.Expr:
        return taken(f"{kind}_{part}", pl.col(f"{kind}_start"), pl.col(f"{kind}_stop"))

    def long_term(kind: str, part: str) -> pl.Expr:
        starts = [pl.col(f"{kind}_start_{n}") for n in range(spec.stream_days)]
        stops = [pl.col(f"{kind}_stop_{n}") for n in range(spec.stream_days)]
        if together:
            return taken(f"{kind}_{part}", starts[0], stops[-1])
        begins = [starts[0], *map(pl.max_horizontal, starts[1:], stops[:-1])]
        return pl.concat_list(map(taken, [f"{kind}_{part}"] * len(stops), begins, stops))

    newest = [recent("click", "ingested"), recent("query", "ingested")]
    newest += [long_term(kind, "ingested") for kind in LONG_TERM_ACTIONS]
    created = pl.max_horizontal(each.list.max() for each in newest)
    return [
        pl.col("user_key"),
        pl.col("day").cast(pl.Datetime("us", "UTC")).alias("event_timestamp"),
        pl.from_epoch(created, "ms").dt.replace_time_zone("UTC").alias("created"),
        pl.col("day"),
        *(recent("click", part).alias(f"click_{name}") for part, name in _parts("items")),
        *(recent("query", part).alias(f"query_{name}") for part, name in _parts("texts")),
        *(
            long_term(kind, part).alias(f"long_{kind}_{name}")
            for kind in LONG_TERM_ACTIONS
            for part, name in _parts("items")
        ),
    ]


def _parts(values: str) -> tuple[tuple[str, str], ...]:
    return ("ts", "ts"), ("event", "events"), ("value", values)
