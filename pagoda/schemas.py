"""The lake's tables: columns, partitions, and what each is for.

Times are timestamptz truncated to milliseconds; arrays hold epoch milliseconds. `*_key` columns
are `pagoda.ids` hashes of the string beside them. `source` says where a row came from: the
import's name, or `kafka:<topic>:<partition>:<offset>`.
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

ACTIONS = ("impression", "click", "collect", "cart", "buy")

TS = pa.timestamp("us", tz="UTC")
INT64S = pa.list_(pa.field("element", pa.int64()))
TEXTS = pa.list_(pa.field("element", pa.string()))


@dataclass(frozen=True, kw_only=True)
class Table:
    """One Iceberg table of the namespace `pagoda`.

    Attributes:
        partition_by_day: the timestamp or date column whose UTC day partitions the table, and by
            which its rows grow old (`settings.retention`).
        personal: columns that say who somebody is or what they did. The lake's metadata keep no
            smallest and largest values of these: they would outlive the rows.
    """

    name: str
    purpose: str
    schema: pa.Schema
    partition_by_day: str | None = None
    personal: tuple[str, ...] = ()


def _schema(
    *required: tuple[str, pa.DataType], optional: tuple[tuple[str, pa.DataType], ...] = ()
) -> pa.Schema:
    return pa.schema(
        [pa.field(name, kind, nullable=False) for name, kind in required]
        + [pa.field(name, kind) for name, kind in optional]
    )


ITEMS = Table(
    name="items",
    purpose="The catalogue, one row an item.",
    schema=_schema(
        ("item_id", pa.string()),
        ("item_key", pa.int64()),
        ("updated_at", TS),
        ("source", pa.string()),
        optional=(
            ("title", pa.string()),
            ("brand", pa.string()),
            ("leaf_category", pa.string()),
            ("category", pa.string()),
            ("first_category", pa.string()),
            ("shop", pa.string()),
            ("colour", pa.string()),
            ("size", pa.string()),
            ("price", pa.float64()),
            ("in_stock", pa.bool_()),
            ("attributes", pa.map_(pa.string(), pa.string())),
        ),
    ),
)

EVENTS = Table(
    name="events",
    purpose="What users did. A resent event may stand twice: readers take each (event_id, ts) "
    "once, with its smallest ingested_at.",
    schema=_schema(
        ("event_id", pa.string()),
        ("event_key", pa.int64()),
        ("user_id", pa.string()),
        ("user_key", pa.int64()),
        ("item_id", pa.string()),
        ("item_key", pa.int64()),
        ("action", pa.string()),
        ("ts", TS),
        ("ingested_at", TS),
        ("source", pa.string()),
        optional=(("search_id", pa.string()), ("position", pa.int32()), ("shop", pa.string())),
    ),
    partition_by_day="ts",
    personal=("event_id", "event_key", "user_id", "user_key", "search_id"),
)

SEARCHES = Table(
    name="searches",
    purpose="What users asked. Duplicates as in events, by (search_id, ts).",
    schema=_schema(
        ("search_id", pa.string()),
        ("search_key", pa.int64()),
        ("user_id", pa.string()),
        ("user_key", pa.int64()),
        ("query", pa.string()),
        ("ts", TS),
        ("ingested_at", TS),
        ("source", pa.string()),
    ),
    partition_by_day="ts",
    personal=("search_id", "search_key", "user_id", "user_key", "query"),
)

IDS = Table(
    name="ids",
    purpose="Every key and the id it stands for; kind is user, item, event or search. "
    "Users and items only are kept: events and searches carry both forms themselves.",
    schema=_schema(("kind", pa.string()), ("id", pa.string()), ("key", pa.int64())),
    personal=("id", "key"),
)

REJECTED = Table(
    name="rejected",
    purpose="What could not be read, with the reason, the raw record and its place. taken_at is "
    "when Kafka took it, where that is known.",
    schema=_schema(
        ("source", pa.string()),
        ("place", pa.string()),
        ("reason", pa.string()),
        ("raw", pa.binary()),
        ("rejected_at", TS),
        optional=(("taken_at", TS),),
    ),
    partition_by_day="rejected_at",
    personal=("reason", "raw"),
)

RETRIED = Table(
    name="retried",
    purpose="Rejected records that were sent again: source and SHA-256 of the raw record. A topic "
    "that was made anew has the same places again, so the bytes count too.",
    schema=_schema(("source", pa.string()), ("sha256", pa.string()), ("retried_at", TS)),
)

SERVED = Table(
    name="served",
    purpose="Sampled requests with the feature rows as read, before the cut, as JSON.",
    schema=_schema(
        ("search_id", pa.string()),
        ("user_key", pa.int64()),
        ("t", TS),
        ("bundle", pa.string()),
        ("features", pa.string()),
    ),
    partition_by_day="t",
    personal=("search_id", "user_key", "features"),
)

INPUT_DAYS = Table(
    name="input_days",
    purpose="What features read of each UTC day's events and searches, as one number: equal rows, "
    "equal digest. `files` says for which data files it was taken: others need another look.",
    schema=_schema(("day", pa.date32()), ("files", pa.string()), ("digest", pa.int64())),
)

BUILT_DAYS = Table(
    name="built_days",
    purpose="What each day of a feature view was built from: the digests of the days it looks at, "
    "oldest first.",
    schema=_schema(("view", pa.string()), ("day", pa.date32()), ("inputs", INT64S)),
)

ROBOTS = Table(
    name="robots",
    purpose="Days of users (UTC) on which they did what no person does, a row for each rule that "
    "says so. Their events stay in the lake and out of features and training lines.",
    schema=_schema(
        ("user_key", pa.int64()),
        ("day", pa.date32()),
        ("rule", pa.string()),
        ("value", pa.float64()),
        ("limit", pa.float64()),
    ),
    partition_by_day="day",
    personal=("user_key",),
)

RAW_TABLES = (ITEMS, EVENTS, SEARCHES, IDS, REJECTED, RETRIED, SERVED, ROBOTS)
BUILD_RECORDS = (INPUT_DAYS, BUILT_DAYS)
