"""Protobuf's packed int64 lists from and to numpy arrays, many lists at once.

A varint holds seven bits a byte, the lowest first; its last byte is the one below 128. protobuf
makes a Python integer of each, 60 ns a piece; here all varints of all lists are taken apart
together, eight bytes at a time.

Source: Protocol Buffers, "Encoding", base 128 varints.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise

import numpy as np
import numpy.typing as npt

from pagoda.sequences import Int64s

_LONGEST = 10  # bytes of a varint
# By a varint's length less one, which of the eight bytes from its start are its own, without their
# top bits; and of the ninth and the tenth byte.
_OWN = np.array(
    [int.from_bytes(b"\x7f" * min(length, 8), "little") for length in range(1, _LONGEST + 1)],
    np.uint64,
)
_BEYOND = np.array([0] * 8 + [0x7F, 0x017F], np.uint64)
_PADDING = bytes(16)  # so that eight bytes can be read from eight behind the last one
# The bits of the lower of two neighbours, those of the upper one, and how far that goes down.
_PAIRS = [
    (np.uint64(low), np.uint64(low << 8 * down), np.uint64(down))
    for low, down in (
        (0x007F_007F_007F_007F, 1),
        (0x0000_3FFF_0000_3FFF, 2),
        (0x0000_0000_0FFF_FFFF, 4),
    )
]
_U8, _U56, _U63 = map(np.uint64, (8, 56, 63))
_POWERS = np.array([2 ** (7 * place) for place in range(1, _LONGEST)], np.uint64)


class Unreadable(ValueError):
    """No list of varints."""


def decode(packed: Sequence[bytes]) -> list[Int64s]:
    """The integers of each list. Raises: Unreadable."""
    if any(each and each[-1] > 0x7F for each in packed):
        raise Unreadable("a list ends within an integer")
    joined = b"".join([*packed, _PADDING])
    octets = np.frombuffer(joined, np.uint8, len(joined) - len(_PADDING))
    ends = (octets < 0x80).nonzero()[0]
    starts = np.empty_like(ends)
    starts[:1] = 0
    np.add(ends[:-1], 1, out=starts[1:])
    more = ends - starts  # bytes after the first
    longest = more.max(initial=0) + 1
    if longest > _LONGEST:
        raise Unreadable("an integer has more than ten bytes")
    eights = np.ndarray(len(octets) + 8, "<u8", joined, strides=(1,))  # the eight from each byte
    numbers = eights[starts]
    numbers &= _OWN.take(more)
    _join(numbers)
    if longest > 8:
        beyond = eights[starts + 8]
        beyond &= _BEYOND.take(more)
        numbers |= beyond << _U56
        if longest > 9:
            numbers |= (beyond >> _U8) << _U63
    at = ends.searchsorted([0, *accumulate(map(len, packed))]).tolist()
    values = numbers.view(np.int64)
    return [values[begin:end] for begin, end in pairwise(at)]


def encode(lists: Sequence[Int64s]) -> list[bytes]:
    """Each list's integers as varints."""
    numbers = np.concatenate([np.empty(0, np.int64), *lists]).view(np.uint64)
    lengths = _POWERS.searchsorted(numbers, side="right") + 1
    octets = np.empty((len(numbers), _LONGEST), np.uint8)
    for place in range(_LONGEST):
        octets[:, place] = (numbers >> np.uint64(7 * place)) & np.uint64(0x7F)
    octets[np.arange(_LONGEST) < lengths[:, None] - 1] |= 0x80
    data = octets[np.arange(_LONGEST) < lengths[:, None]].tobytes()
    ends = np.concatenate([[0], lengths.cumsum()])
    at = ends[np.cumsum([0, *map(len, lists)])].tolist()
    return [data[begin:end] for begin, end in pairwise(at)]


def _join(eights: npt.NDArray[np.uint64]) -> None:
    """The seven low bits of each of eight bytes side by side: pairs, pairs of pairs, all."""
    upper = np.empty_like(eights)
    for low, high, down in _PAIRS:
        np.bitwise_and(eights, high, out=upper)
        upper >>= down
        eights &= low
        eights |= upper
