"""Write every user's real-time sequences again, from the lake and Kafka, while the stream is live.

    row read -> topics read up to their ends -> what is known, cut to the stream's days -> swap

Not merged into what is there, but put in its place: so it heals rows that are missing, damaged or
hold what never happened. Nothing that the live consumer wrote gets lost: when the topics' ends are
asked, all that ever entered the row is in Kafka or in the lake, and the swap succeeds only if
nobody has written the row since it was read; else that row is read again (ADR 8).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from jobs.stream.click_actions import ClickActions
from jobs.stream.known import LakePart, TopicsPart
from jobs.stream.merge import Arrivals, News, advance, advance_all, equal, remembered
from jobs.stream.state import OnlineState, Stored
from pagoda.errors import Conflict
from pagoda.features import CANDIDATES
from pagoda.forgotten import Forgotten, consulted, copying
from pagoda.settings import Settings
from pagoda.windows import DAY_MS, Candidates, WindowSpec, start_of_day

_USERS_AT_ONCE = 500
_TRIES = 20
_SYNC_S = 2.0  # Redis syncs its log once a second
Progress = Callable[[int, int], None]
"""Called with how many users are done, of how many that are known so far."""


@dataclass(kw_only=True)
class Rebuilt:
    """What was found and done.

    Attributes:
        users: looked at: whoever did something in the stream's days or has a row.
        missing, damaged: rows that were not there or could not be read.
        wrong: rows that held what never happened.
        behind: rows that lacked something: it was lost, or just on its way through the consumer.
        written: rows swapped; in a dry run none.
        again: rows that the live consumer wrote meanwhile: read and swapped once more.
        lake_users: of these users the lake knows something.
        records: read from Kafka, beyond what has landed.
        lost: partitions of which Kafka has deleted what has not landed: rows are then merged with
            what is known instead of replaced by it.
    """

    dry_run: bool
    users: int = 0
    missing: int = 0
    damaged: int = 0
    wrong: int = 0
    behind: int = 0
    written: int = 0
    again: int = 0
    lake_users: int = 0
    records: int = 0
    lost: list[str] = field(default_factory=list)
    seconds: float = 0.0


def rebuild(
    settings: Settings,
    *,
    dry_run: bool,
    clock_ms: Callable[[], int],
    progress: Progress,
) -> Rebuilt:
    """Swap in the right row of every user whose row is another; in a dry run only count.

    Raises: DependencyDown if a server is or was away: then run it again; Conflict if a user's row
    changed faster than it could be read.
    """
    with copying(settings), consulted(settings) as forgotten:
        return _rebuild(settings, forgotten, dry_run=dry_run, clock_ms=clock_ms, progress=progress)


def _rebuild(
    settings: Settings,
    forgotten: Forgotten,
    *,
    dry_run: bool,
    clock_ms: Callable[[], int],
    progress: Progress,
) -> Rebuilt:
    started = time.monotonic()
    spec = CANDIDATES
    since_ms = start_of_day(clock_ms()) - spec.batch_delay_days * DAY_MS
    actions = sorted(ClickActions(settings).current)
    state = OnlineState(settings, spec)
    online = state.users()
    lake = LakePart(settings, since_ms=since_ms, click_actions=actions)
    topics = TopicsPart(settings, lake.landed, since_ms=since_ms, click_actions=actions)
    done = Rebuilt(dry_run=dry_run, lost=topics.lost)
    try:
        topics.read_on()
        found = {*online, *topics.users()}
        for part in lake.ranges():
            known = lake.read(part)
            done.lake_users += len(known)
            users = sorted({*known, *(user for user in found if user in part)})
            for portion in _portions(users):
                _portion(
                    portion, known, topics, state, done, forgotten, spec=spec, clock_ms=clock_ms
                )
                done.users += len(portion)
                progress(done.users, max(len(found | known.keys()), done.users))
        if done.written:
            time.sleep(_SYNC_S)
            state.ping()  # the connection that wrote still stands: all of it is on the disk
    finally:
        topics.close()
    done.records = topics.records
    done.seconds = round(time.monotonic() - started, 1)
    return done


def _portion(
    users: Sequence[int],
    known: dict[int, Candidates],
    topics: TopicsPart,
    state: OnlineState,
    done: Rebuilt,
    forgotten: Forgotten,
    *,
    spec: WindowSpec,
    clock_ms: Callable[[], int],
) -> None:
    waiting = users
    for attempt in range(_TRIES):
        rows = state.read(waiting)
        topics.read_on()  # not before the rows were read
        now_ms = clock_ms()
        faulty = []
        all_before, all_wanted = _judged(rows, known, topics, forgotten, now_ms=now_ms, spec=spec)
        if done.lost:
            all_wanted = advance_all(all_wanted, News.known(all_before), now_ms=now_ms, spec=spec)
        for stored, before, wanted in zip(rows, all_before, all_wanted, strict=True):
            fault = fault_of(stored, before, wanted, now_ms=now_ms, spec=spec)
            if fault and not attempt:
                setattr(done, fault, getattr(done, fault) + 1)
            if fault:
                faulty.append((stored, wanted))
        if done.dry_run:
            return
        swapped = state.swap(faulty, now_ms=now_ms)
        done.written += sum(swapped)
        waiting = [stored.user for (stored, _), ok in zip(faulty, swapped, strict=True) if not ok]
        if not waiting:
            return
        done.again += len(waiting)
    raise Conflict(
        "rows changed faster than they could be read",
        found=f"{len(waiting)} users",
        next_step="Run it again when less is going on.",
    )


def _judged(
    rows: list[Stored],
    known: dict[int, Candidates],
    topics: TopicsPart,
    forgotten: Forgotten,
    *,
    now_ms: int,
    spec: WindowSpec,
) -> tuple[list[Candidates], list[Candidates]]:
    """What rows hold of what counts at this moment, and what they ought to."""
    nothing = News.of([Arrivals() for _ in rows])
    held = advance_all([each.candidates for each in rows], nothing, now_ms=now_ms, spec=spec)
    wanted = advance_all(
        [known.get(each.user, Candidates()) for each in rows],
        News.of([remembered(forgotten, each.user, topics.of(each.user)) for each in rows]),
        now_ms=now_ms,
        spec=spec,
    )
    return held, wanted


def fault_of(
    stored: Stored, before: Candidates, wanted: Candidates, *, now_ms: int, spec: WindowSpec
) -> Literal["", "missing", "damaged", "wrong", "behind"]:
    """What is the matter with a row that holds `before`, if anything."""
    if stored.damage:
        return "damaged"
    if equal(before, wanted):
        return ""
    if not stored.stamp:
        return "missing"
    adds = not equal(advance(wanted, before, now_ms=now_ms, spec=spec), wanted)
    return "wrong" if adds else "behind"


def _portions(users: Sequence[int]) -> Iterator[Sequence[int]]:
    for start in range(0, len(users), _USERS_AT_ONCE):
        yield users[start : start + _USERS_AT_ONCE]
