"""Rows of `pagoda bench train` that another project can read: who took which item after which.

    rows.inter    a line an event: user, item, its place in the user's order
    rows.item     a line an item, taken or not

The files are RecBole's "atomic files". A sample is an event and the newest MOST of what its user
took before it; a user's first event makes none. Read in the peers' environment too: needs only
numpy.

Shape legend: E events, S samples, T events of a sequence.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

MOST = 50
NAME = "rows"
_EVENTS = 101  # of a user: of a sample before it 38, on average

Ints = npt.NDArray[np.integer]


@dataclass(frozen=True, kw_only=True)
class Samples:
    """What was taken, and after what.

    Attributes:
        items: how many there are.
        item_E: users behind each other, each's oldest first. A sample is that item_E[taken_S] was
            taken after item_E[start_S : taken_S].
    """

    items: int
    item_E: Ints
    start_S: Ints
    taken_S: Ints


def write(folder: Path, *, items: int, samples: int, seed: int) -> None:
    """Made-up events of as many users as that takes; popular items come more often, by Zipf's law.

    Args:
        items: how many there are, named 1, 2, ...
    """
    dice = np.random.default_rng([seed, 2])
    events = np.arange(samples + -(-samples // (_EVENTS - 1)))
    item_E = (items ** dice.random(len(events))).astype(np.int64)  # the n-th as often as 1/n
    lines = np.stack([events // _EVENTS + 1, item_E, events % _EVENTS], axis=1)
    folder.mkdir()
    header = "user_id:token\titem_id:token\ttimestamp:float"
    _write(folder / f"{NAME}.inter", lines, header)
    _write(folder / f"{NAME}.item", np.arange(1, items + 1), "item_id:token")


def read(folder: Path) -> Samples:
    """The samples of these files."""
    lines = np.loadtxt(folder / f"{NAME}.inter", np.int64, delimiter="\t", skiprows=1)
    user_E, item_E, _ = lines[np.lexsort([lines[:, 2], lines[:, 0]])].T
    first_E = user_E.searchsorted(user_E)
    taken_S = np.flatnonzero(first_E < np.arange(len(user_E)))
    return Samples(
        items=len(np.loadtxt(folder / f"{NAME}.item", np.int64, skiprows=1)),
        item_E=item_E,
        start_S=np.maximum(first_E[taken_S], taken_S - MOST),
        taken_S=taken_S,
    )


def digest(history_ST: Ints, item_S: Ints) -> str:
    """What tells other samples apart, whatever their order.

    Args:
        history_ST: names of the items before, 0 behind them. item_S: of the one taken.
    """
    rows = np.column_stack([history_ST, item_S]).astype(np.int64)
    return hashlib.sha256(rows[np.lexsort(rows.T)].tobytes()).hexdigest()


def _write(path: Path, lines: Ints, header: str) -> None:
    np.savetxt(path, lines, fmt="%d", delimiter="\t", header=header, comments="")
