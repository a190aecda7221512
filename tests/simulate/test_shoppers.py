"""Simulated shoppers do what was configured, and the truth about them is true."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from datetime import UTC, date, datetime, timedelta

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.simulate import catalogue as catalogues
from jobs.simulate import tastes, visits
from jobs.simulate.behaviour import Behaviour, Simulation
from jobs.simulate.catalogue import Catalogue
from pagoda.errors import InputError, NothingToDo
from pagoda.messages import Event, Search, decode_event, decode_search, encode
from pagoda.schemas import ITEMS
from pagoda.windows import DAY_MS
from tests.simulate.conftest import PER_SHELF, SHELVES, World, item_rows, world_of

NO_TEXTS = dict.fromkeys(("title", "brand", "leaf_category", "category", "first_category"))
SMALL = Simulation(seed=2, users=300, days=2, behaviour=Behaviour(robots=0.05))


# The same seed ----------------------------------------------------------------------------------


@settings(max_examples=10)
@given(chunk_users=st.integers(7, 400))
def test_the_same_seed_gives_the_same_however_it_is_made(
    catalogue: Catalogue, chunk_users: int
) -> None:
    found, expected = (world_of(SMALL, catalogue, chunk_users=each) for each in (chunk_users, 300))
    for name in ("events", "searches", "impressions"):
        assert getattr(found, name).equals(getattr(expected, name)), name


def test_more_users_change_nothing_for_those_before(catalogue: Catalogue) -> None:
    fewer = world_of(Simulation(seed=2, users=100, days=2, behaviour=SMALL.behaviour), catalogue)
    more = world_of(SMALL, catalogue)
    theirs = fewer.users["user_id"].implode()
    for name in ("events", "searches", "impressions", "users"):
        of_them = getattr(more, name).filter(pl.col("user_id").is_in(theirs))
        assert of_them.equals(getattr(fewer, name)), name


def test_another_seed_gives_other_shoppers(catalogue: Catalogue) -> None:
    other = world_of(Simulation(seed=3, users=300, days=2), catalogue)
    ours = world_of(SMALL, catalogue)
    assert not set(other.searches["search_id"]) & set(ours.searches["search_id"])
    asked, also = (
        {
            (user.split("-")[-1], query)
            for user, query in each.select("user_id", "query").iter_rows()
        }
        for each in (ours.searches, other.searches)
    )
    assert len(asked & also) < 0.1 * min(len(asked), len(also))


# Clicks -----------------------------------------------------------------------------------------


def of_people(world: World) -> pl.DataFrame:
    return world.impressions.filter(pl.col("relevance").is_not_null())


def near(share: float, expected: float, count: int) -> bool:
    """Within five standard deviations of a binomial share."""
    return abs(share - expected) <= 5 * math.sqrt(expected * (1 - expected) / count) + 1e-12


def test_what_is_examined_falls_with_the_position_as_configured(world: World) -> None:
    bias = world.simulation.behaviour.position_bias
    by_position: dict[int, list[bool]] = defaultdict(list)
    for position, examined in of_people(world).select("position", "examined").iter_rows():
        by_position[position].append(examined)
    assert len(by_position) == world.simulation.behaviour.page
    for position, seen in by_position.items():
        assert near(sum(seen) / len(seen), (position + 1) ** -bias, len(seen)), position


def test_position_says_nothing_about_relevance(world: World) -> None:
    share = of_people(world)["relevance"].eq(2).mean()
    by_position = of_people(world).group_by("position").agg(pl.col("relevance").eq(2), pl.len())
    for found, count in by_position.select(pl.col("relevance").list.mean(), "len").iter_rows():
        assert near(found, float(share or 0), count)


def test_examined_results_are_clicked_by_relevance_and_by_mistake_as_configured(
    world: World,
) -> None:
    behaviour = world.simulation.behaviour
    counts: dict[int, Counter[str | None]] = defaultdict(Counter)
    for relevance, examined, why in (
        of_people(world).select("relevance", "examined", "clicked_for").iter_rows()
    ):
        assert examined or why is None
        if examined:
            counts[relevance][why] += 1
    assert set(counts) == {0, 1, 2}
    for relevance, why in counts.items():
        attraction, total = behaviour.attraction[relevance], why.total()
        assert near(why["relevance"] / total, attraction, total)
        assert near(why["noise"] / total, (1 - attraction) * behaviour.click_noise, total)
        assert why["robot"] == 0


def test_the_funnel_goes_on_as_configured_and_mistakes_lead_nowhere(world: World) -> None:
    behaviour = world.simulation.behaviour
    done: dict[tuple[str, str], set[str]] = defaultdict(set)
    for search, item, action in world.events.select("search_id", "item_id", "action").iter_rows():
        done[search, item].add(action)
    clicked = of_people(world).filter(pl.col("clicked_for").is_not_null())
    meant: list[set[str]] = []
    for search, item, why in clicked.select("search_id", "item_id", "clicked_for").iter_rows():
        if why == "noise":
            assert done[search, item] == {"impression", "click"}
        else:
            meant.append(done[search, item])

    def share(of: list[set[str]], action: str, expected: float) -> None:
        found = sum(action in each for each in of) / len(of)
        assert len(of) > 100, action
        assert near(found, expected, len(of)), action

    share(meant, "collect", behaviour.collect_after_click)
    collected = [each for each in meant if "collect" in each]
    share(collected, "cart", behaviour.cart_after_collect)
    share([each for each in meant if "collect" not in each], "cart", behaviour.cart_after_click)
    share([each for each in meant if "cart" in each], "buy", behaviour.buy_after_cart)
    assert all("cart" in each for each in meant if "buy" in each)


def test_the_funnel_runs_forwards_in_time(world: World) -> None:
    order = {"impression": 0, "click": 1, "collect": 2, "cart": 3, "buy": 4}
    searched = dict(world.searches.select("search_id", "ts").iter_rows())
    last: dict[tuple[str, str], tuple[int, int]] = {}
    columns = world.events.sort("ts", maintain_order=True).select(
        "search_id", "item_id", "action", "ts"
    )
    for search, item, action, ts in columns.iter_rows():
        assert ts > searched[search]
        before, step = last.get((search, item), (ts, -1))
        assert ts >= before
        assert order[action] > step
        last[search, item] = (ts, order[action])


# Truth ------------------------------------------------------------------------------------------


def test_the_truth_tells_of_exactly_the_impressions_and_clicks_that_events_hold(
    world: World,
) -> None:
    def pairs(frame: pl.DataFrame) -> list[tuple[str, str, int]]:
        return sorted(frame.select("search_id", "item_id", "position").iter_rows())

    events = world.events
    assert pairs(events.filter(pl.col("action") == "impression")) == pairs(world.impressions)
    clicks = events.filter(pl.col("action") == "click")
    assert pairs(clicks) == pairs(world.impressions.filter(pl.col("clicked_for").is_not_null()))


def test_relevance_is_what_shelf_brand_and_price_say(catalogue: Catalogue, world: World) -> None:
    """By the catalogue's rows and what each search was for, result by result."""
    rows = {row["item_id"]: row for row in catalogue.table.to_pylist()}
    shelf_of = dict(zip(rows, catalogue.shelf.tolist(), strict=True))
    prices: dict[int, list[float]] = defaultdict(list)
    for item, row in rows.items():
        if row["price"] is not None:
            prices[shelf_of[item]].append(row["price"])
    user = np.arange(world.simulation.users)
    wants = visits.daily(world.simulation, catalogue, user, 1)
    brands = dict(zip(catalogue.brand.tolist(), catalogue.table["brand"].to_pylist(), strict=True))
    wanted = {
        f"sim-11-u{user}-d1-{nth}": (shelf, brands[brand], level)
        for user, nth, shelf, brand, level in zip(
            wants.user, wants.nth, wants.shelf, wants.brand, wants.price_level, strict=True
        )
    }
    judged = of_people(world).filter(pl.col("search_id").str.contains("-d1-"))
    width, seen = world.simulation.behaviour.price_width, Counter[int]()
    for search, item, relevance in judged.select("search_id", "item_id", "relevance").iter_rows():
        shelf, brand, level = wanted[search]
        row = rows[item]
        if shelf_of[item] != shelf:
            expected = 0
        else:
            liked = brand is not None and row["brand"] == brand
            if row["price"] is not None:
                among = prices[shelf]
                below = sum(each < row["price"] for each in among)
                place = (below + sum(each == row["price"] for each in among) / 2) / len(among)
                liked |= abs(place - level) <= width
            expected = 2 if liked else 1
        assert relevance == expected
        seen[relevance] += 1
    assert min(seen[each] for each in (0, 1, 2)) > 1_000


def test_robots_are_as_many_as_asked_for_and_marked_in_the_truth(world: World) -> None:
    share = world.simulation.behaviour.robots
    assert near(len(world.robots) / world.simulation.users, share, world.simulation.users)
    assert set(world.robots["robot"]) == {"crawler", "clicker", "booster", "brusher", "watcher"}
    robots = world.robots["user_id"].implode()
    by_robots = world.impressions.filter(pl.col("user_id").is_in(robots))
    assert by_robots["relevance"].is_null().all()
    assert set(by_robots["clicked_for"].drop_nulls()) == {"robot"}
    assert len(by_robots) == world.impressions["relevance"].is_null().sum()


# Shape ------------------------------------------------------------------------------------------


def test_everything_says_that_it_is_simulated_and_has_an_id_of_its_own(world: World) -> None:
    for frame, column in ((world.events, "event_id"), (world.searches, "search_id")):
        assert frame[column].is_unique().all()
        assert frame[column].str.starts_with("sim-11-u").all()
        assert frame["user_id"].str.starts_with("sim-11-u").all()
    assert set(world.events["search_id"]) == set(world.searches["search_id"])


def test_every_event_is_a_message_that_pagoda_reads(world: World) -> None:
    now_ms = world.simulation.first_ms + 4 * DAY_MS
    for row in world.events.sample(300, seed=1).iter_rows(named=True):
        event = decode_event(encode(Event(**row)), now_ms=now_ms)
        assert event == Event(**row)
    for row in world.searches.sample(300, seed=1).iter_rows(named=True):
        assert isinstance(decode_search(encode(Search(**row)), now_ms=now_ms), Search)


def test_what_happens_on_a_day_stays_on_that_utc_day(world: World) -> None:
    for frame in (world.events, world.searches):
        owner = frame["event_id" if "event_id" in frame.columns else "search_id"]
        day = owner.str.extract(r"-d(\d+)-").cast(pl.Int64)
        assert ((frame["ts"] - world.simulation.first_ms) // DAY_MS).equals(day, check_names=False)


def test_a_page_shows_an_item_once_and_nothing_that_is_out_of_stock(world: World) -> None:
    assert not world.impressions.select("search_id", "item_id").is_duplicated().any()
    assert not world.impressions["item_id"].str.ends_with(f"-{PER_SHELF - 1}").any()
    assert world.impressions["item_id"].n_unique() > 0.9 * SHELVES * (PER_SHELF - 1)


def test_queries_are_words_of_shelves_titles_and_brands(world: World) -> None:
    words = Counter(word for query in world.searches["query"] for word in query.split())
    assert all(query.strip() for query in world.searches["query"])
    for word in ("shelf", "aisle", "brand", "größe"):
        assert words[word] > 0.02 * len(world.searches), word


def test_people_are_seldom_quick(world: World) -> None:
    people = world.events.join(world.robots, on="user_id", how="anti")
    own = people.filter(pl.col("action").is_in(["click", "collect", "cart"])).sort("user_id", "ts")
    pause = own.select(pl.col("ts").diff().over("user_id"))["ts"].drop_nulls()
    assert len(pause) > 1_000
    assert (pause < 200).mean() < 0.01


# Tastes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("after", [0, 5, 21, 40])
def test_tastes_drift_as_fast_as_configured(catalogue: Catalogue, after: int) -> None:
    simulation = Simulation(seed=5, users=20_000)
    user, place = np.arange(simulation.users), np.zeros(simulation.users, np.int64)
    now, later = (
        tastes.favourite_shelf(simulation, catalogue, user, day, place) for day in (3, 3 + after)
    )
    kept = max(1 - after / simulation.behaviour.taste_days, 0)
    expected = kept + (1 - kept) / SHELVES  # another draw may give the same shelf
    assert near((now == later).mean(), expected, simulation.users)


def test_price_levels_move_in_small_steps(catalogue: Catalogue) -> None:
    simulation = Simulation(seed=5, users=2_000)
    user = np.arange(simulation.users)
    levels = np.array([tastes.price_level(simulation, user, day) for day in range(60)])
    assert np.abs(np.diff(levels, axis=0)).max() <= 1 / simulation.behaviour.taste_days
    assert np.abs(levels[0] - levels[-1]).mean() > 0.2


def test_shoppers_search_their_favourites_most(catalogue: Catalogue, world: World) -> None:
    simulation = world.simulation
    searches = visits.daily(simulation, catalogue, np.arange(simulation.users), 0)
    people = searches.robot == visits.SHOPPER
    first = tastes.favourite_shelf(
        simulation, catalogue, searches.user, 0, np.zeros(len(searches), np.int64)
    )
    favourites = simulation.behaviour.favourites
    found = (searches.shelf == first)[people].mean()
    assert near(found, favourites[0] + (1 - favourites[0]) / SHELVES, int(people.sum()))


# Options ----------------------------------------------------------------------------------------


def test_impossible_options_are_refused_all_at_once() -> None:
    with pytest.raises(InputError) as refused:
        Behaviour(click_noise=2, robots=-1, favourites=(0.9, 0.9), page=0)
    for name in ("click_noise", "robots", "favourites", "page"):
        assert name in str(refused.value)
    with pytest.raises(InputError) as refused:
        Simulation(seed=-1, users=0, days=0)
    for name in ("--seed", "--users", "--days"):
        assert name in str(refused.value)


def test_a_catalogue_without_anything_to_show_is_refused() -> None:
    sold_out = item_rows().filter(pc.field("in_stock") == False)  # noqa: E712
    assert len(sold_out)
    for rows in (sold_out, sold_out.slice(0, 0)):
        with pytest.raises(NothingToDo, match="nothing to show"):
            catalogues.of_rows(rows)


@pytest.mark.parametrize("texts", [{}, {"title": "...", "leaf_category": "!?"}, {"brand": "12"}])
def test_items_without_words_can_be_searched_all_the_same(texts: dict[str, str]) -> None:
    rows = [row | NO_TEXTS | texts for row in item_rows().to_pylist()]
    bare = catalogues.of_rows(pa.Table.from_pylist(rows, schema=ITEMS.schema))
    searches = world_of(SMALL, bare).searches
    assert len(searches) > 100
    assert searches["query"].str.strip_chars().str.len_chars().min() > 0


def test_days_are_counted_from_the_first(catalogue: Catalogue) -> None:
    simulation = Simulation(seed=2, users=50, first_day=date(2024, 2, 28), days=3)
    days = {
        datetime.fromtimestamp(ts / 1000, UTC).date()
        for ts in world_of(simulation, catalogue).events["ts"]
    }
    assert days == {simulation.first_day + timedelta(days=n) for n in range(3)}
