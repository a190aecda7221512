"""The whole room on a made-up shop: lake, features, Feast's join on Spark, towers, bundle."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from typer.testing import CliRunner

from pagoda import dataset as datasets
from pagoda import lake, pins
from pagoda.bundle import MANIFEST, WEIGHTS, Bundle, Manifest, Request, read_manifest
from pagoda.dataset import Dataset
from pagoda.errors import Conflict, InputError, NothingToDo
from pagoda.features import USER_DAY, USER_STATS, Service, View
from pagoda.ids import key_of
from pagoda.schemas import EVENTS, ITEMS, SEARCHES
from pagoda.settings import Settings
from pagoda.statistics import Statistic
from pagoda.windows import WindowSpec
from tests.conftest import Home
from tests.training import toy
from tests.training.shop import FIRST, LAST, TEST, bought, fill, line, smoke, write
from training import train as training
from training.data import rows
from training.data.bundle_rows import bundle_of
from training.data.lines import (
    LINE_COLUMNS,
    SHOWN_COLUMNS,
    Span,
    events_before,
    lines,
    not_taken,
    of_items,
)
from training.evaluate import judge_bundle
from training.inputs import plan
from training.negatives import Negatives
from training.recipes import recipe

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


def test_features_that_were_not_built_are_named_with_the_command(shop: Settings) -> None:
    wanted = plan(replace(recipe("smoke"), train_days=28), datasets.load(shop), "test")
    lake.create_all(shop)
    with pytest.raises(InputError, match="features build --from 2026-09-08 --to 2026-10-12"):
        training.train_recipe(shop, wanted)


def test_settings_of_the_command_line_are_the_recipes(
    shop: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PAGODA_HOME", str(shop.home))

    def planned(*given: str) -> Any:
        ran = CliRunner().invoke(training.app, ["smoke", "--plan", "--json", *given])
        assert ran.exit_code == 0, ran.stderr
        return json.loads(ran.stdout)

    plain, week = planned(), planned("--set", "train_days=7")
    monkeypatch.setenv("PAGODA_TRAINING__RECIPE", "smoke")
    unnamed = CliRunner().invoke(training.app, ["--plan", "--json"])
    assert json.loads(unnamed.stdout) == plain
    first = date.fromisoformat(week["trained_from"])
    assert first > date.fromisoformat(plain["trained_from"])
    assert date.fromisoformat(week["trained_to"]) - first == timedelta(days=6)
    told = CliRunner().invoke(
        training.app, ["smoke", "--plan", "--set", "train_daze=7", "--set", "loop.epochs=0"]
    )
    assert isinstance(told.exception, InputError)
    assert len(told.exception.problems) == 2


def test_no_lines_are_nothing_to_do(shop: Settings) -> None:
    chosen = smoke(shop)
    empty = replace(
        chosen,
        train=replace(chosen.train, first=date(2020, 1, 1), end=date(2020, 2, 1)),
    )
    with pytest.raises(NothingToDo, match="2020-01-01 to 2020-01-31"):
        training.train_recipe(shop, empty)


def test_a_lines_action_is_the_strongest_on_its_item(shop: Settings) -> None:
    """Everything in the shop was put into the cart, then bought."""
    dataset, span = datasets.load(shop), smoke(shop).train

    def actions(*positive: str) -> list[str]:
        found = lines(shop, dataset.model_copy(update={"positive_actions": positive}), span)
        return list(found["action"])

    both = actions("cart", "buy")
    assert set(both) == {"buy"}
    assert actions("cart") == ["cart"] * len(both)


def test_what_was_shown_in_vain_is_what_nothing_was_done_to_in_its_search(home: Home) -> None:
    """Shown: i0, bought; i1, twice; i2, clicked in the other search, which showed i0 in vain."""
    made = home("shown")
    at = datetime(2026, 10, 1, 10, tzinfo=UTC)
    first, second = line("u1", at, 0, 0), line("u1", at.replace(hour=11), 2, 2)
    late = line("u1", at.replace(day=2), 1, 1)

    def shown(of: dict[str, dict[str, Any]], item: int, event: str) -> dict[str, Any]:
        ids = {"event_id": event, "event_key": key_of("event", event), "action": "impression"}
        return of["event"] | ids | {"item_id": f"i{item}", "item_key": key_of("item", f"i{item}")}

    write(made, SEARCHES, [each["search"] for each in (first, second, second, late)])
    events = [shown(first, item, f"e{number}") for number, item in enumerate((0, 1, 1, 2))] + [
        shown(second, 0, "e4"),
        shown(late, 1, "e5"),
        shown(first, 3, "e6") | {"search_id": None},
    ]
    clicked = second["event"] | {"action": "click"}
    write(made, EVENTS, [*events, first["event"], clicked])
    found = not_taken(made, Span(first=date(2026, 10, 1), end=date(2026, 10, 2)))
    assert found.columns == list(SHOWN_COLUMNS)
    hours = [(row["t_ms"] // 3_600_000 % 24, row["item_key"]) for row in found.to_dicts()]
    assert sorted(hours) == sorted(
        (hour, key_of("item", item)) for hour, item in ((10, "i1"), (10, "i2"), (11, "i0"))
    )


def test_a_line_is_of_an_event_of_these_days_up_to_a_day_after_its_search(home: Home) -> None:
    made = home("late events")
    evening = datetime(2026, 10, 1, 23, 50, tzinfo=UTC)
    found = line("u1", evening, 0, 0)
    write(made, SEARCHES, [found["search"]])
    moments = {
        "i1": evening,
        "i2": evening + timedelta(minutes=9),
        "i3": evening + timedelta(minutes=11),  # on the next day
        "i4": evening + timedelta(days=1),
        "i5": evening + timedelta(days=1, milliseconds=1),
        "i6": evening - timedelta(milliseconds=1),
    }
    write(
        made,
        EVENTS,
        [
            found["event"]
            | {"event_id": item, "event_key": key_of("event", item), "ts": ts}
            | {"item_id": item, "item_key": key_of("item", item)}
            for item, ts in moments.items()
        ],
    )
    record = Dataset(
        name="late",
        click_actions=("click", "buy"),
        first_day=date(2026, 10, 1),
        last_day=date(2026, 10, 3),
        validation_from=date(2026, 10, 2),
        test_from=date(2026, 10, 3),
        query_protocol="made up (synthetic)",
        fingerprint="late",
    )

    def taken(end: date) -> set[int]:
        return set(lines(made, record, Span(first=date(2026, 10, 1), end=end))["item_key"])

    assert taken(date(2026, 10, 2)) == {key_of("item", item) for item in ("i1", "i2")}
    assert taken(date(2026, 10, 4)) == {key_of("item", f"i{n}") for n in (1, 2, 3, 4)}


def test_what_was_only_shown_is_no_history(home: Home) -> None:
    made = home("history")
    bought = line("u1", datetime(2026, 10, 1, 10, tzinfo=UTC), 0, 0)["event"]
    ids = {"event_id": "e1", "event_key": key_of("event", "e1"), "action": "impression"}
    write(made, EVENTS, [bought, bought | ids | {"item_key": key_of("item", "i1")}])
    found = events_before(made, date(2026, 10, 2))
    assert found["item_key"].to_list() == [key_of("item", "i0")]


def test_a_catalogue_without_titles_is_told_before_anything_is_fetched(home: Home) -> None:
    made = home("untitled")
    fill(made)
    lake.create_all(made)
    table = lake.open_table(made, ITEMS)
    items = table.scan().to_arrow()
    place = items.column_names.index("title")
    table.overwrite(items.set_column(place, items.field(place), pa.nulls(len(items), pa.string())))
    with pytest.raises(NothingToDo, match="no item has a title"):
        training.train_recipe(made, smoke(made))


def test_a_draft_is_no_bundle_and_an_unknown_name_is_told(home: Home) -> None:
    made = home("drafts")
    draft = made.bundles / ".draft-toy-1"
    draft.mkdir(parents=True)
    (draft / MANIFEST).write_text("{}")
    with pytest.raises(NothingToDo, match="there is no bundle"):
        bundle_of(made, None)
    with pytest.raises(InputError, match="there is no bundle 'gone'"):
        bundle_of(made, "gone")


def test_lines_of_items_that_the_lake_lacks_are_not_trained_on(shop: Settings) -> None:
    keys = lake.open_table(shop, ITEMS).scan().to_arrow()["item_key"]
    found = lines(shop, datasets.load(shop), smoke(shop).train)
    gone = found["item_key"][0]
    known = of_items(found, keys.filter(pc.not_equal(keys, gone)))
    assert 0 < len(known) < len(found)
    assert known.rows() == [
        row for row in found.rows() if row[LINE_COLUMNS.index("item_key")] != gone
    ]


def test_days_that_an_import_moved_since_they_were_planned_are_refused(shop: Settings) -> None:
    chosen = smoke(shop)
    earlier = chosen.dataset.model_copy(update={"fingerprint": "of an earlier import"})
    with pytest.raises(Conflict, match="imported anew"):
        training.train_recipe(shop, replace(chosen, dataset=earlier))


def test_impressions_that_a_recipe_asks_for_must_be_there(shop: Settings) -> None:
    chosen = smoke(shop)
    loop = replace(chosen.recipe.loop, negatives=Negatives(impressed=2))
    with pytest.raises(NothingToDo, match="no impressions to draw negatives from"):
        training.train_recipe(shop, replace(chosen, recipe=replace(chosen.recipe, loop=loop)))


def test_trainings_of_one_second_have_names_and_tags_of_their_own(home: Home) -> None:
    """Side by side, and then one that fails: it takes only its own tags away."""
    made = home("names")
    write(made, SEARCHES, [line("u1", datetime(2026, 10, 1, tzinfo=UTC), 0, 0)["search"]])
    snapshot = lake.open_table(made, SEARCHES).current_snapshot()
    assert snapshot
    read = {SEARCHES.name: snapshot.snapshot_id}
    all_named = threading.Barrier(3)

    def train() -> str:
        with training.named(made, "b", read) as name:
            all_named.wait(timeout=60)
            (made.bundles / name).mkdir()
        return name

    with ThreadPoolExecutor(3) as pool:
        names = {each.result() for each in [pool.submit(train) for _ in range(3)]}
    assert names == {"b", "b_2", "b_3"}
    with pytest.raises(KeyError), training.named(made, "b", read) as failed:
        raise KeyError(failed)
    assert pins.tables_of(made, "b_4") == []
    assert all(pins.tables_of(made, name) == [SEARCHES.name] for name in names)


@pytest.mark.spark
def test_every_row_that_feast_returned_is_trained_on(shop: Settings, trained: Path) -> None:
    first = (smoke(shop).train.first - FIRST).days
    baskets = {
        part: {
            (each["search"]["user_id"], each["search"]["ts"])
            for day in days
            for each in bought(day)
        }
        for part, days in (
            ("train", range(first, (TEST - FIRST).days)),
            ("judged", range((TEST - FIRST).days, (LAST - FIRST).days + 1)),
        )
    }
    counts = read_manifest(trained).counts
    assert counts["train_requests"] == len(baskets["train"])
    assert counts["judged_requests"] == len(baskets["judged"])
    assert counts["items"] == 60


@pytest.mark.spark
def test_the_bundle_is_whole_and_says_what_it_is(trained: Path) -> None:
    bundle = Bundle.load(trained)
    manifest: Manifest = bundle.manifest
    assert manifest.dataset["query_protocol"] == "made up (synthetic)"
    assert {"items", "events", "searches", "user_day", "user_intraday"} <= set(manifest.snapshots)
    assert {each.week for each in manifest.metrics} == {"test"}
    assert {"all", "non-repeats", "without history", "tail items"} <= {
        each.rows for each in manifest.metrics
    }
    assert bundle.embed([Request(query="milk", at_ms=toy.T0, rows={})]).shape == (1, 16)


@pytest.mark.spark
def test_what_a_bundle_was_trained_on_is_tagged(built: Settings, trained: Path) -> None:
    manifest = read_manifest(trained)
    tagged = {
        table.name: lake.tags(lake.open_table(built, table)).get(f"bundle-{manifest.name}")
        for table in lake.TABLES
    }
    assert {name: each for name, each in tagged.items() if each} == manifest.snapshots


@pytest.mark.spark
def test_training_again_returns_the_bundle_and_force_gives_the_same_towers(
    built: Settings, trained: Path, spark: SparkSession
) -> None:
    assert training.train_recipe(built, smoke(built), session=spark) == (trained, False)
    # What happens after the judged week is not read: the bundle still stands.
    later = line("u1", datetime(2026, 10, 14, 9, tzinfo=UTC), 0, 0)
    write(built, SEARCHES, [later["search"]])
    write(built, EVENTS, [later["event"]])
    assert training.train_recipe(built, smoke(built), session=spark) == (trained, False)
    again = replace(smoke(built), changed=("loop.seed=0",))
    forced, fresh = training.train_recipe(built, again, force=True, session=spark)
    assert fresh
    assert forced != trained
    one, other = read_manifest(trained), read_manifest(forced)
    assert (one.changed, other.changed) == ([], ["loop.seed=0"])
    assert one.files[WEIGHTS] == other.files[WEIGHTS]
    assert one.metrics == other.metrics


@pytest.mark.spark
def test_a_bundle_is_judged_as_it_is_served_with_the_metrics_it_says(
    built: Settings, trained: Path, spark: SparkSession
) -> None:
    bundle = Bundle.load(trained)
    assert judge_bundle(built, bundle, session=spark) == bundle.manifest.metrics


def test_days_built_without_what_the_model_reads_are_named_with_the_command(
    built: Settings,
) -> None:
    """A column that the view gained later, and windows longer than the rows were built for."""
    collects = Statistic(aggregation="count", of=("collect",), days=7)
    grown = replace(
        USER_STATS,
        columns={**USER_STATS.columns, "collects_7d": collects.type},
        statistics={**USER_STATS.statistics, "collects_7d": collects},
    )
    span = smoke(built).whole

    def service(view: View) -> Service:
        return Service(name="some", description="", views=(USER_DAY, view))

    rows.require_built(built, service(USER_STATS.only("buys_30d")), span, WindowSpec())
    with pytest.raises(InputError) as refused:
        rows.require_built(
            built, service(grown.only("buys_30d", "collects_7d")), span, WindowSpec(queries=21)
        )
    days = f"rows of {span.days} days, {span.first} to {LAST}, were built for other features"
    assert refused.value.problems == [
        f"user_day: {days}: queries 21, rows hold 20",
        f"user_stats: {days}: collects_7d: expected int64, count of collect over 7 days, "
        "found no such column",
    ]
    assert f"features build --from {span.first} --to {LAST}" in str(refused.value)


def test_a_recipe_whose_windows_rows_do_not_hold_is_refused(shop: Settings) -> None:
    greedy = replace(recipe("smoke"), windows=WindowSpec(real_time=200, recent_days=12))
    with pytest.raises(InputError, match="recipe smoke") as refused:
        plan(greedy, datasets.load(shop), "test")
    assert refused.value.problems == [
        "recent_days 12, rows hold 10",
        "clicks 300, rows hold 150",
    ]


def test_a_recipe_of_a_service_that_is_not_there_is_refused_with_those_that_are(
    shop: Settings,
) -> None:
    with pytest.raises(InputError, match="one of sequences_v1, ") as refused:
        plan(replace(recipe("smoke"), service="sequences_v9"), datasets.load(shop), "test")
    assert "no feature service 'sequences_v9'" in str(refused.value)
