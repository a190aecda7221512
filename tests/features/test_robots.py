"""Robots are recognised by rule and leave no trace in features; people are never hit."""

from __future__ import annotations

from collections import Counter
from datetime import date, timedelta
from typing import Any

import numpy as np
import pytest
from pyspark.sql import SparkSession

from jobs.batch import build, robots
from jobs.batch.build import Days
from jobs.checks.offline_side import robot_users
from jobs.checks.online_side import Observation
from pagoda import dataset, features, lake
from pagoda.ids import key_of
from pagoda.schemas import ROBOTS
from pagoda.settings import Robots, Settings
from pagoda.windows import WindowSpec
from tests.conftest import Home
from tests.features import arrivals as generated
from tests.features.arrivals import DAY, FIRST, LAST
from tests.oracles import robots as oracle
from tests.oracles.features import Arrival, day_number
from tests.oracles.windows import Happening
from training.data.lines import Span, events_before, lines

pytestmark = pytest.mark.spark

MORNING = generated.midnight(FIRST) + 8 * 3_600_000
# So small that untidy histories break each of them now and then.
STRICT = Robots(
    events_per_day=12,
    events_per_item=4,
    acts_per_hour=5,
    quick_ms=2_000,
    quick_acts=1,
    clicked_share=0.6,
    clicked_items=2,
)
Verdicts = dict[oracle.Verdict, float]


def did(user: str, action: str, item: int, ms: int) -> Arrival:
    """A user does something with an item so long after the morning of the first day."""
    ts = MORNING + ms
    key = key_of("event", f"{user} {action} {item} {ms}")
    what: int | str = f"words {item}" if action == "search" else item
    return Arrival(
        user=user, ingested=ts, happening=Happening(ts=ts, key=key, what=what, action=action)
    )


def judged(spark: SparkSession, settings: Settings, users: list[str]) -> Verdicts:
    """Judge the generated days, and a month before; what the table then says."""
    first = FIRST - timedelta(days=40)
    robots.judge(spark, settings, first=first, last=LAST)
    names = {key_of("user", user): user for user in users}
    rows = lake.open_table(settings, ROBOTS).scan().to_arrow().to_pylist()
    return {
        (names[row["user_key"]], row["day"].toordinal(), row["rule"]): row["value"] for row in rows
    }


def limited(settings: Settings, limits: Robots) -> Settings:
    return settings.model_copy(update={"robots": limits})


def test_untidy_histories_are_judged_as_by_hand(spark: SparkSession, home: Home) -> None:
    rng = np.random.default_rng(8)
    users = {f"judged-{n}": generated.of_user(f"judged-{n}", rng) for n in range(150)}
    found = [each for arrived in users.values() for each in arrived]
    settings = limited(home("judged"), STRICT)
    generated.fill_lake(settings, found)
    verdicts = judged(spark, settings, list(users))
    expected = oracle.verdicts(found, STRICT.model_dump())
    assert verdicts == pytest.approx(expected)
    by_rule = Counter(rule for _, _, rule in expected)
    assert set(by_rule) == {rule.name for rule in robots.RULES}, by_rule
    assert len({(user, day) for user, day, _ in expected}) < 0.7 * len(
        {(each.user, day_number(each.happening.ts)) for each in found}
    )


def test_each_limit_may_be_reached_and_not_exceeded(spark: SparkSession, home: Home) -> None:
    limits, pause = Robots(), 15_000

    def clicking(user: str, moments: list[int], item: int | None = None) -> list[Arrival]:
        return [did(user, "click", n if item is None else item, at) for n, at in enumerate(moments)]

    def shown(user: str, items: int, clicked: int) -> list[Arrival]:
        pages = [did(user, "impression", item, item) for item in range(items)]
        return pages + clicking(user, [60_000 + pause * n for n in range(clicked)])

    hour = 3_600_000
    people = [
        [did("wholesaler", "buy", n, 5) for n in range(limits.events_per_day)],
        clicking("fond", [pause * n for n in range(limits.events_per_item)], item=1),
        clicking("busy", [hour * (n // 300) + 11_000 * (n % 300) for n in range(900)]),
        clicking("sleepless", [hour * n - 8 * hour for n in range(24)]),
        clicking("twitchy", [150 * n for n in range(limits.quick_acts + 1)]),
        clicking("steady", [limits.quick_ms * n for n in range(100)]),
        shown("keen", 100, 90),
        shown("lucky", 29, 29),
        [did("family", "buy", n, 0) for n in range(200)]
        + [did("family", "search", n, 0) for n in range(200)],
        [did("till", "buy", n, 10 * n) for n in range(200)],
    ]
    machines = {
        "events_per_day": [did("r1", "buy", n, 5) for n in range(limits.events_per_day + 1)],
        "events_per_item": clicking("r2", [pause * n for n in range(31)], item=1),
        "acts_per_hour": clicking("r3", [11_000 * n for n in range(301)]),
        "quick_acts": clicking("r5", [150 * n for n in range(limits.quick_acts + 2)]),
        "clicked_share": shown("r6", 100, 91),
    }
    settings = home("limits")
    everybody = [*people, *machines.values()]
    generated.fill_lake(settings, [each for arrived in everybody for each in arrived])
    users = [arrived[0].user for arrived in everybody]
    verdicts = judged(spark, settings, users)
    assert {(user, rule) for user, _, rule in verdicts} == {
        (arrived[0].user, rule) for rule, arrived in machines.items()
    }


# Features ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shops(spark: SparkSession, home: Home) -> tuple[Settings, Settings, list[dict[str, Any]]]:
    """Two lakes: one with robots' days in it, one in which those days never happened. All views
    are built in both; and what the first build said.
    """
    rng = np.random.default_rng(9)
    found = [
        each for n in range(25) for each in generated.of_user(f"mixed-{n}", rng) if n % 5 or n == 0
    ]
    limits = Robots(events_per_day=25, acts_per_hour=8, quick_acts=3, quick_ms=60_000)
    hit = {(user, day) for user, day, _ in oracle.verdicts(found, limits.model_dump())}
    human = [each for each in found if (each.user, day_number(each.happening.ts)) not in hit]
    assert len(hit) > 5
    assert len(human) > 0.4 * len(found)
    with_robots, without = (limited(home(name), limits) for name in ("robots", "no_robots"))
    generated.fill_lake(with_robots, found)
    generated.fill_lake(without, human)
    days = Days(first=FIRST + timedelta(days=2), last=LAST)
    summary = build.build_all(spark, with_robots, days)
    build.build_all(spark, without, days)
    return with_robots, without, summary


def contents(settings: Settings, table: Any) -> list[dict[str, Any]]:
    rows = lake.open_table(settings, table).scan().to_arrow().to_pylist()
    return sorted(rows, key=str)


def test_features_are_as_if_robots_had_never_come(
    shops: tuple[Settings, Settings, list[dict[str, Any]]],
) -> None:
    with_robots, without, _ = shops
    for view in features.VIEWS:
        found = contents(with_robots, view.table)
        assert found
        assert found == contents(without, view.table), view.name


def test_training_lines_are_as_if_robots_had_never_come(
    shops: tuple[Settings, Settings, list[dict[str, Any]]],
) -> None:
    with_robots, without, _ = shops
    assert (
        events_before(with_robots, LAST)
        .sort(by="*")
        .equals(events_before(without, LAST).sort(by="*"))
    )


def test_the_summary_says_which_rules_were_broken_how_often(
    shops: tuple[Settings, Settings, list[dict[str, Any]]],
) -> None:
    with_robots, _, summary = shops
    rows = contents(with_robots, ROBOTS)
    said = {row["view"]: row["rows"] for row in summary if row["view"].startswith("robots")}
    expected = Counter(f"robots: {row['rule']}" for row in rows)
    expected["robots"] = len({(row["user_key"], row["day"]) for row in rows})
    assert said == expected
    assert len(said) > 2


def test_judging_again_changes_nothing(
    spark: SparkSession, shops: tuple[Settings, Settings, list[dict[str, Any]]]
) -> None:
    settings, _, _ = shops
    before = contents(settings, ROBOTS)
    robots.judge(spark, settings, first=FIRST - timedelta(days=28), last=LAST)
    assert contents(settings, ROBOTS) == before


def test_parity_passes_over_users_whose_windows_reach_a_robots_day(
    shops: tuple[Settings, Settings, list[dict[str, Any]]],
) -> None:
    settings, _, _ = shops
    at_ms = generated.midnight(LAST) + DAY // 2
    rows = contents(settings, ROBOTS)
    people = {key_of("user", "nobody")}
    seen = [
        Observation(user_key=key, t_ms=at_ms) for key in {row["user_key"] for row in rows} | people
    ]
    reached = {row["user_key"] for row in rows if row["day"] >= LAST - timedelta(days=30)}
    assert reached
    assert robot_users(settings, seen, WindowSpec()) == reached


def test_a_search_of_a_robots_day_makes_no_line(home: Home) -> None:
    """Nor does one whose click came on such a day."""
    settings = home("lines_of_people")
    users = ("person", "robot", "turned")
    found: list[Arrival] = []
    for user in users:
        ms = DAY - 60_000 - 8 * 3_600_000 if user == "turned" else 0
        found += [did(user, "search", 1, ms), did(user, "click", 1, ms + 120_000)]
    generated.fill_lake(settings, found)
    _name_searches(settings, found)
    record = dataset.load(settings).model_copy(update={"positive_actions": ("click",)})
    span = Span(first=FIRST, end=FIRST + timedelta(days=2))

    def of() -> set[str]:
        keys = set(lines(settings, record, span)["user_key"].to_list())
        return {user for user in users if key_of("user", user) in keys}

    assert of() == set(users)
    _hit(settings, "robot", FIRST)
    _hit(settings, "turned", FIRST + timedelta(days=1))
    _hit(settings, "person", FIRST - timedelta(days=1))
    assert of() == {"person"}


def _name_searches(settings: Settings, found: list[Arrival]) -> None:
    """Let each user's click name the user's search."""
    from pagoda.schemas import EVENTS

    searches = {
        each.user: str(each.happening.key) for each in found if each.happening.action == "search"
    }
    table = lake.open_table(settings, EVENTS)
    rows = table.scan().to_arrow().to_pylist()
    named = [row | {"search_id": searches[row["user_id"]]} for row in rows]
    import pyarrow as pa

    table.overwrite(pa.Table.from_pylist(named, schema=EVENTS.schema))


def _hit(settings: Settings, user: str, day: date) -> None:
    import pyarrow as pa

    row = {"user_key": key_of("user", user), "day": day, "rule": "any", "value": 2.0, "limit": 1.0}
    lake.open_table(settings, ROBOTS).append(pa.Table.from_pylist([row], schema=ROBOTS.schema))
