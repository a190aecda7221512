"""How a column's values are distributed, and how far two distributions have drifted apart.

Drift is the population stability index over bins that are fixed by the reference: its deciles
for numbers and lengths, every value for kinds, and one bin for nulls,

    PSI = sum over bins (p - q) * ln(p / q)        p, q: shares of current and reference rows

0 means equal; by custom 0.1 is worth a look and 0.25 is a different population. Half a row is
added to each bin, so that an empty one does not make the index infinite.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]
_DECILES = np.arange(1, 10) / 10


@dataclass(frozen=True, kw_only=True, eq=False)
class Distribution:
    """How many rows have each value.

    Attributes:
        values: ascending, float64 [V].
        rows: how many rows have it, int64 [V].
        nulls: how many have none.
    """

    values: Floats
    rows: Counts
    nulls: int = 0

    @staticmethod
    def of(values: Sequence[float | None]) -> Distribution:
        """That of values at hand, one a row."""
        filled = np.array([each for each in values if each is not None], np.float64)
        distinct, rows = np.unique(filled, return_counts=True)
        return Distribution(
            values=distinct, rows=rows.astype(np.int64), nulls=len(values) - len(filled)
        )

    @property
    def filled(self) -> int:
        """Rows that have a value."""
        return int(self.rows.sum())

    @property
    def total(self) -> int:
        """All rows."""
        return self.filled + self.nulls

    @property
    def null_rate(self) -> float | None:
        """Share of rows without a value; None without rows."""
        return self.nulls / self.total if self.total else None

    def share(self, value: float) -> float | None:
        """Share of all rows that have this value; None without rows."""
        return float(self.rows[self.values == value].sum()) / self.total if self.total else None

    def quantile(self, level: float) -> float | None:
        """The smallest value that at least this share of the filled rows reaches up to."""
        return float(self._quantiles(np.array([level]))[0]) if self.filled else None

    def _quantiles(self, levels: Floats) -> Floats:
        reached = np.cumsum(self.rows)
        # Not the product itself: 0.7 * 10 is a little more than 7.
        wanted = np.ceil(np.round(levels * self.filled, 9))
        found: Floats = self.values[reached.searchsorted(np.maximum(wanted, 1))]
        return found

    def binned(self, edges: Floats) -> Counts:
        """Rows per bin: up to each edge, beyond the last, and nulls, int64 [edges + 2]."""
        bins = np.zeros(len(edges) + 2, np.int64)
        np.add.at(bins, edges.searchsorted(self.values, side="left"), self.rows)
        bins[-1] = self.nulls
        return bins


def psi(reference: Distribution, current: Distribution, *, kinds: bool = False) -> float | None:
    """The population stability index; None if one of them has no rows.

    Args:
        kinds: values are kinds, not amounts: each is a bin of its own.
    """
    if not reference.total or not current.total:
        return None
    if kinds:
        edges = np.union1d(reference.values, current.values)
    else:
        edges = np.unique(reference._quantiles(_DECILES)) if reference.filled else np.empty(0)
    p, q = (_shares(each.binned(edges)) for each in (current, reference))
    return float(((p - q) * np.log(p / q)).sum())


def _shares(rows: Counts) -> Floats:
    smoothed = rows + 0.5
    shares: Floats = smoothed / smoothed.sum()
    return shares
