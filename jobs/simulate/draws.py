"""Chance as a function: a draw depends on the seed, on what it is for and on whom it concerns.

No generator is carried from one draw to the next. So a shopper does the same things whatever the
number of the others, the size of a chunk and the order in which chunks are made: the same seed
gives the same events by construction.

Source: the finaliser of splitmix64 (Steele, Lea and Flood, OOPSLA 2014).
"""

from __future__ import annotations

import hashlib
from functools import cache
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Keys: TypeAlias = npt.NDArray[np.uint64]
Floats: TypeAlias = npt.NDArray[np.float64]
Ints: TypeAlias = npt.NDArray[np.int64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_TO_UNIT = np.float64(2.0**-53)


def keys(seed: int, *whom: npt.NDArray[Any]) -> Keys:
    """A key for each tuple of numbers: user, day, search and so on; arrays broadcast."""
    return within(np.array([_salt(f"seed {seed}")]), *whom)


def within(outer: Keys, *whom: npt.NDArray[Any]) -> Keys:
    """Keys of what lies within `outer`: a search's positions, for example; arrays broadcast."""
    key = outer
    for each in whom:
        numbers = np.atleast_1d(each).astype(np.uint64)  # arrays wrap around silently
        key = _mixed(key ^ ((numbers + np.uint64(1)) * _GOLDEN))
    return key


def uniform(of: Keys, what: str) -> Floats:
    """One number in [0, 1) for each key; other purposes of the same key are independent."""
    drawn: Floats = (_mixed(of ^ _salt(what)) >> np.uint64(11)) * _TO_UNIT
    return drawn


def integers(of: Keys, what: str, below: int | npt.NDArray[Any]) -> Ints:
    """One whole number in [0, below) for each key."""
    return (uniform(of, what) * below).astype(np.int64)


def between(of: Keys, what: str, low: float, high: float) -> Ints:
    """One whole number in [low, high) for each key: milliseconds, mostly."""
    return (low + uniform(of, what) * (high - low)).astype(np.int64)


def _mixed(bits: Keys) -> Keys:
    bits = (bits ^ (bits >> np.uint64(30))) * _FIRST
    bits = (bits ^ (bits >> np.uint64(27))) * _SECOND
    return bits ^ (bits >> np.uint64(31))


@cache
def _salt(text: str) -> np.uint64:
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return np.uint64(int.from_bytes(digest, "big"))
