"""Made-up messages for `pagoda bench stream`: some users do much more than others.

Of ten messages one is a search, seven are clicks, one is a collect and one a buy; which user does
it follows a Zipf law. No impressions: what moves no row would only flatter the consumer.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import orjson

from jobs.simulate.live import Batch, Outlet
from pagoda.messages import SCHEMA
from pagoda.settings import Settings

_ITEMS = 100_000
_KINDS = ("search", *("click",) * 7, "collect", "buy")
_WORDS = ("oat", "milk", "tea", "bread", "apple", "soap", "cheese", "rice")
_BATCH = 2_000


class Traffic:
    """An endless sequence of messages that seed, users and skew determine, but for their times."""

    def __init__(self, *, users: int, skew: float, seed: int, name: str) -> None:
        """Begin.

        Args:
            skew: the n-th busiest user does 1/n**skew as much as the busiest; 0: all as much.
            name: what every id of a message begins with.
        """
        self._dice = np.random.default_rng(seed)
        weights = np.arange(1, users + 1, dtype=np.float64) ** -skew
        self._share = np.cumsum(weights) / weights.sum()
        self._name = name
        self.taken = 0
        self.movers: set[str] = set()  # who clicked or searched: whoever has a row

    def take(self, count: int, *, at_ms: int, apart_ms: int = 0) -> Batch:
        """The next messages; the first one's time, and how much later each one after it is."""
        users = self._share.searchsorted(self._dice.random(count)).tolist()
        kinds = self._dice.integers(len(_KINDS), size=count).tolist()
        items = self._dice.integers(_ITEMS, size=count).tolist()
        batch = Batch(is_search=[], keys=[], values=[])
        for place, (number, kind, item) in enumerate(zip(users, kinds, items, strict=True)):
            user, ts = f"bench-u{number}", at_ms + place * apart_ms
            message_id = f"{self._name}-{self.taken + place}"
            if _KINDS[kind] in ("search", "click"):
                self.movers.add(user)
            batch.is_search.append(_KINDS[kind] == "search")
            batch.keys.append(user)
            batch.values.append(_value(_KINDS[kind], message_id, user, item, ts))
        self.taken += count
        return batch


def _value(kind: str, message_id: str, user: str, item: int, ts: int) -> str:
    fields: dict[str, object] = {"schema": SCHEMA, "user_id": user, "ts": ts}
    if kind == "search":
        query = f"{_WORDS[item % 8]} {_WORDS[item // 8 % 8]}"
        fields |= {"search_id": message_id, "query": query}
    else:
        fields |= {"event_id": message_id, "item_id": f"item-{item}", "action": kind}
        fields |= {"search_id": f"{message_id}-s", "position": item % 50, "shop": None}
    return orjson.dumps(fields).decode()


def fill(settings: Settings, traffic: Traffic, *, count: int, until_ms: int) -> None:
    """Send that many, a millisecond after each other, the last at `until_ms`; all acknowledged.

    Raises: DependencyDown("kafka", ...).
    """
    outlet = Outlet(settings)
    for first, size in _portions(count):
        outlet.send(traffic.take(size, at_ms=until_ms - count + first + 1, apart_ms=1))
    outlet.flush()


def _portions(count: int) -> Iterator[tuple[int, int]]:
    for first in range(0, count, _BATCH):
        yield first, min(_BATCH, count - first)
