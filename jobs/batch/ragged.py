"""Rows of different lengths as one flat index: how list columns are built without a loop.

A `Ragged` says, for each output row, which input positions it takes. Every list column of a
feature row is `values[index]` cut by the same offsets.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pagoda.sequences import Int64s


@dataclass(frozen=True, kw_only=True, eq=False)
class Ragged:
    """Input positions of every row, one after the other.

    Attributes:
        index: positions in the input, int64 [sum of lengths].
        lengths: how many of them each row takes, int64 [rows].
    """

    index: Int64s
    lengths: Int64s

    @staticmethod
    def of_ranges(starts: Int64s, stops: Int64s) -> Ragged:
        """Rows that are ranges, or several in a row: `starts` and `stops` are [rows] or
        [rows, pieces]; a stop at or before its start is an empty range.
        """
        lengths = np.maximum(stops - starts, 0)
        flat = lengths.ravel()
        before = np.cumsum(flat) - flat
        index = np.arange(int(flat.sum())) + np.repeat(starts.ravel() - before, flat)
        return Ragged(index=index, lengths=lengths.reshape(len(lengths), -1).sum(axis=1))

    @property
    def offsets(self) -> Int64s:
        """Where each row begins in `index`, and where the last one ends, int64 [rows + 1]."""
        return np.concatenate([[0], np.cumsum(self.lengths)])

    def maxima(self, values: Int64s, *, empty: int) -> Int64s:
        """The largest of `values` in each row, `empty` where a row takes nothing."""
        result: Int64s = np.full(len(self.lengths), empty)
        filled = self.lengths > 0
        if filled.any():
            begins = self.offsets[:-1][filled]
            result[filled] = np.maximum.reduceat(values[self.index], begins)
        return result

    def lists(self, values: npt.NDArray[np.int64] | pa.Array) -> pa.ListArray:
        """A list column: row i holds the values at its positions."""
        return pa.ListArray.from_arrays(self.offsets, values.take(self.index))
