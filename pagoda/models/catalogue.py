"""The item table of a bundle: every item's fields, and their numbers for the embedding tables.

An item's number is its row + 1; 0 stands for an item that the table does not know (it embeds to
zero), as it does for a missing brand, category or shop.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pagoda.models.ragged import Ragged
from pagoda.text import Tokenizer

FIELDS = pa.schema(
    [
        pa.field("item_key", pa.int64(), nullable=False),
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("title", pa.string()),
        pa.field("brand", pa.string()),
        pa.field("leaf_category", pa.string()),
        pa.field("category", pa.string()),
        pa.field("first_category", pa.string()),
        pa.field("shop", pa.string()),
        pa.field("colour", pa.string()),
        pa.field("price", pa.float64()),
        pa.field("in_stock", pa.bool_()),
    ]
)
# The attributes with an embedding table each, and the column they are read from.
ATTRIBUTES = {
    "leaf": "leaf_category",
    "first": "first_category",
    "brand": "brand",
    "shop": "shop",
}
SCHEMA = pa.schema(
    [
        *FIELDS,
        *(pa.field(f"{name}_number", pa.int32(), nullable=False) for name in ATTRIBUTES),
        pa.field("title_words", pa.list_(pa.field("element", pa.int32())), nullable=False),
    ]
)
MAX_TITLE_WORDS = 24


@dataclass(frozen=True, eq=False)
class Catalogue:
    """N items in ascending order of item_key; `table` has SCHEMA's columns.

    Attributes:
        tokenizer: the one that its titles were numbered with.
    """

    table: pa.Table
    tokenizer: Tokenizer

    @classmethod
    def build(cls, items: pa.Table, tokenizer: Tokenizer) -> Catalogue:
        """Number the attributes and title words of items that have FIELDS' columns.

        Attribute values are numbered from 1, the most frequent first.
        """
        values = {name: _by_frequency(items[column]) for name, column in ATTRIBUTES.items()}
        return cls(_described(items, values, tokenizer), tokenizer)

    def describe(self, items: pa.Table) -> Catalogue:
        """Other items, or these as they are now, in the numbers of this catalogue's values.

        A value that it does not know has number 0, as a missing one. The rows' own numbers are
        those of a catalogue of its own: what they are here, `numbers` says.
        """
        values = {name: self._values(name) for name in ATTRIBUTES}
        return Catalogue(_described(items, values, self.tokenizer), self.tokenizer)

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @cached_property
    def keys(self) -> npt.NDArray[np.int64]:
        """Item keys, ascending, [N]."""
        return np.asarray(self.table["item_key"].to_numpy(), np.int64)

    def numbers(self, keys: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
        """The number of each key, 0 where the table does not know it."""
        if not len(self):
            return np.zeros(len(keys), np.int32)
        at = np.minimum(self.keys.searchsorted(keys), len(self) - 1)
        return np.where(self.keys[at] == keys, at + 1, 0).astype(np.int32)

    def places_of(self, other: Catalogue) -> dict[str, npt.NDArray[np.int32]]:
        """Where the rows of another catalogue's embedding tables stand in this one's.

        By item key and attribute value, never by number. Returns: for "item" and each attribute
        the number here of every number there, [1 + values there]; 0 for what is not known here.
        """
        none = np.zeros(1, np.int32)
        known = {"item": self.numbers(other.keys)} | {
            name: _numbers(pa.chunked_array([other._values(name)]), self._values(name)).to_numpy()
            for name in ATTRIBUTES
        }
        return {name: np.concatenate([none, places]) for name, places in known.items()}

    @cached_property
    def attributes(self) -> dict[str, npt.NDArray[np.int32]]:
        """Each attribute's number by item number, [1 + N]."""
        return {
            name: np.concatenate(
                [np.zeros(1, np.int32), self.table[f"{name}_number"].to_numpy().astype(np.int32)]
            )
            for name in ATTRIBUTES
        }

    @cached_property
    def titles(self) -> Ragged:
        """Title words by item number, 1 + N rows."""
        words = self.table["title_words"].combine_chunks()
        lengths = np.diff(words.offsets.to_numpy())
        return Ragged.from_lengths(
            words.flatten().to_numpy(), np.concatenate([[0], lengths]).astype(np.int64)
        )

    @cached_property
    def title_trigrams(self) -> Ragged:
        """Letter trigrams of the titles by item number, 1 + N rows; cut at the first reading."""
        titles = ["", *(title or "" for title in self.table["title"].to_pylist())]
        return self.tokenizer.encode(titles).trigrams

    def _values(self, attribute: str) -> pa.Array:
        """The values of an attribute in the order of their numbers."""
        pairs = self.table.select([f"{attribute}_number", ATTRIBUTES[attribute]])
        known = pairs.group_by(pairs.column_names).aggregate([])
        known = known.filter(pc.greater(known[0], 0)).sort_by(known.column_names[0])
        return known[1].combine_chunks()


def _described(items: pa.Table, values: Mapping[str, pa.Array], tokenizer: Tokenizer) -> pa.Table:
    """Items that have FIELDS' columns as rows of SCHEMA; `values` of each attribute by number."""
    items = items.select(FIELDS.names).cast(FIELDS).sort_by("item_key").combine_chunks()
    columns = list(items.columns)
    columns += [_numbers(items[column], values[name]) for name, column in ATTRIBUTES.items()]
    titles = tokenizer.encode([title or "" for title in items["title"].to_pylist()]).words
    short = [titles[row][:MAX_TITLE_WORDS] for row in range(len(titles))]
    columns.append(pa.array(short, SCHEMA.field("title_words").type))
    return pa.Table.from_arrays(columns, schema=SCHEMA)


def _by_frequency(column: pa.ChunkedArray) -> pa.Array:
    counts = pc.value_counts(column.drop_null()).to_pylist()
    ordered = sorted(counts, key=lambda each: (-each["counts"], each["values"]))
    return pa.array([each["values"] for each in ordered], pa.string())


def _numbers(column: pa.ChunkedArray, values: pa.Array) -> pa.Array:
    number = pc.index_in(column, values)
    return pc.add(pc.fill_null(number, -1), 1).combine_chunks().cast(pa.int32())
