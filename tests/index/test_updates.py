"""Items that change while a collection lives, on a real Milvus; rows land by the real code."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from threading import Lock
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pymilvus import MilvusClient

from jobs.index.build import build, recheck
from jobs.index.update import main, update
from pagoda import registry, release, topics, updates
from pagoda.ann import Searcher
from pagoda.bundle import Bundle
from pagoda.errors import CheckFailed, DependencyDown
from pagoda.filters import TEXT_FIELDS, Filters, PriceRange, expression, stored
from pagoda.ids import key_of
from pagoda.index import milvus, upsert
from pagoda.lake import open_table
from pagoda.messages import ItemUpdate, encode
from pagoda.models.catalogue import FIELDS
from pagoda.publisher import open_producer
from pagoda.schemas import ITEMS
from pagoda.settings import Settings
from tests.index.homes import own_home, quiet
from tests.index.items import item, land
from tests.training import toy

pytestmark = pytest.mark.servers


@pytest.fixture(scope="module")
def home(milvus_server: Settings, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A home whose lake holds the toy shop, and in which the bundle upd_a is live."""
    home = own_home(milvus_server, tmp_path_factory.mktemp("updates"))
    land(home, *(item(item_id) for item_id in toy.item_ids()))
    toy.bundle(home, "upd_a")
    build(home, "upd_a", promote=True, progress=quiet)
    return home


@pytest.fixture(scope="module")
def client(home: Settings) -> Iterator[MilvusClient]:
    with milvus(home) as connected:
        yield connected


@pytest.fixture(scope="module")
def searcher(home: Settings) -> Iterator[Searcher]:
    found = Searcher(home)
    yield found
    found.close()


def held(client: MilvusClient, collection: str) -> dict[str, dict[str, Any]]:
    """Every row of a collection by item id, as a ranker reads them."""
    fields = ["item_id", *TEXT_FIELDS, "price", "in_stock"]
    rows = client.query(
        collection, filter="", limit=1000, output_fields=fields, consistency_level="Strong"
    )
    by_id = {row["item_id"]: {name: row[name] for name in fields} for row in rows}
    assert len(by_id) == len(rows), "an item stands twice"
    return by_id


def as_held(row: dict[str, Any]) -> dict[str, Any]:
    """What Milvus must hold of an item."""
    return {
        "item_id": row["item_id"],
        **{name: stored(row[name] or "") for name in TEXT_FIELDS},
        "price": -1.0 if row["price"] is None else row["price"],
        "in_stock": row["in_stock"] is not False,
    }


def live(home: Settings) -> Bundle:
    name = registry.current(home)
    assert name is not None
    return Bundle.load(home.bundles / name)


def test_a_catalogue_as_it_was_trained_on_needs_no_update(home: Settings) -> None:
    report = update(home)
    assert (report.bundle, report.new, report.changed) == ("upd_a", 0, 0)


def test_a_new_item_is_found_under_the_alias_by_vector_and_by_fields(
    home: Settings, client: MilvusClient, searcher: Searcher
) -> None:
    brand = "never seen " + "ä" * 980  # longer than any text so far, as long as a message may be
    land(home, item("new100", brand=brand, price=1234.5, in_stock=None))
    report = update(home)
    assert (report.new, report.changed, report.beyond) == (1, 0, 1)

    (row,) = client.query(
        home.milvus.alias,
        filter='item_id == "new100"',
        output_fields=["*"],
        consistency_level="Strong",
    )
    assert (row["item_key"], row["price"], row["in_stock"]) == (
        key_of("item", "new100"),
        1234.5,
        True,
    )
    vector = np.array(row["vector"], np.float32)
    (hits,) = searcher.search(
        home.milvus.alias,
        vector[None],
        k=5,
        expression=expression(
            Filters.model_validate({"category": [toy.SHELVES[100 % 6]], "price": {"min": 1000}})
        ),
        strong=True,
    )
    assert hits.keys.tolist() == [key_of("item", "new100")]
    rows = updates.read(home, live(home)).items.to_pylist()
    assert [(row["item_id"], row["brand"]) for row in rows] == [("new100", brand)]


def test_a_changed_price_answers_filters_at_once(
    home: Settings, client: MilvusClient, searcher: Searcher
) -> None:
    land(home, item("i7", at_s=1, price=777.0, in_stock=False))
    assert update(home).changed == 1

    def priced(low: float, high: float) -> list[int]:
        asked = expression(Filters(price=PriceRange(min=low, max=high)))
        vectors = np.ones((1, 16), np.float32)
        (hits,) = searcher.search(home.milvus.alias, vectors, k=100, expression=asked, strong=True)
        return hits.keys.tolist()

    assert priced(777, 777) == [key_of("item", "i7")]
    assert key_of("item", "i7") not in priced(8, 8)
    assert held(client, home.milvus.alias)["i7"]["in_stock"] is False


def test_an_update_that_is_older_than_others_is_not_missed(
    home: Settings, client: MilvusClient
) -> None:
    land(home, item("new101", at_s=10))
    update(home)
    land(home, item("new102", at_s=-1_000_000))  # sent late: no clock of the sender's matters
    update(home)
    land(home, item("new101", at_s=5, price=1.0))  # and what is outdated never counts
    update(home)
    now = held(client, home.milvus.alias)
    assert now["new102"] == as_held(vars(item("new102")))
    assert now["new101"]["price"] == 102.0


def test_an_update_again_changes_nothing(home: Settings, client: MilvusClient) -> None:
    before, stamp = held(client, home.milvus.alias), updates.stamp(home, "upd_a")
    land(home, item("i7", at_s=1, price=777.0, in_stock=False))  # resent: the same row, rewritten
    report = update(home)
    assert (report.new, report.changed) == (0, 0)
    assert updates.stamp(home, "upd_a") == stamp
    assert held(client, home.milvus.alias) == before


def test_the_check_sees_updates_and_what_became_of_them(
    home: Settings, client: MilvusClient
) -> None:
    bundle = live(home)
    report = recheck(home, "upd_a", progress=quiet)
    assert report.passed
    assert report.rows == 60 + 3

    right = updates.read(home, bundle)
    wrong = right.items.to_pylist()
    for row in wrong:  # as after a write that the file knows nothing of
        row["in_stock"] = row["in_stock"] is False
    upsert(client, bundle.collection, right.items.from_pylist(wrong, FIELDS), right.vectors_ND)
    with pytest.raises(CheckFailed, match="violations"):
        recheck(home, "upd_a", progress=quiet)
    upsert(client, bundle.collection, right.items, right.vectors_ND)
    assert recheck(home, "upd_a", progress=quiet).passed


def test_what_has_landed_is_written_though_landing_lags_and_the_lag_is_an_error(
    home: Settings,
    kafka_server: Settings,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    topic = {"items_topic": "upd-items", "partitions": 1}
    own = home.model_copy(update={"kafka": kafka_server.kafka.model_copy(update=topic)})
    monkeypatch.setattr("pagoda.settings.load", lambda: own)
    topics.ensure(own)
    main(wait_s=30, as_json=True)  # nothing to wait for
    assert json.loads(capsys.readouterr().out)["new"] == 0

    producer = open_producer(own)
    producer.send("upd-items", encode(item("new107"))).get(timeout=30)
    producer.close(timeout=1)
    land(home, item("new106"))
    with pytest.raises(DependencyDown, match=r"landing .*upd-items:0 lacks 1"):
        main(wait_s=0.1, as_json=True)
    assert json.loads(capsys.readouterr().out)["new"] == 1


# Rebuilds and going back -------------------------------------------------------------------------


def test_an_update_in_mid_build_is_live_at_once_and_in_the_new_collection(
    home: Settings, client: MilvusClient
) -> None:
    toy.bundle(home, "upd_b", seed=1)
    seen = []

    def meanwhile(what: str, done: int, of: int) -> None:
        """The draft is filled and loaded; the check, which ends the build, has begun."""
        if what == "check" and not seen:
            land(home, item("new103"))
            assert update(home).bundle == "upd_a"
            seen.append("new103" in held(client, home.milvus.alias))
            land(home, item("new104"))  # landed, but no update has run yet

    build(home, "upd_b", promote=True, progress=meanwhile)
    assert seen == [True]
    assert registry.current(home) == "upd_b"
    now = held(client, home.milvus.alias)
    assert {"new100", "new103", "new104"} <= set(now)
    assert now["i7"]["price"] == 777.0
    assert update(home).new == 0
    assert recheck(home, "upd_b", progress=quiet).passed


def test_going_back_takes_along_what_came_meanwhile(home: Settings, client: MilvusClient) -> None:
    land(home, item("new105"), item("i8", at_s=2, price=888.0))
    update(home)
    assert "new105" not in held(client, "items_upd_a")
    assert release.roll_back(home) == "upd_a"
    now = held(client, home.milvus.alias)
    assert {"new104", "new105"} <= set(now)
    assert now["i8"]["price"] == 888.0
    assert update(home).new == 0


def test_a_file_that_speaks_of_another_collection_is_believed_in_nothing(
    home: Settings, client: MilvusClient
) -> None:
    """As after a rebuild of the live bundle that was killed before its draft took the place."""
    bundle, before = live(home), held(client, home.milvus.alias)
    recorded = updates.read(home, bundle)
    updates._save(home, bundle.name, replace(recorded, collection_id=1))
    client.delete(bundle.collection, ids=recorded.keys.tolist())
    report = update(home)
    assert report.new + report.changed == len(recorded)
    assert held(client, home.milvus.alias) == before
    assert update(home).new == 0


def test_updates_at_once_wait_for_each_other(home: Settings, client: MilvusClient) -> None:
    lands = Lock()  # as one process lands a topic: two at the same offset would be one row

    def one(number: int) -> None:
        with lands:
            land(home, item(f"new{number}"))
        update(home)

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(one, range(110, 116)))
    assert {f"new{number}" for number in range(110, 116)} <= set(held(client, home.milvus.alias))
    assert not list((home.bundles / "upd_a").glob(".updates*"))


# Killed anywhere ---------------------------------------------------------------------------------


class Killed(BaseException):
    """Nothing catches it: what ran before has happened, what would follow has not."""


def killed_at(patch: pytest.MonkeyPatch, point: str) -> None:
    """End an update there."""

    def here(name: str) -> None:
        if name == point:
            raise Killed

    patch.setattr("pagoda.faults.point", here)


def test_a_price_that_went_back_after_a_kill_goes_back_in_milvus_too(
    home: Settings, client: MilvusClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after the write and before the mark: the file alone must tell that it happened."""
    before = held(client, home.milvus.alias)["i20"]
    land(home, item("i20", at_s=1, price=999.0))
    with monkeypatch.context() as patch:
        killed_at(patch, "update.written")
        with pytest.raises(Killed):
            update(home)
    assert held(client, home.milvus.alias)["i20"]["price"] == 999.0
    land(home, item("i20", at_s=2))
    update(home)
    assert held(client, home.milvus.alias)["i20"] == before


steps = st.lists(
    st.tuples(
        st.lists(
            st.tuples(
                st.sampled_from(["i1", "i2", "i3", "new200", "new201"]),
                st.integers(0, 5),
                st.sampled_from([1.0, 2.0, None]),
            ),
            max_size=3,
        ),
        st.sampled_from(["", "update.recorded", "update.written"]),
    ),
    min_size=1,
    max_size=4,
)


@dataclass
class Shop:
    """What the lake must say by now, as a plain dictionary: the newest row of each item."""

    rows: dict[str, dict[str, Any]]
    newest_s: dict[str, int] = field(default_factory=dict)
    examples: int = 10  # further on than any time above

    def tell(self, message: ItemUpdate, at_s: int) -> None:
        if at_s >= self.newest_s.get(message.item_id, 0):
            self.newest_s[message.item_id] = at_s
            self.rows[message.item_id] = vars(message)


@pytest.fixture(scope="module")
def shop(home: Settings) -> Shop:
    """What the tests above left; all examples go on from there, one after the other."""
    update(home)
    rows = open_table(home, ITEMS).scan().to_arrow().to_pylist()
    return Shop(rows={row["item_id"]: row for row in rows})


@hypothesis_settings(max_examples=8, deadline=None)
@given(steps=steps)
def test_whatever_is_killed_and_however_late_the_collection_ends_as_the_lake(
    steps: list[Any], shop: Shop, home: Settings, client: MilvusClient
) -> None:
    """Laws 5 and 6."""
    shop.examples += 1
    for changes, kill in steps:
        for item_id, second, price in changes:
            at_s = shop.examples * 10 + second
            message = item(item_id, at_s=at_s, price=price)
            land(home, message)
            shop.tell(message, at_s)
        with pytest.MonkeyPatch.context() as patch, suppress(Killed):
            killed_at(patch, kill)
            update(home)
    update(home)
    assert held(client, home.milvus.alias) == {
        item_id: as_held(row) for item_id, row in shop.rows.items()
    }
