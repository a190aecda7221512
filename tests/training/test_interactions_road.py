"""Lines of user and item, all the way: import, features, Feast's join, towers, evaluation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl
import pytest

from jobs.batch.build import Days, build_all
from jobs.imports.interactions import Interactions, Options
from jobs.imports.run import run_import
from pagoda import dataset as datasets
from pagoda import lake, store
from pagoda.bundle import Bundle, Metric
from pagoda.errors import InputError
from pagoda.ids import key_of
from pagoda.models.mgdspr import MgdsprConfig
from pagoda.models.sasrec import SasrecConfig
from pagoda.models.towers import Config
from pagoda.schemas import EVENTS, ROBOTS
from pagoda.settings import Settings
from tests.conftest import Home
from tests.training.small import SMALL, temperature
from training import train as training
from training.data.lines import Span, judged_span, lines
from training.data.splits import PARTS, lines_of
from training.evaluate import judge_bundle
from training.inputs import Plan, plan
from training.loop_config import LoopConfig
from training.recipes import recipe

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

USERS, ITEMS, EACH = 24, 40, 25
TAKEN = [(f"u{user}", f"i{(user + n) % ITEMS}") for n in range(EACH) for user in range(USERS)]


@pytest.fixture(scope="session")
def walks(home: Home) -> Settings:
    """Everybody goes around the same circle of items, each from a place of their own; made up."""
    made = home("walks")
    path = made.home / "walks.txt"
    path.write_text("".join(f"{user} {item}\n" for user, item in TAKEN))
    source = Interactions([path], Options(), scratch=made.scratch)
    run_import(made, source)
    source.close()
    return made


MGDSPR = MgdsprConfig(width=16, attribute_width=8, heads=2, query="last_item")


def small(settings: Settings, model: Config = MGDSPR) -> Plan:
    chosen = replace(
        recipe("next_item"),
        name="tiny",
        model=model,
        loop=LoopConfig(requests_per_batch=64, epochs=6, temperature=temperature(model)),
    )
    return plan(chosen, datasets.load(settings), "test")


@pytest.fixture(scope="session")
def trained(walks: Settings, spark: SparkSession) -> Path:
    span = small(walks).whole
    build_all(spark, walks, Days(first=span.first, last=span.dates[-1]))
    store.apply(walks)
    path, fresh = training.train_recipe(walks, small(walks), session=spark)
    assert fresh
    return path


def test_every_line_is_in_one_part_and_each_users_last_ones_are_judged(walks: Settings) -> None:
    record = datasets.load(walks)
    parts = {part: lines_of(walks, record, judged_span(record, "test"), part) for part in PARTS}
    for part, expected in {
        "test": TAKEN[-USERS:],
        "validation": TAKEN[-2 * USERS : -USERS],
        "train": TAKEN[: -2 * USERS],
    }.items():
        keys = [(key_of("user", user), key_of("item", item)) for user, item in expected]
        assert parts[part].select("user_key", "item_key").rows() == keys
    assert set(pl.concat(parts.values())["query"]) == {""}


def test_lines_are_events_that_count_and_lie_in_the_days(walks: Settings) -> None:
    record = datasets.load(walks)
    days = judged_span(record, "test")
    assert len(lines(walks, record, days)) == len(TAKEN)
    buys = record.model_copy(update={"positive_actions": ("buy",)})
    assert lines(walks, buys, days).is_empty()
    assert lines(walks, record, Span(first=days.end, end=days.end)).is_empty()
    # An event that was sent twice is one line.
    table = lake.open_table(walks, EVENTS)
    snapshot = table.current_snapshot()
    assert snapshot
    table.append(table.scan().to_arrow().slice(0, 9))
    assert len(lines(walks, record, days)) == len(TAKEN)
    table.manage_snapshots().set_current_snapshot(snapshot.snapshot_id).commit()


def test_a_recipe_that_reads_queries_is_refused_where_there_are_none(walks: Settings) -> None:
    for name in ("demo", "dssm"):
        with pytest.raises(
            InputError, match=f"recipe {name}: the model knows .* by the query"
        ) as e:
            plan(recipe(name), datasets.load(walks), "test")
        assert "Train `sasrec` or `next_item`" in str(e.value)


@pytest.mark.spark
def test_quick_events_of_made_up_times_make_nobody_a_robot(walks: Settings, trained: Path) -> None:
    del trained
    assert lake.open_table(walks, ROBOTS).scan().to_arrow().num_rows == 0


@pytest.mark.spark
def test_all_but_the_last_two_lines_are_trained_on(trained: Path) -> None:
    bundle = Bundle.load(trained)
    counts = bundle.manifest.counts
    assert counts["train_requests"] == counts["train_lines"] == len(TAKEN) - 2 * USERS
    assert counts["judged_requests"] == counts["judged_lines"] == USERS
    assert counts["items"] == ITEMS


@pytest.mark.spark
def test_the_towers_learn_what_follows_and_popularity_cannot(trained: Path) -> None:
    learns_what_follows(trained)


@pytest.mark.spark
def test_sasrec_learns_it_too(walks: Settings, trained: Path, spark: SparkSession) -> None:
    path, _ = training.train_recipe(
        walks, small(walks, SasrecConfig(width=16, dropout=0.2)), session=spark
    )
    assert path != trained
    learns_what_follows(path)


@pytest.mark.spark
@pytest.mark.parametrize("kind", ["alpha_dnn", "youtube_dnn", "youtube_two_tower", "zam", "dssm"])
def test_the_other_models_train_on_clicks_alone(
    kind: str, walks: Settings, trained: Path, spark: SparkSession
) -> None:
    del trained
    model = replace(SMALL[kind], history=True) if kind == "dssm" else SMALL[kind]
    path, _ = training.train_recipe(walks, small(walks, model), session=spark)
    found = by_method(Bundle.load(path).manifest.metrics)
    assert found["tiny", "all"]["ndcg@10"] > found["most popular", "all"]["ndcg@10"]


def learns_what_follows(trained: Path) -> None:
    found = by_method(Bundle.load(trained).manifest.metrics)
    sets = {"all", "non-repeats", "among unseen", "among 100 unseen"}
    assert {(method, rows) for method in ("tiny", "most popular") for rows in sets} <= set(found)
    for rows in sets:
        assert found["tiny", rows]["ndcg@10"] > found["most popular", rows]["ndcg@10"] + 0.1
    # Fifteen items are unseen: a hundred of them are all.
    assert found["tiny", "among unseen"] == found["tiny", "among 100 unseen"]


@pytest.mark.spark
def test_a_bundle_is_judged_again_with_the_metrics_it_says(
    walks: Settings, trained: Path, spark: SparkSession
) -> None:
    bundle = Bundle.load(trained)
    assert judge_bundle(walks, bundle, session=spark) == bundle.manifest.metrics


def by_method(metrics: list[Metric]) -> dict[tuple[str, str], dict[str, float]]:
    return {(each.method, each.rows): each.values for each in metrics}
