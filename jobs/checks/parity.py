"""Law 4: what serving reads online equals what Feast's history gives for the same moment.

    sample users -> read them online, each at a fair moment -> wait until the lake holds the same
    offsets -> build today's features -> Feast's historical features -> cut both -> compare

Element by element, while events arrive. `jobs.checks.served_parity` does the same for requests
that were served.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, Gauge

from jobs.checks.compare import elements
from jobs.checks.explain import Difference, Pair, explain
from jobs.checks.offline_side import (
    build_days,
    historical_rows,
    late_users,
    robot_users,
    sample_users,
)
from jobs.checks.online_side import Observation, observe, windows_of
from jobs.checks.positions import Positions
from pagoda import dataset, textfile, topics
from pagoda.errors import NothingToDo
from pagoda.features import CANDIDATES, SEQUENCES_V1
from pagoda.online import OnlineReader
from pagoda.settings import Settings
from pagoda.windows import WindowSpec

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_ROUNDS = 8
TIMEOUT_S = 120.0


@dataclass(frozen=True, kw_only=True)
class Report:
    """What parity found.

    Attributes:
        name: `online` for users read now, `served` for requests that were served.
        compared: users or requests whose windows were compared; elements: how many those hold.
        different: every element that only one side has, explained.
        skipped: why some could not be compared, to their ids.
    """

    name: str
    compared: int
    elements: int
    different: list[Difference] = field(default_factory=list)
    skipped: Mapping[str, Sequence[str]] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def equal(self) -> bool:
        """Whether nothing differs."""
        return not self.different

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {"equal": self.equal, **asdict(self)}

    def publish(self, settings: Settings) -> None:
        """As metrics, for Prometheus and for Airflow's UI."""
        registry = CollectorRegistry()
        what = f"pagoda_parity_{self.name}"
        for name, help_text, value in (
            ("compared", "Compared with Feast's history", self.compared),
            ("elements", "Elements of the windows compared", self.elements),
            ("differences", "Elements that only one side has", len(self.different)),
            ("seconds", "How long the check took", self.seconds),
            ("checked_timestamp_seconds", "When the check ended", time.time()),
        ):
            Gauge(f"{what}_{name}", help_text, registry=registry).set(value)
        skipped = Gauge(f"{what}_skipped", "Not compared", ["reason"], registry=registry)
        for reason, ids in self.skipped.items():
            skipped.labels(reason).set(len(ids))
        textfile.write(settings, f"parity_{self.name}", registry)


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
    spec = CANDIDATES
    clicks = dataset.load(settings).click_actions
    with topics.admin(settings) as admin:
        positions = Positions(settings, admin)
        say("waiting until landing has reached the topics' ends")
        positions.wait_landed(positions.ends(), TIMEOUT_S)
        names = sample_users(
            settings, users=users, days=spec.recent_days + spec.long_term_days, now_ms=now_ms()
        )
        say(f"reading {len(names)} users online")
        observed = observe(
            list(names),
            reader=OnlineReader(settings, SEQUENCES_V1),
            positions=positions,
            clock_ms=now_ms,
            rounds=_ROUNDS,
            timeout_s=TIMEOUT_S,
            spec=spec,
        )
        say("waiting until landing has reached the same offsets")
        positions.wait_landed(observed.ends, TIMEOUT_S)
    late = (
        late_users(settings, observed.taken, spec, click_actions=clicks)
        if observed.taken
        else set()
    )
    seen = [each for each in observed.taken if each.user_key not in late]
    if not seen:
        raise NothingToDo(
            "no user could be compared",
            found=f"{len(names)} users, of them {len(observed.moving)} moving, {len(late)} late",
            next_step="Import data or send events first; late ones wait for the next batch.",
        )
    return compare(
        session,
        settings,
        seen,
        name="online",
        skipped={
            "moving": [names[user] for user in observed.moving],
            "late": [names[user] for user in sorted(late)],
        },
        click_actions=clicks,
        spec=spec,
        say=say,
        started=started,
    )


def compare(
    session: SparkSession,
    settings: Settings,
    seen: Sequence[Observation],
    *,
    name: str,
    skipped: Mapping[str, Sequence[str]],
    click_actions: Collection[str],
    spec: WindowSpec,
    say: Callable[[str], None],
    started: float,
) -> Report:
    """What was seen online beside Feast's history at the same moments.

    Args:
        name, skipped: for the report; started: by the monotonic clock, for its seconds.
    """
    moments = [(each.user_key, each.t_ms) for each in seen]
    say("building the features of the days concerned")
    build_days(session, settings, moments, SEQUENCES_V1)
    robots = robot_users(settings, seen, spec)
    seen = [each for each in seen if each.user_key not in robots]
    if not seen:
        raise NothingToDo("every user that could be compared is a robot", found=f"{len(robots)}")
    moments = [(each.user_key, each.t_ms) for each in seen]
    say(f"asking Feast for the history of {len(seen)} moments")
    offline = historical_rows(settings, moments, SEQUENCES_V1)
    pairs = [
        Pair(seen=each, offline=windows_of(offline[moment], each.t_ms, spec))
        for each, moment in zip(seen, moments, strict=True)
    ]
    return Report(
        name=name,
        compared=len(pairs),
        elements=sum(len(held) for pair in pairs for held in elements(pair.offline).values()),
        different=explain(settings, pairs, click_actions=click_actions, spec=spec),
        skipped={**skipped, "robots": [str(user) for user in sorted(robots)]},
        seconds=round(time.monotonic() - started, 1),
    )


def now_ms() -> int:
    """The clock, epoch milliseconds."""
    return time.time_ns() // 1_000_000
