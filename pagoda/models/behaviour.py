"""Feature rows to what the towers read: cut at the moment of the request, keys to numbers.

The same functions serve a live request and a training row, so that both see the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pagoda.features import USER_STATS, candidates_of
from pagoda.models.catalogue import Catalogue
from pagoda.models.ragged import Ragged
from pagoda.windows import LONG_TERM_ACTIONS, Candidates, Windows, WindowSpec, cut

Rows = Mapping[str, Mapping[str, Any] | None]


@dataclass(frozen=True, kw_only=True)
class Behaviour:
    """What U requests know of their users.

    Attributes:
        real_time, short_term, long_term: item numbers, oldest first, U rows each.
        real_time_age_s: whole seconds from each real-time event to the request, U rows.
        queries: numbers into a list of distinct texts kept beside it, oldest first, U rows.
        stats_UF: 1 where any statistic is above 0, then log1p of each, float32 [U, F].
    """

    real_time: Ragged
    real_time_age_s: Ragged
    short_term: Ragged
    long_term: dict[str, Ragged]
    queries: Ragged
    stats_UF: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.real_time)

    def take(self, rows: npt.NDArray[np.integer]) -> Behaviour:
        """The requests of these numbers."""
        return Behaviour(
            real_time=self.real_time.take(rows),
            real_time_age_s=self.real_time_age_s.take(rows),
            short_term=self.short_term.take(rows),
            long_term={action: each.take(rows) for action, each in self.long_term.items()},
            queries=self.queries.take(rows),
            stats_UF=self.stats_UF[rows],
        )


class TextNumbers:
    """Distinct texts in order of first appearance."""

    def __init__(self) -> None:
        self._number_of: dict[str, int] = {}

    def __getitem__(self, text: str) -> int:
        return self._number_of.setdefault(text, len(self._number_of))

    @property
    def texts(self) -> list[str]:
        """The texts by number."""
        return list(self._number_of)


def windows_of(rows: Rows, *, at_ms: int, spec: WindowSpec) -> Windows:
    """The windows of one request from its raw feature rows, whatever views they come from."""
    known = Candidates()
    for row in rows.values():
        if row is not None:
            known = known.union(candidates_of(row))
    return cut(known, at_ms=at_ms, spec=spec)


def stats_width(stats: Sequence[str]) -> int:
    """F of so many statistics: one more, for whether there is any."""
    return 1 + len(stats)


def stats_of(rows: Rows, stats: Sequence[str]) -> list[float]:
    """Whether any of these statistics is above 0, then log1p of each; NaN and absent count as 0.

    Whether there is a row says less: a statistic that the view gained since may have made it.
    """
    row = rows.get(USER_STATS.name) or {}
    values = [row.get(column) for column in stats]
    logs = [0.0 if value is None or not value > 0 else float(np.log1p(value)) for value in values]
    return [float(any(logs)), *logs]


def encode(
    requests: Iterable[tuple[Rows, int]],
    catalogue: Catalogue,
    texts: TextNumbers,
    *,
    spec: WindowSpec,
    stats: Sequence[str],
) -> Behaviour:
    """Behaviour of requests, each its feature rows and its moment in epoch milliseconds.

    New query texts get the next numbers of `texts`.

    Args:
        stats: the user statistics that the model's feature service names, in its order.
    """
    windows: list[Windows] = []
    ages_U: list[npt.NDArray[np.int64]] = []
    stats_U: list[list[float]] = []
    for rows, at_ms in requests:
        windows.append(windows_of(rows, at_ms=at_ms, spec=spec))
        ages_U.append((at_ms - windows[-1].real_time.ts) // 1000)
        stats_U.append(stats_of(rows, stats))
    return Behaviour(
        real_time=_item_numbers([each.real_time.value for each in windows], catalogue),
        real_time_age_s=Ragged.from_rows(ages_U),
        short_term=_item_numbers([each.short_term.value for each in windows], catalogue),
        long_term={
            action: _item_numbers([each.long_term[action].value for each in windows], catalogue)
            for action in LONG_TERM_ACTIONS
        },
        queries=Ragged.from_rows(
            [[texts[text] for text in each.queries.value] for each in windows]
        ),
        stats_UF=np.asarray(stats_U, np.float32).reshape(len(windows), stats_width(stats)),
    )


def _item_numbers(keys: list[npt.NDArray[Any]], catalogue: Catalogue) -> Ragged:
    lengths = np.array([len(each) for each in keys], np.int64)
    flat = np.concatenate([np.empty(0, np.int64), *keys])
    return Ragged.from_lengths(catalogue.numbers(flat), lengths)
