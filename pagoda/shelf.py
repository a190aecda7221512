"""Items as a search asks of them: fields of hits, and which rows pass a filter.

Text columns are held as numbers of their distinct values, so that a mask over a hundred thousand
items costs some 50 µs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pagoda.filters import TEXT_FIELDS, Clause, Filters

Mask = npt.NDArray[np.bool_]
Rows = npt.NDArray[np.int64]
SHOWN = ("item_id", "title", *TEXT_FIELDS, "price", "in_stock")


class Shelf:
    """N items in ascending order of item_key."""

    def __init__(self, items: pa.Table) -> None:
        self._keys_N = np.asarray(items["item_key"].to_numpy(), np.int64)
        self._shown = items.select(SHOWN).combine_chunks()
        self._codes_N: dict[str, npt.NDArray[np.int32]] = {}
        self._code_of: dict[str, dict[str, int]] = {}
        for name in TEXT_FIELDS:
            encoded = items[name].combine_chunks().dictionary_encode()
            self._codes_N[name] = encoded.indices.fill_null(-1).to_numpy().astype(np.int32)
            self._code_of[name] = {
                value: code for code, value in enumerate(encoded.dictionary.to_pylist())
            }
        self._prices_N = items["price"].to_numpy().astype(np.float64)  # NaN where there is none
        self._in_stock_N = items["in_stock"].fill_null(True).to_numpy().astype(np.bool_)

    def __len__(self) -> int:
        return len(self._keys_N)

    def values(self, field: str) -> list[str]:
        """The distinct values of a text field."""
        return [value for value in self._code_of[field] if value]

    def rows(self, keys: Rows) -> Rows:
        """The row of each item key, -1 where the table lacks it."""
        if not len(self):
            return np.full(len(keys), -1)
        at = np.minimum(self._keys_N.searchsorted(keys), len(self) - 1)
        return np.where(self._keys_N[at] == keys, at, -1)

    def known(self, keys: Rows) -> dict[int, dict[str, Any]]:
        """The shown fields of those keys that the table knows."""
        rows = self.rows(keys)
        found = rows >= 0
        return dict(zip(keys[found].tolist(), self.show(rows[found]), strict=True))

    def show(self, rows: Rows) -> list[dict[str, Any]]:
        """The shown fields of rows, in their order."""
        shown: list[dict[str, Any]] = self._shown.take(pa.array(rows)).to_pylist()
        return shown

    def passing(self, filters: Filters) -> Mask:
        """The items that satisfy filters, bool [N]: what `pagoda.filters.expression` says."""
        mask = np.ones(len(self), bool)
        for field, values in filters.texts().items():
            mask &= self._any_of(field, values)
        if filters.price and filters.price.min is not None:
            mask &= self._prices_N >= filters.price.min
        if filters.price and filters.price.max is not None:
            mask &= self._prices_N <= filters.price.max
        if filters.in_stock is not None:
            mask &= self._in_stock_N == filters.in_stock
        return mask

    def satisfying(self, clause: Clause) -> Mask:
        """The items that satisfy any part of a clause, bool [N]."""
        mask = np.zeros(len(self), bool)
        for field, values in clause.items():
            mask |= self._any_of(field, values)
        return mask

    def _any_of(self, field: str, values: Sequence[str]) -> Mask:
        code_of = self._code_of[field]
        wanted = np.zeros(len(code_of) + 1, bool)  # the last, at -1, is an item without a value
        wanted[[code_of[value] for value in values if value in code_of]] = True
        mask: Mask = wanted[self._codes_N[field]]
        return mask
