"""The whole room on a made-up shop: lake, features, Feast's join on Spark, towers, bundle."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest

from jobs.batch.build import Days, build_all
from pagoda import dataset as datasets
from pagoda import lake, store
from pagoda.bundle import WEIGHTS, Bundle, Manifest, Request, read_manifest
from pagoda.dataset import Dataset
from pagoda.errors import InputError, NothingToDo
from pagoda.ids import key_of
from pagoda.schemas import EVENTS, ITEMS, SEARCHES, Table
from pagoda.settings import Lake, Settings
from tests.training import toy
from training import train as training
from training.evaluate import judge_bundle
from training.inputs import Plan, plan
from training.recipes import recipe

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

FIRST, VALIDATION, TEST, LAST = (
    date(2026, 9, 1),
    date(2026, 9, 29),
    date(2026, 10, 6),
    date(2026, 10, 12),
)
USERS = 16


@pytest.fixture(scope="module")
def shop(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """An installation with six weeks of purchases, in a namespace of its own."""
    home = tmp_path_factory.mktemp("training")
    (home / "lake").symlink_to(settings.lake_folder)
    (home / "jars").symlink_to(settings.jars)
    shop = settings.model_copy(update={"home": home, "lake": Lake(namespace="training")})
    datasets.save(
        shop,
        Dataset(
            name="toy",
            click_actions=("click", "buy"),
            first_day=FIRST,
            last_day=LAST,
            validation_from=VALIDATION,
            test_from=TEST,
            query_protocol="made up (synthetic)",
            fingerprint="toy",
        ),
    )
    purchases = [purchase for day in range((LAST - FIRST).days + 1) for purchase in bought(day)]
    write(shop, ITEMS, item_rows())
    write(shop, SEARCHES, [each["search"] for each in purchases])
    write(shop, EVENTS, [each["event"] for each in purchases])
    return shop


@pytest.fixture(scope="module")
def built(shop: Settings, spark: SparkSession) -> Settings:
    """The shop with the features that `smoke` needs, and Feast knowing them."""
    build_all(spark, shop, Days(first=smoke(shop).whole.first, last=LAST))
    store.apply(shop)
    return shop


@pytest.fixture(scope="module")
def trained(built: Settings, spark: SparkSession) -> Path:
    path, fresh = training.train_recipe(built, smoke(built), session=spark)
    assert fresh
    return path


def smoke(shop: Settings) -> Plan:
    return plan(recipe("smoke"), datasets.load(shop), "test")


def bought(day: int) -> list[dict[str, dict[str, Any]]]:
    """A third of the users buy two or three things of their shelves, each searched for."""
    lines = []
    for user in range(day % 3, USERS, 3):
        dice = random.Random(day * 100 + user)
        at = datetime(2026, 9, 1, 10, user, tzinfo=UTC) + timedelta(days=day)
        for number in range(dice.choice((2, 3))):
            shelf = (user + number) % 6
            lines.append(line(f"u{user}", at, shelf, dice.choice((0, 6, 12)) + shelf))
    return lines


def line(user: str, at: datetime, shelf: int, item: int) -> dict[str, dict[str, Any]]:
    name = f"{user}-{at:%m%d}-{item}"
    common = {
        "user_id": user,
        "user_key": key_of("user", user),
        "ts": at,
        "ingested_at": at,
        "source": "toy",
        "search_id": f"q-{name}",
    }
    search = common | {"search_key": key_of("search", f"q-{name}"), "query": toy.SHELVES[shelf]}
    event = common | {
        "event_id": name,
        "event_key": key_of("event", name),
        "item_id": f"i{item}",
        "item_key": key_of("item", f"i{item}"),
        "action": "buy",
    }
    return {"search": search, "event": event}


def item_rows() -> list[dict[str, Any]]:
    at = datetime(2026, 9, 1, tzinfo=UTC)
    return [row | {"updated_at": at, "source": "toy"} for row in toy.items().to_pylist()]


def write(shop: Settings, table: Table, rows: list[dict[str, Any]]) -> None:
    lake.open_table(shop, table).append(pa.Table.from_pylist(rows, schema=table.schema))


def test_features_that_were_not_built_are_named_with_the_command(shop: Settings) -> None:
    wanted = plan(replace(recipe("smoke"), train_days=28), datasets.load(shop), "test")
    lake.create_all(shop)
    with pytest.raises(InputError, match="features build --from 2026-09-08 --to 2026-10-12"):
        training.train_recipe(shop, wanted)


def test_no_lines_are_nothing_to_do(shop: Settings) -> None:
    chosen = smoke(shop)
    empty = replace(
        chosen,
        train=replace(chosen.train, first=date(2020, 1, 1), end=date(2020, 2, 1)),
    )
    with pytest.raises(NothingToDo, match="2020-01-01 to 2020-01-31"):
        training.train_recipe(shop, empty)


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
    assert {(each.week, each.rows) for each in manifest.metrics} == {
        ("test", "all"), ("test", "non-repeats"),
    }  # fmt: skip
    assert bundle.embed([Request(query="milk", at_ms=toy.T0, rows={})]).shape == (1, 16)


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
    forced, fresh = training.train_recipe(built, smoke(built), force=True, session=spark)
    assert fresh
    assert forced != trained
    one, other = read_manifest(trained), read_manifest(forced)
    assert one.files[WEIGHTS] == other.files[WEIGHTS]
    assert one.metrics == other.metrics


@pytest.mark.spark
def test_a_bundle_is_judged_as_it_is_served_with_the_metrics_it_says(
    built: Settings, trained: Path, spark: SparkSession
) -> None:
    bundle = Bundle.load(trained)
    assert judge_bundle(built, bundle, session=spark) == bundle.manifest.metrics
