"""The online side of parity: sampled users as serving reads them, each at a moment that is fair.

A row of `user_intraday` that was written at or after `t` may hold what nobody knew at `t`, so
such a user is moving and is taken again a moment later. All others hold at `t` exactly what Kafka
took before it, once the consumer has passed the topics' ends as they were at `t`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce

from jobs.checks.positions import Ends, Positions
from pagoda.errors import InputError
from pagoda.features import USER_DAY, USER_INTRADAY, candidates_of
from pagoda.online import OnlineReader, Row
from pagoda.windows import Candidates, Windows, WindowSpec, cut

_ROUND_S = 0.25


@dataclass(frozen=True, kw_only=True)
class Observation:
    """One user, read at moment `t_ms`.

    Attributes:
        windows: what serving's cut gives; None if a row could not be decoded.
        damage: why not.
        day_from_ms: the day whose `user_day` row was read, also one past its TTL; None without.
        request: the search that was served then, None for a user read now.
    """

    user_key: int
    t_ms: int
    windows: Windows | None = None
    day_from_ms: int | None = None
    damage: str = ""
    request: str | None = None


@dataclass(frozen=True, kw_only=True)
class Observed:
    """What the rounds gave: observations, users who never stood still, the last ends."""

    taken: list[Observation] = field(default_factory=list)
    moving: list[int] = field(default_factory=list)
    ends: Ends = field(default_factory=dict)


def observe(
    users: Sequence[int],
    *,
    reader: OnlineReader,
    positions: Positions,
    clock_ms: Callable[[], int],
    rounds: int,
    timeout_s: float,
    spec: WindowSpec,
) -> Observed:
    """Read every user at some moment when the row does not move. Changes nothing.

    `reader` must read `user_day` and `user_intraday`.
    """
    moving = list(users)
    taken: list[Observation] = []
    ends: Ends = {}
    for number in range(rounds):
        if number:
            time.sleep(_ROUND_S)
        t_ms = clock_ms()
        ends = positions.ends()
        positions.wait_consumed(ends, timeout_s)
        still, moving = _round(moving, t_ms, reader, spec)
        taken += still
        if not moving:
            break
    return Observed(taken=taken, moving=moving, ends=ends)


def _round(
    users: list[int], t_ms: int, reader: OnlineReader, spec: WindowSpec
) -> tuple[list[Observation], list[int]]:
    taken, moving = [], []
    for user in users:
        try:
            (stamped,) = reader.read_stamped([user])
        except InputError as error:
            taken.append(Observation(user_key=user, t_ms=t_ms, damage=str(error)))
            continue
        intraday, day = stamped[USER_INTRADAY.name], stamped[USER_DAY.name]
        if intraday is not None and intraday.valid_from_ms >= t_ms:
            moving.append(user)
            continue
        day_from_ms = day.valid_from_ms if day else None
        rows = reader.valid_at(stamped, t_ms)
        taken.append(observation(user, t_ms, rows, day_from_ms=day_from_ms, spec=spec))
    return taken, moving


def observation(
    user_key: int,
    t_ms: int,
    rows: Mapping[str, Row | None],
    *,
    day_from_ms: int | None,
    spec: WindowSpec,
    request: str | None = None,
) -> Observation:
    """What these rows show at `t_ms`; rows that cannot be cut are damage."""
    seen = Observation(user_key=user_key, t_ms=t_ms, day_from_ms=day_from_ms, request=request)
    try:
        return replace(seen, windows=windows_of(rows, t_ms, spec))
    except ValueError as error:  # lists of one sequence differ in length
        return replace(seen, damage=str(error))


def windows_of(rows: Mapping[str, Row | None], t_ms: int, spec: WindowSpec) -> Windows:
    """The cut that serving and training make of these rows."""
    both = [candidates_of(row) for row in rows.values() if row]
    return cut(reduce(Candidates.union, both, Candidates()), at_ms=t_ms, spec=spec)
