"""Behaviour sequences and their merge (law 2).

A sequence is the newest N distinct events by (time, event). Keeping the newest N of a union is
commutative, associative and idempotent, so any order, duplication or replay of arrival ends in
the same state, and the union of what batch and stream hold is always safe.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Int64s = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Sequence:
    """Events of one user, oldest first, as parallel arrays of one length N.

    Attributes:
        ts: event time, epoch milliseconds, int64 [N], ascending.
        event: event key (or search key), int64 [N]; orders events of one millisecond.
        value: what happened to what: item keys, int64 [N], or query texts, object [N].
    """

    ts: Int64s
    event: Int64s
    value: npt.NDArray[Any]

    def __post_init__(self) -> None:
        if not len(self.ts) == len(self.event) == len(self.value):
            raise ValueError(
                f"arrays of one sequence differ in length: ts {len(self.ts)}, "
                f"event {len(self.event)}, value {len(self.value)}"
            )

    def __len__(self) -> int:
        return len(self.ts)

    def __eq__(self, other: object) -> bool:
        return self is other or (
            isinstance(other, Sequence)
            and np.array_equal(self.ts, other.ts)
            and np.array_equal(self.event, other.event)
            and np.array_equal(self.value, other.value)
        )

    def where(self, mask_or_slice: npt.NDArray[np.bool_] | slice) -> Sequence:
        """The events that a boolean mask [N] or a slice selects."""
        return Sequence(
            ts=self.ts[mask_or_slice],
            event=self.event[mask_or_slice],
            value=self.value[mask_or_slice],
        )

    def newest(self, limit: int) -> Sequence:
        """The newest `limit` events."""
        return self if len(self) <= limit else self.where(slice(len(self) - limit, None))


def items(ts: Iterable[int], event: Iterable[int], item: Iterable[int]) -> Sequence:
    """A sequence over item keys from columns in any order (see `merge` for ties)."""
    return merge(
        Sequence(ts=_int64(ts), event=_int64(event), value=_int64(item)),
        limit=None,
    )


def queries(ts: Iterable[int], search: Iterable[int], text: Iterable[str]) -> Sequence:
    """A sequence over query texts from columns in any order."""
    texts = list(text)
    value = np.empty(len(texts), dtype=object)
    value[:] = texts
    return merge(Sequence(ts=_int64(ts), event=_int64(search), value=value), limit=None)


def merge(*parts: Sequence, limit: int | None) -> Sequence:
    """The newest `limit` distinct events of all parts, oldest first.

    Events are distinct by (ts, event). Should two carry different values, the larger value
    stays: the choice must not depend on the order of arrival.
    """
    filled = [part for part in parts if len(part)]
    if not filled:
        return parts[0] if parts else EMPTY_ITEMS
    joined = filled[0] if len(filled) == 1 else _joined(filled)
    merged = joined if _ascends(joined.ts) else _distinct(joined)
    return merged if limit is None else merged.newest(limit)


def _joined(parts: list[Sequence]) -> Sequence:
    return Sequence(
        ts=np.concatenate([part.ts for part in parts]),
        event=np.concatenate([part.event for part in parts]),
        value=np.concatenate([part.value for part in parts]),
    )


def _ascends(ts: Int64s) -> bool:
    """Whether every time lies after the one before: then nothing is to be sorted nor doubled.

    Nearly always so: of what was merged before, and of news behind what was known.
    """
    return bool((ts[1:] > ts[:-1]).all())


def _distinct(joined: Sequence) -> Sequence:
    """In order, of equal (ts, event) the one with the largest value."""
    order = np.lexsort((joined.value, joined.event, joined.ts))
    ts, event, value = joined.ts[order], joined.event[order], joined.value[order]
    last_of_its_kind = np.ones(len(ts), dtype=bool)
    last_of_its_kind[:-1] = (ts[1:] != ts[:-1]) | (event[1:] != event[:-1])
    return Sequence(
        ts=ts[last_of_its_kind], event=event[last_of_its_kind], value=value[last_of_its_kind]
    )


def _int64(values: Iterable[int]) -> Int64s:
    if isinstance(values, np.ndarray):
        return np.asarray(values, np.int64)
    return np.fromiter(values, dtype=np.int64)


EMPTY_ITEMS = Sequence(
    ts=np.empty(0, np.int64), event=np.empty(0, np.int64), value=np.empty(0, np.int64)
)
EMPTY_QUERIES = Sequence(
    ts=np.empty(0, np.int64), event=np.empty(0, np.int64), value=np.empty(0, object)
)
