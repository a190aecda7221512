"""Law 4: what serving reads online equals what Feast's history gives for the same moment.

    sample users -> read them online, each at a fair moment -> wait until the lake holds the same
    offsets -> build today's features -> Feast's historical features -> cut both -> compare

Element by element, while events arrive. The windows are compared (real-time, short-term, long-term,
queries): what a model sees, not how rows happen to hold it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from jobs.checks.offline_side import (
    build_today,
    historical_rows,
    late_users,
    robot_users,
    sample_users,
)
from jobs.checks.online_side import Observation, observe, windows_of
from jobs.checks.positions import Positions
from pagoda import topics
from pagoda.errors import NothingToDo
from pagoda.features import SEQUENCES_V1
from pagoda.online import OnlineReader
from pagoda.sequences import Sequence as Behaviour
from pagoda.settings import Settings
from pagoda.windows import LONG_TERM_ACTIONS, Windows, WindowSpec

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_ROUNDS = 8
_TIMEOUT_S = 120.0
Element = tuple[int, int, Any]


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One window of one user that the two sides see differently.

    Attributes:
        only_online, only_offline: elements as "time event value", oldest first.
    """

    user: str
    t: str
    window: str
    only_online: list[str]
    only_offline: list[str]


@dataclass(frozen=True, kw_only=True)
class Report:
    """What parity found.

    Attributes:
        compared: users whose windows were compared; elements: how many elements those hold.
        moving: users whose online row changed in every round: not compared.
        late: users with messages that only the next batch can bring: not compared.
        robots: users whose windows reach a day on which they were robots: not compared.
    """

    compared: int
    elements: int
    different: list[Difference] = field(default_factory=list)
    moving: list[str] = field(default_factory=list)
    late: list[str] = field(default_factory=list)
    robots: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def equal(self) -> bool:
        """Whether nothing differs."""
        return not self.different

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {"equal": self.equal, **asdict(self)}


def check(
    session: SparkSession, settings: Settings, *, users: int, say: Callable[[str], None]
) -> Report:
    """Compare up to `users` users.

    Args:
        say: told what happens next.
    Raises: NothingToDo if nobody could be compared, CheckFailed if a reader does not catch up,
    DependencyDown if a server is away.
    """
    started = time.monotonic()
    spec = WindowSpec()
    with topics.admin(settings) as admin:
        positions = Positions(settings, admin)
        say("waiting until landing has reached the topics' ends")
        positions.wait_landed(positions.ends(), _TIMEOUT_S)
        names = sample_users(
            settings, users=users, days=spec.recent_days + spec.long_term_days, now_ms=_now_ms()
        )
        say(f"reading {len(names)} users online")
        observed = observe(
            list(names),
            reader=OnlineReader(settings, SEQUENCES_V1),
            positions=positions,
            clock_ms=_now_ms,
            rounds=_ROUNDS,
            timeout_s=_TIMEOUT_S,
            spec=spec,
        )
        say("waiting until landing has reached the same offsets")
        positions.wait_landed(observed.ends, _TIMEOUT_S)
    late = late_users(settings, observed.taken, spec) if observed.taken else set()
    seen = [each for each in observed.taken if each.user_key not in late]
    if not seen:
        raise NothingToDo(
            "no user could be compared",
            found=f"{len(names)} users, of them {len(observed.moving)} moving, {len(late)} late",
            next_step="Import data or send events first; late ones wait for the next batch.",
        )
    say("building today's features")
    build_today(session, settings, seen, SEQUENCES_V1)
    robots = robot_users(settings, seen, spec)
    seen = [each for each in seen if each.user_key not in robots]
    if not seen:
        raise NothingToDo("every user that could be compared is a robot", found=f"{len(robots)}")
    say(f"asking Feast for the history of {len(seen)} users")
    offline = historical_rows(settings, seen, SEQUENCES_V1)
    different: list[Difference] = []
    elements = 0
    for each in seen:
        windows = windows_of(offline[each.user_key], each.t_ms, spec)
        elements += sum(len(window) for _, window in _named(windows))
        different += differences(each, windows, name=names[each.user_key])
    return Report(
        compared=len(seen),
        elements=elements,
        different=different,
        moving=[names[user] for user in observed.moving],
        late=[names[user] for user in sorted(late)],
        robots=[names[user] for user in sorted(robots)],
        seconds=round(time.monotonic() - started, 1),
    )


def differences(seen: Observation, offline: Windows, *, name: str) -> list[Difference]:
    """Every window that differs, with what each side has alone."""
    t = datetime.fromtimestamp(seen.t_ms / 1000, UTC).isoformat(timespec="milliseconds")
    if seen.windows is None:
        damaged = Difference(
            user=name, t=t, window="all", only_online=[seen.damage], only_offline=[]
        )
        return [damaged]
    found = []
    for (window, online), (_, expected) in zip(_named(seen.windows), _named(offline), strict=True):
        if online == expected:
            continue
        ours, theirs = _elements(online), _elements(expected)
        found.append(
            Difference(
                user=name,
                t=t,
                window=window,
                only_online=_shown(ours, without=theirs),
                only_offline=_shown(theirs, without=ours),
            )
        )
    return found


def _named(windows: Windows) -> Iterator[tuple[str, Behaviour]]:
    yield "real_time", windows.real_time
    yield "short_term", windows.short_term
    for action in LONG_TERM_ACTIONS:
        yield f"long_term_{action}", windows.long_term[action]
    yield "queries", windows.queries


def _elements(window: Behaviour) -> list[Element]:
    return list(zip(window.ts.tolist(), window.event.tolist(), window.value.tolist(), strict=True))


def _shown(elements: Sequence[Element], *, without: Sequence[Element]) -> list[str]:
    known = set(without)
    return [
        f"{datetime.fromtimestamp(ts / 1000, UTC).isoformat(timespec='milliseconds')} "
        f"{event} {value}"
        for ts, event, value in elements
        if (ts, event, value) not in known
    ]


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
