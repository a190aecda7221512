"""Feature rows to what the towers read: cut at the moment of the request, keys to numbers.

The same functions serve a live request and a training row, so that both see the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pagoda.features import USER_ITEMS, USER_STATS, candidates_of
from pagoda.models.catalogue import Catalogue
from pagoda.models.ragged import Ragged
from pagoda.owned import COLUMNS as OWNED_COLUMNS
from pagoda.sequences import Int64s
from pagoda.windows import DAY_MS, LONG_TERM_ACTIONS, Candidates, Windows, WindowSpec, cut

Rows = Mapping[str, Mapping[str, Any] | None]


@dataclass(frozen=True, kw_only=True)
class Owned:
    """What U users had before the day of their request (`pagoda.owned`).

    Attributes:
        item: item numbers, most often first, U rows. times: how often each. age_days: UTC days
            from the last time to the request.
    """

    item: Ragged
    times: Ragged
    age_days: Ragged

    @classmethod
    def nothing(cls, requests: int) -> Owned:
        """Of so many users who had nothing."""
        empty = Ragged.from_lengths(np.empty(0, np.int32), np.zeros(requests, np.int64))
        return cls(item=empty, times=empty, age_days=empty)

    def take(self, rows: npt.NDArray[np.integer]) -> Owned:
        """The requests of these numbers."""
        return Owned(
            item=self.item.take(rows),
            times=self.times.take(rows),
            age_days=self.age_days.take(rows),
        )


@dataclass(frozen=True, kw_only=True)
class Behaviour:
    """What U requests know of their users.

    Attributes:
        real_time, short_term, long_term: item numbers, oldest first, U rows each.
        real_time_age_s: whole seconds from each real-time event to the request, U rows.
        queries: numbers into a list of distinct texts kept beside it, oldest first, U rows.
        owned: what the users had before; empty rows for services that do not read it.
        stats_UF: 1 where any statistic is above 0, then log1p of each, float32 [U, F].
    """

    real_time: Ragged
    real_time_age_s: Ragged
    short_term: Ragged
    long_term: dict[str, Ragged]
    queries: Ragged
    owned: Owned
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
            owned=self.owned.take(rows),
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


def owned_of(rows: Rows, *, at_ms: int) -> tuple[Int64s, Int64s, Int64s]:
    """Keys of the items that a user had before, how often, and how many UTC days ago the last."""
    row = rows.get(USER_ITEMS.name) or {}
    values = (row.get(column) for column in OWNED_COLUMNS)
    items, times, last_ts = (np.asarray([] if v is None else v, np.int64) for v in values)
    return items, times, at_ms // DAY_MS - last_ts // DAY_MS


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
    owned: list[tuple[Int64s, Int64s, Int64s]] = []
    for rows, at_ms in requests:
        windows.append(windows_of(rows, at_ms=at_ms, spec=spec))
        ages_U.append((at_ms - windows[-1].real_time.ts) // 1000)
        stats_U.append(stats_of(rows, stats))
        owned.append(owned_of(rows, at_ms=at_ms))
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
        owned=Owned(
            item=_item_numbers([items for items, _, _ in owned], catalogue),
            times=Ragged.from_rows([times for _, times, _ in owned]),
            age_days=Ragged.from_rows([ages for _, _, ages in owned]),
        ),
        stats_UF=np.asarray(stats_U, np.float32).reshape(len(windows), stats_width(stats)),
    )


def _item_numbers(keys: list[npt.NDArray[Any]], catalogue: Catalogue) -> Ragged:
    lengths = np.array([len(each) for each in keys], np.int64)
    flat = np.concatenate([np.empty(0, np.int64), *keys])
    return Ragged.from_lengths(catalogue.numbers(flat), lengths)
