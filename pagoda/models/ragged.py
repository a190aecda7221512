"""Rows of different lengths as one flat array and offsets."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.integer]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Ragged:
    """N rows of integers.

    Attributes:
        values: all rows behind each other, [total].
        offsets: row n is values[offsets[n] : offsets[n + 1]], int64 [N + 1].
    """

    values: Ints
    offsets: npt.NDArray[np.int64]

    @classmethod
    def from_rows(cls, rows: Sequence[Sequence[int] | Ints]) -> Ragged:
        """Rows given one by one."""
        lengths = np.fromiter((len(row) for row in rows), np.int64, len(rows))
        offsets = np.zeros(len(rows) + 1, np.int64)
        np.cumsum(lengths, out=offsets[1:])
        values = np.empty(offsets[-1], np.int32)
        for row, start, end in zip(rows, offsets, offsets[1:], strict=False):
            values[start:end] = row
        return cls(values, offsets)

    @classmethod
    def concatenate(cls, parts: Iterable[Ragged]) -> Ragged:
        """All rows of all parts, in order."""
        parts = list(parts)
        lengths = [part.lengths for part in parts]
        return cls.from_lengths(
            np.concatenate([part.values[part.offsets[0] : part.offsets[-1]] for part in parts]),
            np.concatenate(lengths),
        )

    @classmethod
    def from_lengths(cls, values: Ints, lengths: npt.NDArray[np.int64]) -> Ragged:
        """Rows of these lengths behind each other in `values`."""
        offsets = np.zeros(len(lengths) + 1, np.int64)
        np.cumsum(lengths, out=offsets[1:])
        return cls(values, offsets)

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Length of each row, [N]."""
        return self.offsets[1:] - self.offsets[:-1]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> Ints:
        return self.values[self.offsets[row] : self.offsets[row + 1]]

    def take(self, rows: Ints) -> Ragged:
        """The rows of these numbers, in this order, repeats allowed."""
        if not len(self.values):  # as of an action that a shop does not record
            return Ragged(self.values, np.zeros(len(rows) + 1, np.int64))
        # Only what is taken is looked at: batches are small parts of very many rows.
        starts = self.offsets[rows]
        lengths = self.offsets[rows + 1] - starts
        taken = Ragged.from_lengths(np.empty(0, self.values.dtype), lengths)
        at = np.repeat(starts - taken.offsets[:-1], lengths)
        at += np.arange(len(at))
        return Ragged(self.values[at], taken.offsets)

    def padded(self, *, at_least: int = 1) -> tuple[Ints, Mask]:
        """Rows filled with 0 on the right to the longest: values [N, T] and mask [N, T]."""
        lengths = self.lengths
        width = max(int(lengths.max(initial=0)), at_least)
        mask = np.arange(width) < lengths[:, None]
        values = np.zeros(mask.shape, self.values.dtype)
        values[mask] = self.values[self.offsets[0] : self.offsets[-1]]
        return values, mask
