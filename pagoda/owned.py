"""Which items a user had before, how often, and when last: rows of the view `user_items`.

Counted over the UTC days before a row's own; what happened since is in the sequences.
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from pagoda.schemas import INT64S
from pagoda.statistics import Kind

OWNING: tuple[Kind, ...] = ("click", "buy")
COLUMNS: dict[str, pa.DataType] = {
    "owned_items": INT64S,  # most often first; among equals the last one first, then by key
    "owned_times": INT64S,
    "owned_last_ts": INT64S,
}


@dataclass(frozen=True, kw_only=True)
class OwnedSpec:
    """How many days before its own a row looks at, and how many items it holds at most."""

    days: int
    most: int

    def __post_init__(self) -> None:
        if min(self.days, self.most) < 1:
            raise ValueError(f"days and most must be at least 1: {self}")

    def __str__(self) -> str:
        return f"of the {self.most} items most often {' or '.join(OWNING)} over {self.days} days"
