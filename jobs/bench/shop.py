"""The simulated events of `pagoda bench features`, in the lake of a home of the bench's own.

    jobs.simulate over a made-up catalogue -> lake.events, lake.searches, lake.items, lake.robots

Impressions are left out: features do not read them, so they would only flatter the rates. Robots
are judged by production's rules. A home that holds the events already is taken as it is.
"""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from datetime import date, timedelta

import numpy as np
import polars as pl
import pyarrow as pa
from pyspark.sql import SparkSession

from jobs.batch import robots
from jobs.imports.run import run_import
from jobs.simulate import catalogue as catalogues
from jobs.simulate.behaviour import Behaviour, Simulation
from jobs.simulate.source import Simulated
from pagoda import lake, spark
from pagoda.ids import key_of
from pagoda.schemas import EVENTS, ITEMS, SEARCHES
from pagoda.settings import Settings

FIRST = date(2026, 9, 1)
DAYS = 31
_SHELVES, _PER_SHELF = 200, 50
# Of the simulator's shoppers and robots; what came of it is counted and reported.
_MESSAGES_PER_USER_DAY = 2.08
_ROBOTS = 0.0005  # share of users; by default a third of all events would be theirs


@dataclass(frozen=True, kw_only=True)
class Shop:
    """What the lake holds.

    Attributes:
        events: rows of `events` and `searches`.
        busiest: share of them that the busiest hundredth of the users made.
        robot_days: user-days that features leave out.
    """

    seed: int
    asked: int
    events: int
    users: int
    busiest: float
    robot_days: int


def days() -> list[date]:
    """The UTC days that are simulated, and built."""
    return [FIRST + timedelta(days=each) for each in range(DAYS)]


def prepare(
    settings: Settings, *, events: int, seed: int, session: SparkSession | None = None
) -> Shop:
    """Have about so many simulated events in this home's lake, judged for robots.

    Args:
        session: for judging; one of its own unless given.
    """
    said = settings.home / "shop.json"
    if said.exists():
        shop = Shop(**json.loads(said.read_text()))
        if (shop.asked, shop.seed) == (events, seed):
            return shop
    users = max(1, round(events / DAYS / _MESSAGES_PER_USER_DAY))
    simulation = Simulation(
        seed=seed, users=users, first_day=FIRST, days=DAYS, behaviour=Behaviour(robots=_ROBOTS)
    )
    catalogue = catalogues.of_rows(_items(seed))
    run_import(settings, Simulated(simulation, catalogue, impressions=False), replace=True)
    lake.create_all(settings)
    with nullcontext(session) if session else spark.session(settings, "robots") as used:
        robots.judge(used, settings, first=FIRST, last=days()[-1])
        robot_days = robots.user_days(used, settings, first=FIRST, last=days()[-1])
    total, by_user = _events_of_users(settings)
    busiest = int(by_user.head(max(1, len(by_user) // 100)).sum())
    shop = Shop(
        seed=seed,
        asked=events,
        events=total,
        users=len(by_user),
        busiest=round(busiest / total, 3),
        robot_days=robot_days,
    )
    said.write_text(json.dumps(asdict(shop)))
    return shop


def _items(seed: int) -> pa.Table:
    dice = np.random.default_rng(seed)
    rows = [
        {
            "item_id": f"{shelf}-{place}",
            "item_key": key_of("item", f"{shelf}-{place}"),
            "title": f"thing {place} of kind {shelf}",
            "brand": f"brand {dice.integers(20)}",
            "leaf_category": f"kind {shelf}",
            "category": f"sort {shelf // 10}",
            "price": round(float(dice.lognormal(2, 1)), 2),
            "attributes": [],
        }
        for shelf in range(_SHELVES)
        for place in range(_PER_SHELF)
    ]
    names = ITEMS.schema.names
    full = [{name: row.get(name) for name in names} for row in rows]
    nullable = pa.schema([field.with_nullable(True) for field in ITEMS.schema])
    return pa.Table.from_pylist(full, schema=nullable)


def _events_of_users(settings: Settings) -> tuple[int, pl.Series]:
    """How many events there are, and how many of each user, the busiest first."""
    by_user = (
        pl.concat([lake.scan(settings, table).select("user_key") for table in (EVENTS, SEARCHES)])
        .group_by("user_key")
        .len()
        .sort("len", descending=True)
        .collect(engine="streaming")["len"]
    )
    return int(by_user.sum()), by_user
