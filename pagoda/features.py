"""Features as data: views, their columns and owners, and the services that models name.

`feature_repo/` declares these to Feast, `jobs/batch` fills the tables, `jobs/stream` keeps
`user_intraday` current online, `training/` and `serving/` read them. Each view is one Iceberg
table with `event_timestamp` (from when the row may be used), `created` (the largest ingested_at
inside it, never the wall clock) and `day` (its partition).

Candidates, not windows: rows hold supersets with times, `pagoda.windows.cut` cuts them at the
moment of the request.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from pagoda.schemas import INT64S, TEXTS, TS, Table
from pagoda.sequences import EMPTY_ITEMS, EMPTY_QUERIES, Sequence, items, queries
from pagoda.windows import LONG_TERM_ACTIONS, Candidates, WindowSpec

Entity = Literal["user_key", "item_key"]
OWNER = "search@pagoda.local"


@dataclass(frozen=True, kw_only=True)
class View:
    """One feature view and the table behind it.

    Attributes:
        entity: the int64 join key.
        columns: feature name to Arrow type, in order.
        ttl_days: how long a row stays valid; the online reader enforces it too. None: for ever.
        online_writer: who writes it to the online store; only one may.
    """

    name: str
    description: str
    entity: Entity
    columns: Mapping[str, pa.DataType]
    ttl_days: int | None
    online_writer: Literal["materialise", "stream"] = "materialise"

    @property
    def table(self) -> Table:
        """The Iceberg table of the view."""
        head: list[pa.Field[Any]] = [
            pa.field(self.entity, pa.int64(), nullable=False),
            pa.field("event_timestamp", TS, nullable=False),
            pa.field("created", TS, nullable=False),
            pa.field("day", pa.date32(), nullable=False),
        ]
        return Table(
            name=self.name,
            purpose=self.description,
            schema=pa.schema(head + [pa.field(name, kind) for name, kind in self.columns.items()]),
            partition_by_day="day",
        )


def _item_columns(prefix: str) -> dict[str, pa.DataType]:
    return {f"{prefix}_{part}": INT64S for part in ("ts", "events", "items")}


_QUERY_COLUMNS: dict[str, pa.DataType] = {
    "query_ts": INT64S,
    "query_events": INT64S,
    "query_texts": TEXTS,
}

USER_DAY = View(
    name="user_day",
    description="Per user and UTC day D: clicks and queries before D that a request of D or of "
    "the three days after may see, and the long-term click, buy and collect candidates of those "
    "days. A batch may be three days late without a trace.",
    entity="user_key",
    columns={
        **_item_columns("click"),
        **_QUERY_COLUMNS,
        **{
            name: kind
            for action in LONG_TERM_ACTIONS
            for name, kind in _item_columns(f"long_{action}").items()
        },
    },
    ttl_days=WindowSpec().stream_days,
)

USER_INTRADAY = View(
    name="user_intraday",
    description="A user's clicks and queries of the day so far. Offline a row per event time "
    "with that UTC day's events up to it; online the stream keeps those of the last four days.",
    entity="user_key",
    columns={**_item_columns("click"), **_QUERY_COLUMNS},
    ttl_days=WindowSpec().stream_days,
    online_writer="stream",
)

USER_STATS = View(
    name="user_stats",
    description="Counts of a user's behaviour over the days before D.",
    entity="user_key",
    columns={
        "clicks_7d": pa.int64(),
        "clicks_30d": pa.int64(),
        "buys_30d": pa.int64(),
        "searches_30d": pa.int64(),
        "distinct_items_30d": pa.int64(),
        "active_days_30d": pa.int64(),
        "mean_price_30d": pa.float64(),
    },
    ttl_days=WindowSpec().stream_days,
)

ITEM_STATS = View(
    name="item_stats",
    description="Counts of what users did with an item over the days before D.",
    entity="item_key",
    columns={
        "clicks_7d": pa.int64(),
        "clicks_30d": pa.int64(),
        "buys_7d": pa.int64(),
        "buys_30d": pa.int64(),
        "users_30d": pa.int64(),
    },
    ttl_days=WindowSpec().stream_days,
)

ITEM_PROFILE = View(
    name="item_profile",
    description="The catalogue row of an item.",
    entity="item_key",
    columns={
        "item_id": pa.string(),
        "title": pa.string(),
        "brand": pa.string(),
        "leaf_category": pa.string(),
        "category": pa.string(),
        "first_category": pa.string(),
        "shop": pa.string(),
        "colour": pa.string(),
        "price": pa.float64(),
        "in_stock": pa.bool_(),
    },
    ttl_days=None,
)

VIEWS = (USER_DAY, USER_INTRADAY, USER_STATS, ITEM_STATS, ITEM_PROFILE)


@dataclass(frozen=True, kw_only=True)
class Service:
    """What one model reads, under a name with a version: old models keep theirs."""

    name: str
    description: str
    views: tuple[View, ...]

    @property
    def schema_hash(self) -> str:
        """Changes whenever a view's entity, columns, types or TTL change."""
        described = [
            [view.name, view.entity, view.ttl_days]
            + [[name, str(kind)] for name, kind in view.columns.items()]
            for view in self.views
        ]
        return hashlib.blake2b(json.dumps(described).encode(), digest_size=8).hexdigest()


SEQUENCES_V1 = Service(
    name="sequences_v1",
    description="Behaviour sequences of a user at a moment: MGDSPR and every sequence model.",
    views=(USER_DAY, USER_INTRADAY),
)
SEQUENCES_STATS_V1 = Service(
    name="sequences_stats_v1",
    description="Sequences and user statistics: alpha-DNN.",
    views=(USER_DAY, USER_INTRADAY, USER_STATS),
)
ITEMS_V1 = Service(
    name="items_v1",
    description="Item profile and statistics, for rankers.",
    views=(ITEM_PROFILE, ITEM_STATS),
)
SERVICES = (SEQUENCES_V1, SEQUENCES_STATS_V1, ITEMS_V1)


def service(name: str) -> Service:
    """The service of that name. Raises: KeyError with the names there are."""
    for each in SERVICES:
        if each.name == name:
            return each
    raise KeyError(f"no feature service {name!r}; there are {[s.name for s in SERVICES]}")


def candidates_of(row: Mapping[str, Any]) -> Candidates:
    """The candidates in one view's row, a mapping of column name to list, array or None.

    Columns a view does not have are simply empty: `user_intraday` has no long-term ones.
    """
    return Candidates(
        clicks=_items_in(row, "click"),
        queries=_queries_in(row),
        long_term={action: _items_in(row, f"long_{action}") for action in LONG_TERM_ACTIONS},
    )


def _items_in(row: Mapping[str, Any], prefix: str) -> Sequence:
    ts = row.get(f"{prefix}_ts")
    if ts is None or len(ts) == 0:
        return EMPTY_ITEMS
    return items(
        np.asarray(ts, np.int64),
        np.asarray(row[f"{prefix}_events"], np.int64),
        np.asarray(row[f"{prefix}_items"], np.int64),
    )


def _queries_in(row: Mapping[str, Any]) -> Sequence:
    ts = row.get("query_ts")
    if ts is None or len(ts) == 0:
        return EMPTY_QUERIES
    return queries(
        np.asarray(ts, np.int64), np.asarray(row["query_events"], np.int64), row["query_texts"]
    )
