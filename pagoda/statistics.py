"""Statistics as data: what is aggregated, of which events, over how many days.

`pagoda.features` names them as columns; `jobs/batch` computes whatever is declared. A statistic of
day D covers the UTC days before D, as many as it says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import pyarrow as pa

Entity = Literal["user_key", "item_key"]
Kind = Literal["impression", "click", "collect", "cart", "buy", "search"]
Aggregation = Literal["count", "active_days", "distinct_items", "distinct_users", "mean_price"]

TYPES: Mapping[Aggregation, pa.DataType] = {
    "count": pa.int64(),
    "active_days": pa.int64(),
    "distinct_items": pa.int64(),
    "distinct_users": pa.int64(),
    "mean_price": pa.float64(),
}
# What each view's module under jobs/batch can compute.
COMPUTED: Mapping[Entity, tuple[Aggregation, ...]] = {
    "user_key": ("count", "active_days", "distinct_items", "mean_price"),
    "item_key": ("count", "distinct_users"),
}
_OF_ITEMS = ("distinct_items", "mean_price")  # a search has no item


@dataclass(frozen=True, kw_only=True)
class Statistic:
    """One statistic of a user or an item.

    Attributes:
        of: kinds of events. `click` is what the data set counts as one (its `click_actions`).
        days: how many UTC days before a row's day are looked at.
    """

    aggregation: Aggregation
    of: tuple[Kind, ...]
    days: int

    def __post_init__(self) -> None:
        problems = [f"unknown kind {kind!r}" for kind in self.of if kind not in get_args(Kind)]
        if not self.of:
            problems.append("of no kind of event")
        if self.days < 1:
            problems.append(f"over {self.days} days")
        if self.aggregation not in TYPES:
            problems.append(f"unknown aggregation {self.aggregation!r}: one of {sorted(TYPES)}")
        elif self.aggregation in _OF_ITEMS and "search" in self.of:
            problems.append(f"{self.aggregation} of searches, which have no item")
        if problems:
            raise ValueError(f"{self}: {'; '.join(problems)}")

    def __str__(self) -> str:
        return f"{self.aggregation} of {', '.join(self.of)} over {self.days} days"

    @property
    def type(self) -> pa.DataType:
        """The column's type."""
        return TYPES[self.aggregation]


def problems_of(entity: Entity, name: str, statistic: Statistic) -> list[str]:
    """Why a view of that entity cannot have this column."""
    problems = []
    if not name.endswith(f"_{statistic.days}d"):
        # Another window under an old name would change what old models read.
        problems.append(f"{name}: a column over {statistic.days} days ends in _{statistic.days}d")
    if entity == "item_key" and "search" in statistic.of:
        problems.append(f"{name}: a search has no item")
    if statistic.aggregation not in COMPUTED[entity]:
        problems.append(
            f"{name}: {statistic.aggregation} is not computed by {entity}, "
            f"only {', '.join(COMPUTED[entity])}"
        )
    return problems
