"""The shop's shelves: the lake's catalogue as arrays, and the words shoppers would type for it.

    lake.items -> Catalogue

A shelf is a leaf category. On it items stand by popularity, in an order that their keys give:
nobody knows the true one of a catalogue. Shape legend: N items, H shelves.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from jobs.imports.queries import STOP_WORDS
from jobs.simulate.draws import Floats, Ints
from pagoda import lake
from pagoda.errors import NothingToDo
from pagoda.schemas import ITEMS
from pagoda.settings import Settings

NO_BRAND = -1
_TITLE_WORDS = 3
_MOST_CHARS = 200  # of a query: nobody types more
_COLUMNS = (
    "item_id",
    "title",
    "brand",
    "leaf_category",
    "category",
    "first_category",
    "shop",
    "price",
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Catalogue:
    """Items that can be shown, by shelf and popularity.

    Attributes:
        table: their rows as the lake has them, in this order, columns of `schemas.ITEMS`.
        shelf: of each item, int64 [N]; brand: the same, NO_BRAND where there is none.
        price_level: where the price lies among its shelf's, 0 to 1, NaN without a price, [N].
        shelf_start: the first item of each shelf, and N, int64 [H + 1].
        queries: texts; those of shelf h stand from `query_start[h]` to `query_start[h + 1]`, then
            a title's for each item, from `titles` on, then brand and shelf for each item.
        digest: of everything that shapes the events.
    """

    table: pa.Table
    shelf: Ints
    brand: Ints
    price_level: Floats
    shelf_start: Ints
    queries: pa.StringArray
    query_start: Ints
    digest: str

    @property
    def titles(self) -> int:
        """Where the items' title queries begin."""
        return int(self.query_start[-1])

    @property
    def branded(self) -> int:
        """Where the items' queries by brand and shelf begin."""
        return self.titles + len(self.shelf)

    def on_shelf(self, shelf: npt.NDArray[np.integer], chance: Floats) -> Ints:
        """An item of each shelf; popular ones come more often: the first tenth gets a third."""
        start = self.shelf_start[shelf]
        size = self.shelf_start[shelf + 1] - start
        found: Ints = start + (size * chance * chance).astype(np.int64)
        return found


def read(settings: Settings) -> Catalogue:
    """The lake's catalogue. Raises: NothingToDo if nothing can be shown."""
    return of_rows(lake.open_table(settings, ITEMS).scan().to_arrow())


def of_rows(rows: pa.Table) -> Catalogue:
    """A catalogue of rows with the columns of `schemas.ITEMS`; items out of stock are left out.

    Raises: NothingToDo if no item is left.
    """
    frame = (
        pl.DataFrame(rows.select([*_COLUMNS, "item_key", "in_stock"]))
        .with_row_index("row")
        .with_columns(
            shelf_name=pl.coalesce("leaf_category", "category", "first_category", pl.lit(""))
        )
        .filter(pl.col("in_stock").fill_null(value=True))
        .sort("shelf_name", "item_key")
    )
    if frame.is_empty():
        raise NothingToDo(
            "the catalogue holds nothing to show",
            found=f"{rows.num_rows} items, none in stock",
            next_step="Import one: `pagoda import completejourney`, or `pagoda import files`.",
        )
    rank = (pl.col("price").rank("average") - 0.5) / pl.col("price").count()
    coded = frame.select(
        shelf=pl.col("shelf_name").rle_id().cast(pl.Int64),
        brand=pl.col("brand").rank("dense").cast(pl.Int64).fill_null(NO_BRAND),
        price_level=rank.over("shelf_name").fill_null(float("nan")),
    )
    shelf = coded["shelf"].to_numpy()
    shelf_start = np.searchsorted(shelf, np.arange(shelf[-1] + 2)).astype(np.int64)
    queries, query_start = _queries(frame, shelf_start)
    return Catalogue(
        table=rows.take(frame["row"].to_arrow()),
        shelf=shelf,
        brand=coded["brand"].to_numpy(),
        price_level=coded["price_level"].to_numpy(),
        shelf_start=shelf_start,
        queries=queries,
        query_start=query_start,
        digest=hashlib.sha256(frame.select(_COLUMNS).write_csv().encode()).hexdigest(),
    )


def _queries(frame: pl.DataFrame, shelf_start: Ints) -> tuple[pa.StringArray, Ints]:
    """What shoppers type, as `Catalogue.queries` and `Catalogue.query_start`."""
    rows = frame.select(_COLUMNS).rows(named=True)
    shelves = [list(dict.fromkeys(_of_shelf(rows[start]))) for start in shelf_start[:-1]]
    lengths = [len(each) for each in shelves]
    texts = [text for each in shelves for text in each]
    texts += [_of_title(row) for row in rows]
    texts += [_of_brand(row) for row in rows]
    return pa.array(texts, pa.string()), np.concatenate([[0], np.cumsum(lengths)])


def _of_shelf(row: dict[str, str | None]) -> Iterator[str]:
    """The leaf category, with the one above it, and its words one by one."""
    leaf = row["leaf_category"] or row["category"] or row["first_category"]
    if not leaf or not _words(leaf):
        yield _of_title(row)
        return
    words = _words(leaf)
    yield _text(words)
    yield _text(dict.fromkeys([*_words(row["category"] or leaf), *words]))
    yield from (word[:_MOST_CHARS] for word in words if _telling(word))


def _of_title(row: dict[str, str | None]) -> str:
    words = _words(row["title"] or row["leaf_category"] or "")
    return _text(words[:_TITLE_WORDS]) or str(row["item_id"])


def _of_brand(row: dict[str, str | None]) -> str:
    """Brand and shelf; a brand that is a mere number nobody types."""
    brand, leaf = _words(row["brand"] or ""), _words(row["leaf_category"] or "")
    return _text([*brand, *leaf]) if any(map(_telling, brand)) else _text(leaf) or _of_title(row)


def _words(text: str) -> list[str]:
    """Lower-case words in order, each once, without stop words (unless nothing else is left)."""
    words = list(dict.fromkeys(re.findall(r"\w+", text.lower())))
    return [word for word in words if word not in STOP_WORDS] or words


def _text(words: Iterable[str]) -> str:
    return " ".join(words)[:_MOST_CHARS].strip()


def _telling(word: str) -> bool:
    return len(word) > 2 and not word.isdigit()
