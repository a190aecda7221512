"""JDsearch's lines, all the way: import, lists in the lake, features, towers, evaluation."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl
import pyarrow.compute as pc
import pytest

from jobs.batch.build import Days, build_all
from jobs.imports.jdsearch import JDsearch
from jobs.imports.run import run_import
from pagoda import dataset as datasets
from pagoda import lake, store
from pagoda.bundle import Bundle
from pagoda.errors import NothingToDo
from pagoda.ids import key_of
from pagoda.metric_table import DISPLAYED
from pagoda.models.mgdspr import MgdsprConfig
from pagoda.schemas import EVENTS
from pagoda.settings import Settings
from tests.conftest import Home
from training import train as training
from training.data import splits
from training.data.lines import displayed, judged_span, lines
from training.evaluate import judge_bundle
from training.inputs import Plan, plan
from training.loop_config import LoopConfig
from training.recipes import recipe

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

USERS, ITEMS, SHELVES, DONE, SHOWN = 16, 24, 4, 6, 5
HOUR_S = 3_600
LAST = date(2022, 10, 17)


def shelf_of(user: int) -> list[int]:
    """The items that a user is after: those of one shelf."""
    return list(range(user % SHELVES, ITEMS, SHELVES))


def shown_to(user: int) -> list[tuple[int, str]]:
    """One item of the shelf, clicked or bought, then others; the last user took nothing."""
    mine = shelf_of(user)[user % 3]
    label = "0.0" if user == USERS - 1 else ("1.0", "3.0")[user % 2]
    others = [item for item in range(ITEMS) if item % SHELVES != user % SHELVES][: SHOWN - 1]
    return [(mine, label), *((item, "0.0") for item in others)]


def line(user: int) -> str:
    shelf, words = shelf_of(user), f"50{user % SHELVES}"
    candidates, labels = zip(*shown_to(user), strict=True)
    return "\t".join(
        (
            words,
            "_".join(map(str, candidates)),
            "_".join(labels),
            "_".join([words] * DONE),
            "_".join(str(shelf[n % len(shelf)]) for n in range(DONE)),
            "_".join(["CLICK"] * DONE),
            "_".join(map(str, [0, *[HOUR_S] * DONE])),
        )
    )


@pytest.fixture(scope="session")
def shoppers(home: Home) -> Settings:
    """Sixteen users (made up) who each ask for their shelf again and again."""
    made = home("jdsearch")
    users, products = made.home / "users.txt", made.home / "products.txt"
    users.write_text("".join(f"{line(user)}\n" for user in range(USERS)))
    products.write_text(
        "".join(
            f"{item}\t50{item % SHELVES}\x187\t1\t1\t2\t2\t3\t3\t4\t4\t5\t5\t6\n"
            for item in range(ITEMS)
        )
    )
    source = JDsearch(users, products, scratch=made.scratch, shifted=False)
    run_import(made, source)
    source.close()
    return made


def small(settings: Settings) -> Plan:
    chosen = replace(
        recipe("jdsearch"),
        name="tiny",
        model=MgdsprConfig(width=16, attribute_width=8, heads=2, drop_rows=("gram_1",)),
        loop=LoopConfig(requests_per_batch=16, epochs=8),
    )
    return plan(chosen, datasets.load(settings), "test")


def test_the_test_day_has_the_last_searches_and_training_all_before(shoppers: Settings) -> None:
    record = datasets.load(shoppers)
    chosen = small(shoppers)
    assert (chosen.judged.first, chosen.judged.dates) == (LAST, [LAST])
    assert chosen.train.first == record.first_day == LAST - timedelta(days=1)
    train = splits.lines_of(shoppers, record, chosen.train, "train")
    assert len(train) == USERS * DONE
    judged = splits.lines_of(shoppers, record, chosen.judged, "test")
    assert len(judged) == USERS - 1
    assert set(judged["t_ms"]) == {chosen.judged.first_ms}


def test_lists_are_what_searches_displayed_and_what_came_of_it(shoppers: Settings) -> None:
    record = datasets.load(shoppers)
    found = splits.displayed(shoppers, record, judged_span(record, "test"))
    assert found is not None
    actions = {"0.0": "impression", "1.0": "click", "3.0": "buy"}
    expected = [
        (key_of("user", str(user + 1)), f"50{user % SHELVES}", key_of("item", str(item)),
         actions[label])
        for user in range(USERS - 1) for item, label in shown_to(user)
    ]  # fmt: skip
    columns = ("user_key", "query", "item_key", "action")
    assert sorted(found.select(columns).rows()) == sorted(expected)
    other = record.model_copy(update={"split": "time"})
    assert splits.displayed(shoppers, other, judged_span(record, "test")) is None


def test_days_on_which_nothing_was_displayed_cannot_be_judged(shoppers: Settings) -> None:
    record = datasets.load(shoppers)
    with pytest.raises(NothingToDo, match="no search that displayed something led to an item"):
        splits.displayed(shoppers, record, judged_span(record, "validation"))


def test_what_was_sent_twice_or_has_no_impression_of_its_own_is_a_candidate_once(
    shoppers: Settings,
) -> None:
    """Logs may record impressions of what was passed over alone: the lists are the same."""
    record = datasets.load(shoppers)
    span = judged_span(record, "test")
    whole, judged = displayed(shoppers, record, span), lines(shoppers, record, span)
    table = lake.open_table(shoppers, EVENTS)
    snapshot = table.current_snapshot()
    assert snapshot
    rows = table.scan().to_arrow()
    table.append(rows.filter(pc.equal(rows["action"], "impression")))
    assert displayed(shoppers, record, span).equals(whole)
    taken = pl.DataFrame(rows).filter(pl.col("action") != "impression").select(
        "search_id", "item_key"
    ).drop_nulls()  # fmt: skip
    pairs = set(taken.iter_rows())
    kept = [
        row["action"] != "impression" or (row["search_id"], row["item_key"]) not in pairs
        for row in rows.select(["action", "search_id", "item_key"]).to_pylist()
    ]
    assert sum(kept) == len(rows) - (USERS - 1)
    table.overwrite(rows.filter(kept))
    assert displayed(shoppers, record, span).equals(whole)
    assert lines(shoppers, record, span).equals(judged)
    table.manage_snapshots().set_current_snapshot(snapshot.snapshot_id).commit()


@pytest.fixture(scope="session")
def trained(shoppers: Settings, spark: SparkSession) -> Path:
    span = small(shoppers).whole
    build_all(spark, shoppers, Days(first=span.first, last=span.dates[-1]))
    store.apply(shoppers)
    path, fresh = training.train_recipe(shoppers, small(shoppers), session=spark)
    assert fresh
    return path


@pytest.mark.spark
def test_a_bundle_says_how_it_ranks_what_was_displayed(trained: Path) -> None:
    manifest = Bundle.load(trained).manifest
    assert manifest.counts["judged_requests"] == USERS - 1
    assert {each.method for each in manifest.metrics} == {"tiny", "most popular", "bm25"}
    for each in manifest.metrics:
        assert (each.rows, each.count) == (DISPLAYED, USERS - 1)
        assert set(each.values) == {"mrr", "p@1", "ndcg@10"}
    # The query's word stands in the title of the one taken item alone.
    assert manifest.metrics[-1].values == {"mrr": 1.0, "p@1": 1.0, "ndcg@10": 1.0}


@pytest.mark.spark
def test_a_bundle_is_judged_again_by_the_same_lists(
    shoppers: Settings, trained: Path, spark: SparkSession
) -> None:
    bundle = Bundle.load(trained)
    assert judge_bundle(shoppers, bundle, session=spark) == bundle.manifest.metrics
    again, fresh = training.train_recipe(shoppers, small(shoppers), session=spark)
    assert (again, fresh) == (trained, False)
