"""Strings at the edge, 63-bit integers inside.

A key is a hash of the kind and the string, so importers, streams and rebuilds agree without
asking anybody. The table `ids` records every key; a collision is refused at import.
63 bits: the int64 of Feast's join key and Milvus's primary key stays positive. For 10 million
ids of one kind the chance of any collision is 5e-6.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Literal

import numpy as np
import numpy.typing as npt

Kind = Literal["user", "item", "event", "search"]
_MASK = (1 << 63) - 1


def key_of(kind: Kind, identifier: str) -> int:
    """The 63-bit key of an id: BLAKE2b-64 over `kind`, NUL and the UTF-8 string."""
    digest = hashlib.blake2b(f"{kind}\0{identifier}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") & _MASK


def keys_of(kind: Kind, identifiers: Iterable[str]) -> npt.NDArray[np.int64]:
    """`key_of` for many ids, int64 [N]."""
    return np.fromiter((key_of(kind, each) for each in identifiers), dtype=np.int64)
