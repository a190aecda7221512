"""Users' real-time sequences in the online store: read, merge by law 2, swap.

A row is never overwritten but swapped: one script compares the stamp that was read with the one
that is there and writes only if they are the same; a stamp never comes twice. So no writer undoes
another's work, whoever they are: a consumer that slept while its partitions went to another, or a
rebuild beside the live stream (ADR 8).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import redis
import structlog

from jobs.stream.merge import Arrivals, News, advance_all, changed_columns, equal, remembered
from pagoda import faults, online_layout
from pagoda.errors import Conflict, DependencyDown
from pagoda.features import USER_INTRADAY, items_in, queries_in
from pagoda.forgotten import consulted
from pagoda.online import connect
from pagoda.online_layout import Damaged, Keys, StampedRow
from pagoda.redis_line import Asked, Line
from pagoda.settings import Settings
from pagoda.windows import Candidates, WindowSpec

log = structlog.get_logger(__name__)
VIEW = USER_INTRADAY
_TRIES = 10
# KEYS: the entity; ARGV: the stamp's field, the stamp that was read, then fields and values.
_SWAP = """
if (redis.call('HGET', KEYS[1], ARGV[1]) or '') ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], unpack(ARGV, 3))
return 1
"""
_SWAP_SHA = hashlib.sha1(_SWAP.encode(), usedforsecurity=False).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Stored:
    """A user's row as it was read.

    Attributes:
        stamp: compared when the row is swapped; empty where there is no row.
        whole: whether every column is there.
        damage: why the row cannot be read; it then counts as holding nothing.
    """

    user: int
    stamp: bytes = b""
    valid_from_ms: int = 0
    candidates: Candidates = field(default_factory=Candidates)
    whole: bool = False
    damage: str = ""

    @property
    def known(self) -> Candidates | None:
        """What need not be written again; None where there is no row, or not a whole one."""
        return self.candidates if self.whole else None


class OnlineState:
    """The rows of `user_intraday` in the online store."""

    def __init__(self, settings: Settings, spec: WindowSpec) -> None:
        """Nothing is asked of Redis before the first call."""
        self._settings = settings
        self._spec = spec
        self._keys = Keys(VIEW.entity)
        fields = online_layout.fields(VIEW)
        self._stamp_field = online_layout.stamp_field(VIEW)
        self._client = connect(settings, retries=0)
        # Nothing is asked twice: a Redis that was away for a moment may have lost what it took.
        self._line = Line(self._client, retries=0)
        self._ping = self._line.pack([("PING",)])
        self._hmget = Asked(self._line, "HMGET", self._keys.of(0), *fields)

    def ping(self) -> None:
        """Raises: DependencyDown if Redis does not answer, or did not for a moment."""
        self._ask(self._ping, 1)

    def merge(self, arrivals: Mapping[int, Arrivals], *, now_ms: int) -> int:
        """Merge new messages into their users' rows; returns the number of rows written.

        A row that would not change is not written. Redis is asked in any case: whatever is
        committed after this was written before to a Redis that has not been restarted since.

        Raises: DependencyDown("redis", ...); Conflict if rows kept changing meanwhile.
        """
        with consulted(self._settings) as forgotten:
            return self._merge(
                {user: remembered(forgotten, user, each) for user, each in arrivals.items()},
                now_ms=now_ms,
            )

    def _merge(self, arrivals: Mapping[int, Arrivals], *, now_ms: int) -> int:
        waiting = list(arrivals)
        written = 0
        for _ in range(_TRIES):
            rows = self.read(waiting)
            after = advance_all(
                [stored.candidates for stored in rows],
                News.of([arrivals[stored.user] for stored in rows]),
                now_ms=now_ms,
                spec=self._spec,
            )
            changed = [
                (stored, candidates)
                for stored, candidates in zip(rows, after, strict=True)
                if stored.damage or not equal(candidates, stored.candidates)
            ]
            faults.point("sequences.read")
            swapped = self.swap(changed, now_ms=now_ms)
            faults.point("sequences.written")
            written += sum(swapped)
            waiting = [
                stored.user for (stored, _), done in zip(changed, swapped, strict=True) if not done
            ]
            if not waiting:
                return written
            log.info("rows_changed_meanwhile", rows=len(waiting))
        raise Conflict("online rows changed again and again while they were merged")

    def read(self, users: Sequence[int]) -> list[Stored]:
        """The users' rows. Raises: DependencyDown("redis", ...)."""
        asked = self._hmget.of(map(self._keys.of, users))
        answers = self._ask([*self._ping, asked], 1 + len(users))
        rows = online_layout.decode([(VIEW, held) for held in answers[1:]])
        return [
            _stored(user, held, row)
            for user, held, row in zip(users, answers[1:], rows, strict=True)
        ]

    def swap(self, rows: Sequence[tuple[Stored, Candidates]], *, now_ms: int) -> list[bool]:
        """Put these candidates in the place of the rows that were read.

        Returns: for each whether it was; a row that has changed since is left alone.
        Raises: DependencyDown("redis", ...).
        """
        if not rows:
            return []
        columns = online_layout.encode(
            VIEW, [changed_columns(stored.known, candidates) for stored, candidates in rows]
        )
        commands: list[tuple[Any, ...]] = [("SCRIPT", "LOAD", _SWAP)]
        for (stored, _), held in zip(rows, columns, strict=True):
            # The stamp steps forward whatever the clock does: it never comes twice.
            valid_from_ms = max(now_ms, stored.valid_from_ms + 1)
            held[self._stamp_field] = online_layout.stamp(valid_from_ms)
            swapped = (self._stamp_field, stored.stamp, *chain(*held.items()))
            commands.append(("EVALSHA", _SWAP_SHA, 1, self._keys.of(stored.user), *swapped))
        answers = self._ask(self._line.pack(commands), len(commands))
        return [bool(done) for done in answers[1:]]

    def users(self) -> list[int]:
        """Every user that has a row of any view. Raises: DependencyDown("redis", ...)."""
        try:
            keys = list(self._client.scan_iter(count=10_000))
        except redis.RedisError as error:
            raise DependencyDown("redis", str(error)) from error
        found = (self._keys.entity_of(key) for key in keys)
        return [user for user in found if user is not None]

    def _ask(self, packed: list[bytes], count: int) -> list[Any]:
        try:
            return self._line.ask(packed, count)
        except redis.RedisError as error:
            raise DependencyDown("redis", str(error)) from error


def _stored(user: int, held: Sequence[bytes | None], row: StampedRow | Damaged | None) -> Stored:
    """A damaged row must not stop the stream: it is said loudly and starts anew."""
    if row is None:
        return Stored(user=user)
    stamp = held[-1] or b""
    try:
        if isinstance(row, Damaged):
            raise row
        return Stored(
            user=user,
            stamp=stamp,
            valid_from_ms=row.valid_from_ms,
            # As they lie there: `advance_all` sorts.
            candidates=Candidates(
                clicks=items_in(row.values, "click"), queries=queries_in(row.values)
            ),
            whole=None not in held,
        )
    except (Damaged, ValueError, TypeError) as error:  # the latter: columns that do not fit
        log.error("damaged_row", user_key=user, reason=str(error))
        return Stored(
            user=user,
            stamp=stamp,
            valid_from_ms=online_layout.time_in(stamp) or 0,
            damage=str(error) or type(error).__name__,
        )
