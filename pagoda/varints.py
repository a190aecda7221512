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
# By a varint's length, which of eight bytes read at its start are its own, without their top bits.
_OWN = np.array(
    [int.from_bytes(b"\x7f" * min(length, 8), "little") for length in range(_LONGEST + 1)],
    np.uint64,
)

_NINTH = np.array([0x7F if length > 8 else 0 for length in range(_LONGEST + 1)], np.uint8)
_TENTH = np.array([0x01 if length > 9 else 0 for length in range(_LONGEST + 1)], np.uint8)
_POWERS = np.array([2 ** (7 * place) for place in range(1, _LONGEST)], np.uint64)


class Unreadable(ValueError):
    """No list of varints."""


def decode(packed: Sequence[bytes]) -> list[Int64s]:
    """The integers of each list. Raises: Unreadable."""
    if any(each and each[-1] > 0x7F for each in packed):
        raise Unreadable("a list ends within an integer")
    joined = b"".join([*packed, bytes(_LONGEST)])
    octets = np.frombuffer(joined, np.uint8)
    size = len(joined) - _LONGEST
    ends = (octets[:size] < 0x80).nonzero()[0]
    starts = np.empty_like(ends)
    starts[:1], starts[1:] = 0, ends[:-1] + 1
    lengths = ends - starts + 1
    longest = lengths.max(initial=0)
    if longest > _LONGEST:
        raise Unreadable("an integer has more than ten bytes")
    eights = np.ndarray(size, "<u8", octets, strides=(1,))  # the eight bytes at each byte
    numbers = _joined(eights[starts] & _OWN[lengths])
    if longest > 8:
        numbers |= (octets[starts + 8] & _NINTH[lengths]).astype(np.uint64) << np.uint64(56)
    if longest > 9:
        numbers |= (octets[starts + 9] & _TENTH[lengths]).astype(np.uint64) << np.uint64(63)
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


def _joined(eights: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The seven low bits of each of eight bytes side by side: pairs, pairs of pairs, all."""
    for bits, low in (
        (1, 0x007F_007F_007F_007F),
        (2, 0x0000_3FFF_0000_3FFF),
        (4, 0x0000_0000_0FFF_FFFF),
    ):
        high = low << (8 * bits)
        eights = (eights & np.uint64(low)) | ((eights & np.uint64(high)) >> np.uint64(bits))
    return eights
