"""One week's lines to rank, and what was known before it.

Candidates are the catalogue's items that have a title and an event before the week. A line's
target outside of them counts as a miss.

Shape legend: N candidates, B lines.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import polars as pl

from pagoda.models.catalogue import Catalogue
from training.data.batches import Examples
from training.evaluation.baselines import TextIndex


@dataclass(frozen=True, kw_only=True, eq=False)
class Trial:
    """One week's lines and what was known before it.

    Attributes:
        examples: the week's requests and lines.
        history: (user_key, item_key, t_ms) of events. Only those before a line's moment say
            anything about its user, only those before what is judged (`past`) about items.
        starts_ms: where the week begins. None: each user has one line, and what is judged of a
            user begins there.
        displayed: what the searches displayed, as `training.data.lines.displayed` has it, where
            that is to be ranked instead of all candidates.
    """

    examples: Examples
    catalogue: Catalogue
    history: pl.DataFrame
    starts_ms: int | None
    displayed: pl.DataFrame | None = None

    @cached_property
    def past(self) -> pl.DataFrame:
        """The events before what is judged."""
        if self.starts_ms is not None:
            return self.history.filter(pl.col("t_ms") < self.starts_ms)
        examples = self.examples
        judged = pl.DataFrame({"user_key": examples.user_key_U, "judged_ms": examples.t_ms_U})
        joined = self.history.join(judged, on="user_key", how="left")
        unjudged = pl.col("judged_ms").is_null()
        before = joined.filter(unjudged | (pl.col("t_ms") < pl.col("judged_ms")))
        return before.drop("judged_ms")

    @cached_property
    def _popularity(self) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
        counted = (
            self.past.group_by("item_key").len().sort("len", "item_key", descending=[True, False])
        )
        numbers = self.catalogue.numbers(counted["item_key"].to_numpy())
        titled = self.catalogue.table["title"].is_valid().to_numpy()
        chosen = numbers > 0
        chosen[chosen] = titled[numbers[chosen] - 1]
        return numbers[chosen], counted["len"].to_numpy()[chosen].astype(np.int64)

    @property
    def candidates(self) -> npt.NDArray[np.int32]:
        """Item numbers of the candidates, most popular first, ties by item key."""
        return self._popularity[0]

    @property
    def popularity(self) -> npt.NDArray[np.int64]:
        """Each candidate's events before what is judged."""
        return self._popularity[1]

    @cached_property
    def index(self) -> TextIndex:
        """The candidates' texts."""
        return self.index_of(self.candidates)

    def index_of(self, numbers: npt.NDArray[np.integer]) -> TextIndex:
        """First categories and titles of these items of the catalogue, none of them 0."""
        fields = self.catalogue.table.select(["first_category", "title"]).take(numbers - 1)
        return TextIndex(
            [f"{each['first_category'] or ''} {each['title'] or ''}" for each in fields.to_pylist()]
        )

    @cached_property
    def _column(self) -> npt.NDArray[np.int64]:
        """Each item number's place among the candidates, -1 for none."""
        column = np.full(len(self.catalogue) + 1, -1, np.int64)
        column[self.candidates] = np.arange(len(self.candidates))
        return column

    def columns_of(self, item_keys: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Each item's place among the candidates, -1 for none."""
        column: npt.NDArray[np.int64] = self._column[self.catalogue.numbers(item_keys)]
        return column

    @cached_property
    def targets(self) -> npt.NDArray[np.int64]:
        """Each line's target as a place among the candidates, -1 for none."""
        target: npt.NDArray[np.int64] = self._column[self.examples.item_B]
        return target

    @cached_property
    def users(self) -> npt.NDArray[np.int64]:
        """Each line's user."""
        return self.examples.user_key_U[self.examples.request_B]

    @cached_property
    def owned(self) -> list[npt.NDArray[np.int64]]:
        """Each line's user's candidates before what is judged, one entry an event."""
        past = self.past
        columns = self.columns_of(past["item_key"].to_numpy())
        grouped = (
            past.select("user_key", column=pl.Series(columns))
            .filter(pl.col("column") >= 0)
            .group_by("user_key")
            .agg("column")
            .select("user_key", "column")
        )
        of_user = {user: np.array(places, np.int64) for user, places in grouped.iter_rows()}
        nothing = np.empty(0, np.int64)
        return [of_user.get(user, nothing) for user in self.users.tolist()]
