"""Features as data: views, their columns and owners, and the services that models name.

`feature_repo/` declares these to Feast, `jobs/batch` fills the tables, `jobs/stream` keeps
`user_intraday` current online, `training/` and `serving/` read them. Each view is one Iceberg
table with `event_timestamp` (from when the row may be used), `created` (the largest ingested_at
inside it, never the wall clock), `day` (its partition) and `definition` (what the row holds).

Candidates, not windows: rows hold supersets with times, `pagoda.windows.cut` cuts them at the
moment of the request.

To add a feature, see docs/add-a-feature.md. A service that was published never changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from pagoda.errors import InputError
from pagoda.owned import COLUMNS as OWNED_COLUMNS
from pagoda.owned import OwnedSpec
from pagoda.schemas import INT64S, TEXTS
from pagoda.sequences import EMPTY_ITEMS, EMPTY_QUERIES, Sequence, merge
from pagoda.statistics import Entity, Statistic
from pagoda.views import Service as Service
from pagoda.views import View as View
from pagoda.windows import LONG_TERM_ACTIONS, Candidates, WindowSpec

OWNER = "search@pagoda.local"

# What rows hold of a user's behaviour. Windows of models must fit into it; enlarging it means
# building the days again that such a model reads.
CANDIDATES = WindowSpec()
# What rows hold of what a user had before: a year, because people buy the same all year.
OWNED = OwnedSpec(days=365, most=500)


def _item_columns(prefix: str) -> dict[str, pa.DataType]:
    return {f"{prefix}_{part}": INT64S for part in ("ts", "events", "items")}


def _statistics_view(
    *, name: str, description: str, entity: Entity, statistics: Mapping[str, Statistic]
) -> View:
    return View(
        name=name,
        description=description,
        entity=entity,
        columns={column: statistic.type for column, statistic in statistics.items()},
        ttl_days=CANDIDATES.stream_days,
        statistics=statistics,
    )


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
    ttl_days=CANDIDATES.stream_days,
    candidates=CANDIDATES,
)

USER_INTRADAY = View(
    name="user_intraday",
    description="A user's clicks and queries of the day so far. Offline a row per event time "
    "with that UTC day's events up to it; online the stream keeps those of the last four days.",
    entity="user_key",
    columns={**_item_columns("click"), **_QUERY_COLUMNS},
    ttl_days=CANDIDATES.stream_days,
    online_writer="stream",
    candidates=CANDIDATES,
)

USER_ITEMS = View(
    name="user_items",
    description="The items that a user clicked or bought on the days before D: how often, and when "
    "last.",
    entity="user_key",
    columns=OWNED_COLUMNS,
    ttl_days=CANDIDATES.stream_days,
    owned=OWNED,
)

USER_STATS = _statistics_view(
    name="user_stats",
    description="Statistics of a user's behaviour over the days before D.",
    entity="user_key",
    statistics={
        "clicks_7d": Statistic(aggregation="count", of=("click",), days=7),
        "clicks_30d": Statistic(aggregation="count", of=("click",), days=30),
        "buys_30d": Statistic(aggregation="count", of=("buy",), days=30),
        "searches_30d": Statistic(aggregation="count", of=("search",), days=30),
        "distinct_items_30d": Statistic(aggregation="distinct_items", of=("click", "buy"), days=30),
        "active_days_30d": Statistic(
            aggregation="active_days", of=("click", "buy", "search"), days=30
        ),
        "mean_price_30d": Statistic(aggregation="mean_price", of=("click", "buy"), days=30),
    },
)

ITEM_STATS = _statistics_view(
    name="item_stats",
    description="Statistics of what users did with an item over the days before D.",
    entity="item_key",
    statistics={
        "clicks_7d": Statistic(aggregation="count", of=("click",), days=7),
        "clicks_30d": Statistic(aggregation="count", of=("click",), days=30),
        "buys_7d": Statistic(aggregation="count", of=("buy",), days=7),
        "buys_30d": Statistic(aggregation="count", of=("buy",), days=30),
        "users_30d": Statistic(aggregation="distinct_users", of=("click", "buy"), days=30),
    },
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

VIEWS = (USER_DAY, USER_INTRADAY, USER_ITEMS, USER_STATS, ITEM_STATS, ITEM_PROFILE)


_CLICKS = tuple(_item_columns("click"))
_QUERIES = tuple(_QUERY_COLUMNS)
_LONG_TERM = tuple(
    column for action in ("click", "buy", "collect") for column in _item_columns(f"long_{action}")
)

SEQUENCES_V1 = Service(
    name="sequences_v1",
    description="Behaviour sequences of a user at a moment: MGDSPR and every sequence model.",
    views=(
        USER_DAY.only(*_CLICKS, *_QUERIES, *_LONG_TERM),
        USER_INTRADAY.only(*_CLICKS, *_QUERIES),
    ),
)
SEQUENCES_STATS_V1 = Service(
    name="sequences_stats_v1",
    description="Sequences and user statistics: alpha-DNN.",
    views=(
        *SEQUENCES_V1.views,
        USER_STATS.only(
            "clicks_7d",
            "clicks_30d",
            "buys_30d",
            "searches_30d",
            "distinct_items_30d",
            "active_days_30d",
            "mean_price_30d",
        ),
    ),
)
SEQUENCES_OWNED_V1 = Service(
    name="sequences_owned_v1",
    description="Sequences and what the user had before: MGDSPR with purchase memory.",
    views=(*SEQUENCES_V1.views, USER_ITEMS.only(*OWNED_COLUMNS)),
)
ITEMS_V1 = Service(
    name="items_v1",
    description="Item profile and statistics, for rankers.",
    views=(
        ITEM_PROFILE.only(
            "item_id",
            "title",
            "brand",
            "leaf_category",
            "category",
            "first_category",
            "shop",
            "colour",
            "price",
            "in_stock",
        ),
        ITEM_STATS.only("clicks_7d", "clicks_30d", "buys_7d", "buys_30d", "users_30d"),
    ),
)
SERVICES = (SEQUENCES_V1, SEQUENCES_STATS_V1, SEQUENCES_OWNED_V1, ITEMS_V1)


def view(name: str) -> View:
    """The view of that name. Raises: InputError with the names there are."""
    for each in VIEWS:
        if each.name == name:
            return each
    raise InputError(f"no view {name!r}", expected=f"one of {', '.join(v.name for v in VIEWS)}")


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
        clicks=merge(items_in(row, "click"), limit=None),
        queries=merge(queries_in(row), limit=None),
        long_term={
            action: merge(items_in(row, f"long_{action}"), limit=None)
            for action in LONG_TERM_ACTIONS
        },
    )


def items_in(row: Mapping[str, Any], prefix: str) -> Sequence:
    """The sequence of items in these columns of a row, in the order in which they lie there."""
    ts = row.get(f"{prefix}_ts")
    if ts is None or len(ts) == 0:
        return EMPTY_ITEMS
    columns = (ts, row[f"{prefix}_events"], row[f"{prefix}_items"])
    ts, event, item = (np.asarray(column, np.int64) for column in columns)
    return Sequence(ts=ts, event=event, value=item)


def queries_in(row: Mapping[str, Any]) -> Sequence:
    """The sequence of queries in a row, in the order in which they lie there."""
    ts = row.get("query_ts")
    if ts is None or len(ts) == 0:
        return EMPTY_QUERIES
    ts, search = (np.asarray(column, np.int64) for column in (ts, row["query_events"]))
    return Sequence(ts=ts, event=search, value=np.array(row["query_texts"], object))
