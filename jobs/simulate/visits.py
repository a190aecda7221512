"""Who comes when, and what for: the searches of shoppers and robots.

    daily()     of one simulated day: visits follow the hours, and all end on that UTC day
    streamed()  one visit of everybody within minutes, for a stream that happens now

Shape legend: V visits, S searches.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from jobs.simulate import tastes
from jobs.simulate.behaviour import ROBOT_DAYS, ROBOTS, Simulation
from jobs.simulate.catalogue import Catalogue
from jobs.simulate.draws import Floats, Ints, Keys, between, integers, keys, uniform, within

SHOPPER = -1  # no robot
NO_ITEM = -1
VISIT_S = 240  # within this the visits of a stream begin; robots run as long

_PAUSE_MS = 110_000  # between two searches of a shopper, on average
_JITTER = 0.5  # up to what share of the pause a search comes later
_MOST_VISITS, _MOST_SEARCHES = 3, 6  # of a shopper's day; of a visit
_LAST_START_S = 23.5 * 3600  # so that each visit ends on its own UTC day
# Share of visits that begin before each hour: few at night, most in the evening.
_HOURS_S = np.array([0, 6, 8, 12, 14, 17, 19, 22, 23.5]) * 3600
_BEGUN = np.array([0, 0.04, 0.10, 0.32, 0.42, 0.57, 0.72, 0.95, 1])
_WHO, _VISIT = (np.array(100 + kind) for kind in range(2))


@dataclass(frozen=True, kw_only=True, eq=False)
class Searches:
    """Searches and what their users want, in the order of users; arrays [S].

    Attributes:
        nth: number within the user's day (or visit, in a stream).
        at_ms: since the beginning of the day (or of the visits).
        shelf, brand, price_level: what the shopper wants.
        query: a position in `Catalogue.queries`.
        robot: a position in ROBOTS, or SHOPPER.
        target: the item that a robot is after, or NO_ITEM.
        key: for draws that concern one search.
    """

    user: Ints
    nth: Ints
    at_ms: Ints
    shelf: Ints
    brand: Ints
    price_level: Floats
    query: Ints
    robot: Ints
    target: Ints
    key: Keys

    def __len__(self) -> int:
        return len(self.user)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Visits:
    """Visits of `count` searches each, numbered from `first` on; arrays [V]."""

    user: Ints
    first: Ints
    start_ms: Ints
    count: Ints
    pause_ms: Ints

    def and_those(self, other: _Visits) -> _Visits:
        """Both, in the order of users."""
        both = {
            each.name: np.concatenate([getattr(self, each.name), getattr(other, each.name)])
            for each in fields(self)
        }
        order = np.argsort(both["user"], kind="stable")
        return _Visits(**{name: values[order] for name, values in both.items()})


def daily(simulation: Simulation, catalogue: Catalogue, user: Ints, day: int) -> Searches:
    """What these users search on a day."""
    robot = robot_of(simulation, user)
    whose = keys(simulation.seed, _VISIT, user, np.array(day))
    runs = (robot != SHOPPER) & (uniform(whose, "runs") < ROBOT_DAYS)
    visits = _of_day(simulation, user[robot == SHOPPER], whose[robot == SHOPPER]).and_those(
        _of_robots(user[runs], robot[runs], whose[runs], within_s=_LAST_START_S)
    )
    return _searches(simulation, catalogue, visits, day)


def streamed(simulation: Simulation, catalogue: Catalogue, user: Ints, number: int) -> Searches:
    """What these users search on their visit of that number."""
    robot = robot_of(simulation, user)
    whose = keys(simulation.seed, _VISIT, user, np.array(number))
    people = robot == SHOPPER
    shoppers = _Visits(
        user=user[people],
        first=np.zeros(people.sum(), np.int64),
        start_ms=between(whose[people], "start", 0, VISIT_S * 1000),
        count=_count(whose[people]),
        pause_ms=np.full(people.sum(), _PAUSE_MS),
    )
    robots = _of_robots(user[~people], robot[~people], whose[~people], within_s=VISIT_S)
    return _searches(simulation, catalogue, shoppers.and_those(robots), number)


def robot_of(simulation: Simulation, user: Ints) -> Ints:
    """Which of ROBOTS each user is, or SHOPPER."""
    who = keys(simulation.seed, _WHO, user)
    kind = integers(who, "kind of robot", len(ROBOTS))
    return np.where(uniform(who, "robot") < simulation.behaviour.robots, kind, SHOPPER)


def _of_day(simulation: Simulation, user: Ints, whose: Keys) -> _Visits:
    # Many shoppers come rarely, few nearly every day.
    chance = 0.05 + 0.75 * uniform(keys(simulation.seed, _WHO, user), "activity") ** 2
    # A second visit is as likely as the first one was, and so is a third.
    likely = chance[:, None] ** np.arange(1, _MOST_VISITS + 1)
    visits = (uniform(whose, "visits")[:, None] < likely).sum(axis=1)
    who, number = np.repeat(np.arange(len(user)), visits), numbers(visits)
    visit = within(whose[who], number)
    # Each visit in a part of the day of its own: they do not overlap.
    part = (number + uniform(visit, "start")) / visits[who]
    return _Visits(
        user=user[who],
        first=number * _MOST_SEARCHES,
        start_ms=(np.interp(part, _BEGUN, _HOURS_S) * 1000).astype(np.int64),
        count=_count(visit),
        pause_ms=np.full(len(who), _PAUSE_MS),
    )


def _count(visit: Keys) -> Ints:
    """How many searches a visit makes: each is the last one with a chance of a half."""
    halvings = -np.log2(1 - uniform(visit, "searches"))
    return np.minimum(1 + halvings.astype(np.int64), _MOST_SEARCHES)


def _of_robots(user: Ints, robot: Ints, whose: Keys, *, within_s: float) -> _Visits:
    """One run of each, all of it within that time."""
    (least, most), (quick, slow) = (
        np.array([getattr(each, name) for each in ROBOTS])[robot].T
        for name in ("searches", "pause_s")
    )
    pause_s = quick + uniform(whose, "pause") * (slow - quick)
    count = least + integers(whose, "searches", most - least + 1)
    count = np.clip(count, 1, np.maximum(within_s / pause_s - 1, 1).astype(np.int64))
    room_s = np.maximum(within_s - (count + 1) * pause_s, 0)
    return _Visits(
        user=user,
        first=np.zeros(len(user), np.int64),
        start_ms=((pause_s + uniform(whose, "start") * room_s) * 1000).astype(np.int64),
        count=count,
        pause_ms=(pause_s * 1000).astype(np.int64),
    )


def _searches(simulation: Simulation, catalogue: Catalogue, visits: _Visits, day: int) -> Searches:
    of, place = np.repeat(np.arange(len(visits.user)), visits.count), numbers(visits.count)
    user, nth = visits.user[of], visits.first[of] + place
    key = keys(simulation.seed, _VISIT, user, np.array(day), nth, np.array(1))
    pause_ms = visits.pause_ms[of]
    jitter = uniform(key, "jitter") * _JITTER * pause_ms
    robot = robot_of(simulation, user)
    shelf, liked = _wanted(simulation, catalogue, user, day, key)
    targeted = np.array([*(each.targeted for each in ROBOTS), False])[robot]
    target = integers(keys(simulation.seed, _WHO, user), "target", len(catalogue.shelf))
    shelf = np.where(targeted, catalogue.shelf[target], shelf)
    liked = np.where(targeted, target, liked)
    return Searches(
        user=user,
        nth=nth,
        at_ms=visits.start_ms[of] + place * pause_ms + jitter.astype(np.int64),
        shelf=shelf,
        brand=catalogue.brand[liked],
        price_level=tastes.price_level(simulation, user, day),
        query=_query(catalogue, key, shelf, liked, by_title=targeted),
        robot=robot,
        target=np.where(targeted, target, NO_ITEM),
        key=key,
    )


def _wanted(
    simulation: Simulation, catalogue: Catalogue, user: Ints, day: int, key: Keys
) -> tuple[Ints, Ints]:
    """The shelf that each search is for, and the item on it that its shopper likes."""
    favourites = simulation.behaviour.favourites
    place = np.searchsorted(np.cumsum(favourites), uniform(key, "favourite"), side="right")
    anywhere = catalogue.shelf[integers(key, "anywhere", len(catalogue.shelf))]
    shelf = np.where(
        place < len(favourites),
        tastes.favourite_shelf(simulation, catalogue, user, day, place),
        anywhere,
    )
    return shelf, tastes.liked_item(simulation, catalogue, user, day, shelf)


def _query(
    catalogue: Catalogue, key: Keys, shelf: Ints, liked: Ints, *, by_title: npt.NDArray[np.bool_]
) -> Ints:
    """What is typed: mostly words of the shelf, else of the liked item's title or its brand."""
    start = catalogue.query_start[shelf]
    of_shelf = start + integers(key, "words", catalogue.query_start[shelf + 1] - start)
    form = np.where(by_title, 0.75, uniform(key, "form"))
    return np.select(
        [form < 0.7, form < 0.9],
        [of_shelf, catalogue.titles + liked],
        default=catalogue.branded + liked,
    )


def numbers(counts: Ints) -> Ints:
    """0, 1, ... for each count, one after the other."""
    return np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
