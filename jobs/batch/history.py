"""A user's history: the lake's events and searches, each once, as sorted arrays.

    lake.events, lake.searches -> read() -> DataFrame, one row an event -> History of one user,
                                                                        or Histories of some

`read` takes each (event, ts) once with its smallest ingested_at, so a resent event is known from
the first time on, and leaves out the user-days that are robots'. `History` is what the per-user
builders work on, in numpy.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as sf

from pagoda import lake, schemas
from pagoda.features import VIEWS
from pagoda.sequences import Int64s
from pagoda.settings import Settings
from pagoda.statistics import Kind
from pagoda.windows import DAY_MS

# Bits of `role`: one event can be several things.
CLICK, BUY, COLLECT, QUERY, CART, IMPRESSION = 1, 2, 4, 8, 16, 32
ROLES: Mapping[Kind, int] = {
    "click": CLICK,
    "buy": BUY,
    "collect": COLLECT,
    "search": QUERY,
    "cart": CART,
    "impression": IMPRESSION,
}
LONG_TERM_ROLES: Mapping[Kind, int] = {"click": CLICK, "buy": BUY, "collect": COLLECT}

_EPOCH = date(1970, 1, 1)
USER_MS = 2**43  # of the time line for each user: until the year 2248

COLUMNS = ("user_key", "role", "ts", "ingested", "key", "item_key", "query", "price")


def read(
    spark: SparkSession,
    settings: Settings,
    *,
    click_actions: Sequence[str],
    first: date,
    last: date,
    user_key: int | None = None,
) -> DataFrame:
    """Every event and search of the UTC days `first` to `last` that features are made of.

    `jobs.batch.robots` must have judged these days.

    Args:
        user_key: only this user's.

    Columns: user_key; role, the bits above; ts and ingested, epoch milliseconds; key of the event
    or search; item_key, null for a search; query, null for an event; price, today's catalogue
    price of the item.
    """
    events = _once(
        days(spark.table(lake.spark_name(settings, schemas.EVENTS)), first, last, user_key)
        .withColumn("role", _role(click_actions))
        .where("role > 0"),
        key="event_key",
        values=("user_key", "role", "item_key"),
    )
    prices = spark.table(lake.spark_name(settings, schemas.ITEMS)).select("item_key", "price")
    searches = _once(
        days(
            spark.table(lake.spark_name(settings, schemas.SEARCHES)), first, last, user_key
        ).withColumn("role", sf.lit(QUERY)),
        key="search_key",
        values=("user_key", "role", "query"),
    )
    robots = spark.table(lake.spark_name(settings, schemas.ROBOTS)).select("user_key", "day")
    return (
        events.join(prices, "item_key", "left")
        .unionByName(searches, allowMissingColumns=True)
        .withColumn("day", sf.to_date("ts"))
        .join(robots, ["user_key", "day"], "left_anti")
        .select(
            "user_key",
            sf.col("role").cast("tinyint").alias("role"),
            sf.unix_millis("ts").alias("ts"),
            sf.unix_millis("ingested_at").alias("ingested"),
            "key",
            "item_key",
            "query",
            "price",
        )
    )


def part(events: DataFrame, first: date, last: date) -> DataFrame:
    """Those of `read`'s events that happened on the UTC days `first` to `last`."""
    end = last + timedelta(days=1)
    return events.where(sf.col("ts").between(midnight_ms(first), midnight_ms(end) - 1))


def days(table: DataFrame, first: date, last: date, user_key: int | None = None) -> DataFrame:
    """The rows of the UTC days `first` to `last` by their `ts`, of all users or of one."""
    end = last + timedelta(days=1)
    rows = table.where((sf.col("ts") >= _midnight(first)) & (sf.col("ts") < _midnight(end)))
    return rows if user_key is None else rows.where(sf.col("user_key") == user_key)


def midnight_ms(day: date) -> int:
    """Where a UTC day begins, epoch milliseconds."""
    return (day - _EPOCH).days * DAY_MS


def _midnight(day: date) -> Column:
    return sf.lit(day.isoformat()).cast("timestamp")


def role_of(kinds: Iterable[Kind]) -> int:
    """The bits of some kinds of events."""
    return sum(ROLES[kind] for kind in set(kinds))


def _role(click_actions: Sequence[str]) -> Column:
    """The bits that some feature is made of: events that have none of them are not read."""
    counted = {kind for view in VIEWS for kind in view.kinds}
    role = sf.when(sf.col("action").isin(*click_actions), CLICK).otherwise(0)
    for action in sorted({*LONG_TERM_ROLES, *counted} - {"click", "search"}):
        role += sf.when(sf.col("action") == action, ROLES[action]).otherwise(0)
    return role


def _once(table: DataFrame, *, key: str, values: Sequence[str]) -> DataFrame:
    """Each (key, ts) once, as it was first known."""
    first_known = sf.min(sf.struct("ingested_at", *values)).alias("first_known")
    return (
        table.groupBy(sf.col(key).alias("key"), "ts")
        .agg(first_known)
        .select("key", "ts", "first_known.*")
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class History:
    """One user's events, oldest first, as parallel arrays of one length N.

    Attributes:
        ts, ingested: epoch milliseconds, int64 [N]; ordered by (ts, key).
        line: where an event lies on the time line, ascending int64 [N]; ts, unless the lines of
            several users are laid end to end (`Histories`).
        role: which sequences an event belongs to, bits, int8 [N].
        item: item keys, int64 [N]; 0 for searches.
        query: texts, Arrow strings [N]; null for other events.
        price: float64 [N]; NaN where the item has none.
    """

    line: Int64s
    ts: Int64s
    ingested: Int64s
    key: Int64s
    role: npt.NDArray[np.int8]
    item: Int64s
    query: pa.Array
    price: npt.NDArray[np.float64]

    @staticmethod
    def of(batches: Iterable[pa.RecordBatch]) -> tuple[int, History]:
        """A user's key and history from the rows of `read`, in any order."""
        users = Histories.of(pa.Table.from_batches(list(batches)))
        return int(users.keys[0]), users.history

    def __len__(self) -> int:
        return len(self.ts)

    def where(self, mask_or_slice: npt.NDArray[np.bool_] | slice) -> History:
        """The events that a boolean mask [N] or a slice selects."""
        rows = mask_or_slice
        return History(
            line=self.line[rows],
            ts=self.ts[rows],
            ingested=self.ingested[rows],
            key=self.key[rows],
            role=self.role[rows],
            item=self.item[rows],
            query=self.query[rows] if isinstance(rows, slice) else self.query.filter(rows),
            price=self.price[rows],
        )

    def positions(self, role: int) -> Int64s:
        """Where the events of a role stand."""
        return np.flatnonzero(self.role & role)

    def known_by(self, moment_ms: int) -> History:
        """What was known at a moment: the events ingested at or before it."""
        return self.where(self.ingested <= moment_ms)


@dataclass(frozen=True, kw_only=True, eq=False)
class Histories:
    """Some users' histories, their time lines laid end to end, so that all are searched at once.

    Attributes:
        keys: of the users, ascending, int64 [U].
        starts: where each one's events begin, and N, int64 [U + 1].
        history: all their events, by user, then as one user's.
    """

    keys: Int64s
    starts: Int64s
    history: History

    @staticmethod
    def of(rows: pa.Table) -> Histories:
        """The histories in rows of `read`, in any order, of at most 2^19 users."""
        table = rows.combine_chunks()
        user, ts, key = (table[name].to_numpy() for name in ("user_key", "ts", "key"))
        order = np.lexsort((key, ts, user))
        keys, starts = np.unique(user[order], return_index=True)
        starts = np.append(starts, len(user))
        number = np.repeat(np.arange(len(keys)), np.diff(starts))
        history = History(
            line=number * USER_MS + ts[order],
            ts=ts[order],
            ingested=table["ingested"].to_numpy()[order],
            key=key[order],
            role=table["role"].to_numpy()[order],
            item=table["item_key"].fill_null(0).to_numpy()[order],
            query=table["query"].combine_chunks().take(pa.array(order)),
            price=table["price"].to_numpy()[order],  # null becomes NaN
        )
        return Histories(keys=keys, starts=starts, history=history)

    def __len__(self) -> int:
        return len(self.keys)

    def of_user(self, number: int) -> History:
        """The history of one user, on its own time line."""
        events = self.history.where(slice(int(self.starts[number]), int(self.starts[number + 1])))
        return replace(events, line=events.ts)

    def any_of(self, mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """For each user whether an event of theirs is in a mask over all events."""
        return np.logical_or.reduceat(mask, self.starts[:-1])
