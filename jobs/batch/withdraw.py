"""Take rows out of the online store that the lake has no valid row for any more.

Redis keeps what nobody writes again: a user whose events were removed from the lake, or a row past
its TTL. Serving would go on reading the former as if they were true.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import numpy as np

from pagoda import online_layout
from pagoda.features import View
from pagoda.online import connect
from pagoda.sequences import Int64s
from pagoda.settings import Settings

_AT_ONCE = 1_000


def withdraw(settings: Settings, view: View, valid: Int64s) -> int:
    """Delete the view's row of every entity that is not among `valid`. Returns: how many rows.

    The other views of the same entity share its hash and stay. To be called by the view's one
    writer, under its lock.

    Args:
        valid: entities that have a valid row, sorted [N].
    """
    client: Any = connect(settings)
    stamp = online_layout.stamp_field(view)
    fields = online_layout.fields(view)
    withdrawn = 0
    for portion in _portions(client.scan_iter(count=_AT_ONCE)):
        keys = _of_others(portion, view, valid)
        with client.pipeline(transaction=False) as pipe:
            for key in keys:
                pipe.hexists(key, stamp)
            held = pipe.execute()
            for key, has_row in zip(keys, held, strict=True):
                if has_row:
                    pipe.hdel(key, *fields)
            withdrawn += len(pipe.execute())
    return withdrawn


def _of_others(redis_keys: list[bytes], view: View, valid: Int64s) -> list[bytes]:
    """Those keys that are of this kind of entity, and of none that is valid."""
    of_kind = online_layout.Keys(view.entity)
    entities = {key: entity for key in redis_keys if (entity := of_kind.entity_of(key)) is not None}
    among = np.isin(np.fromiter(entities.values(), np.int64, len(entities)), valid)
    return [key for key, known in zip(entities, among, strict=True) if not known]


def _portions(keys: Iterable[bytes]) -> Iterator[list[bytes]]:
    rest = iter(keys)
    while portion := list(islice(rest, _AT_ONCE)):
        yield portion
