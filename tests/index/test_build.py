"""Building an index on a real Milvus: what goes live, what does not, what is left behind."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pymilvus import MilvusClient

from jobs.index import check, collection
from jobs.index.build import build, recheck
from pagoda import index_report, registry, release
from pagoda.ann import Searcher
from pagoda.bundle import Bundle
from pagoda.errors import CheckFailed, DependencyDown, InputError
from pagoda.filters import TEXT_FIELDS, Filters, PriceRange, expression, stored
from pagoda.ids import key_of
from pagoda.index import aliased, describe, milvus
from pagoda.models.catalogue import FIELDS
from pagoda.settings import Settings
from tests.index.homes import environment, quiet
from tests.training import toy

pytestmark = pytest.mark.servers


@pytest.fixture(scope="module")
def client(home: Settings) -> Iterator[MilvusClient]:
    with milvus(home) as connected:
        yield connected


@pytest.fixture(scope="module")
def searcher(home: Settings) -> Iterator[Searcher]:
    found = Searcher(home)
    yield found
    found.close()


@pytest.fixture(scope="module")
def first(home: Settings) -> Bundle:
    """The bundle idx_a, live."""
    path = toy.bundle(home, "idx_a")
    build(home, "idx_a", promote=True, progress=quiet)
    return Bundle.load(path)


def test_a_checked_bundle_is_live_under_alias_and_pointer(
    home: Settings, client: MilvusClient, first: Bundle
) -> None:
    assert registry.current(home) == "idx_a"
    assert aliased(client, home.milvus.alias) == "items_idx_a"
    found = describe(client, "items_idx_a")
    assert found is not None
    assert (found.rows, found.index_type, found.loaded) == (60, "FLAT", True)
    report = index_report.load(home, "idx_a")
    assert report is not None
    assert report.passed
    assert report.collection == "items_idx_a"
    assert report.worst_recall == 1.0
    assert not client.has_collection("draft_items_idx_a")


def test_rankers_find_every_field_under_the_alias(
    home: Settings, client: MilvusClient, first: Bundle
) -> None:
    rows = client.query(
        home.milvus.alias,
        filter="",
        limit=100,
        output_fields=["item_id", "vector", *TEXT_FIELDS, "price", "in_stock"],
        consistency_level="Strong",
    )
    by_id = {row["item_id"]: row for row in rows}
    for at, item in enumerate(first.items.to_pylist()):
        row = by_id[item["item_id"]]
        assert row["item_key"] == item["item_key"]
        assert {name: row[name] for name in TEXT_FIELDS} == {
            name: item[name] or "" for name in TEXT_FIELDS
        }
        assert (row["price"], row["in_stock"]) == (item["price"], item["in_stock"])
        assert np.array_equal(np.array(row["vector"], np.float32), first.item_vectors[at])


def test_building_again_changes_nothing(
    home: Settings, client: MilvusClient, first: Bundle
) -> None:
    before = client.describe_collection("items_idx_a")["collection_id"]
    pointer = registry.pointer(home)
    build(home, "idx_a", promote=True, progress=quiet)
    assert client.describe_collection("items_idx_a")["collection_id"] == before
    assert registry.pointer(home) == pointer


def test_a_standing_index_can_be_checked_again(home: Settings, first: Bundle) -> None:
    before = index_report.load(home, "idx_a")
    again = recheck(home, "idx_a", progress=quiet)
    assert again.passed
    assert before is not None
    assert again.checked_at > before.checked_at
    toy.bundle(home, "idx_unbuilt", seed=8)
    with pytest.raises(InputError, match="pagoda index --bundle idx_unbuilt"):
        recheck(home, "idx_unbuilt", progress=quiet)


def test_an_index_below_the_threshold_does_not_go_live(
    home: Settings, client: MilvusClient, first: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy.bundle(home, "idx_bad", seed=3)
    monkeypatch.setattr("jobs.index.check._SCORE_TOLERANCE", -2.0)  # no score is ever good enough
    with pytest.raises(CheckFailed, match="did not pass"):
        build(home, "idx_bad", promote=True, progress=quiet)
    report = index_report.load(home, "idx_bad")
    assert report is not None
    assert not report.passed
    assert registry.current(home) == "idx_a"
    assert aliased(client, home.milvus.alias) == "items_idx_a"
    assert not client.has_collection("items_idx_bad")
    assert not client.has_collection("draft_items_idx_bad")


def test_a_build_killed_half_way_leaves_what_is_live_alone_and_the_next_cleans_up(
    home: Settings, client: MilvusClient, first: Bundle
) -> None:
    toy.bundle(home, "idx_b", seed=1, count=20_000)
    process = subprocess.Popen(
        [sys.executable, "-m", "jobs.index.build", "--bundle", "idx_b"],
        env={**os.environ, **environment(home)},
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 60
    while not client.has_collection("draft_items_idx_b") and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert client.has_collection("draft_items_idx_b")
    assert registry.current(home) == "idx_a"
    assert aliased(client, home.milvus.alias) == "items_idx_a"

    toy.bundle(home, "idx_c", seed=2)
    build(home, "idx_c", promote=False, progress=quiet)
    assert not client.has_collection("draft_items_idx_b")
    assert client.has_collection("items_idx_c")
    assert registry.current(home) == "idx_a"


def test_beyond_the_limit_clusters_are_used_and_another_limit_builds_anew(
    home: Settings, client: MilvusClient, first: Bundle
) -> None:
    milvus = home.milvus.model_copy(update={"flat_max_items": 100, "min_recall": 0.5})
    small = home.model_copy(update={"milvus": milvus})
    toy.bundle(home, "idx_ivf", seed=4, count=400)
    report = build(small, "idx_ivf", promote=False, progress=quiet)
    assert (report.index_type, report.index_params) == ("IVF_SQ8", {"nlist": 400 // 39})
    assert sum(case.violations for case in report.cases) == 0
    assert build(home, "idx_ivf", promote=False, progress=quiet).index_type == "FLAT"


def test_going_live_and_back_moves_alias_and_pointer_together(
    home: Settings, client: MilvusClient, first: Bundle
) -> None:
    release.release(home, "idx_c")
    assert aliased(client, home.milvus.alias) == "items_idx_c"
    assert registry.current(home) == "idx_c"
    assert release.roll_back(home) == "idx_a"
    assert aliased(client, home.milvus.alias) == "items_idx_a"
    assert registry.current(home) == "idx_a"


def test_a_bundle_without_its_collection_cannot_go_live(
    home: Settings, client: MilvusClient, first: Bundle
) -> None:
    toy.bundle(home, "idx_none", seed=5)
    with pytest.raises(InputError, match="pagoda index --bundle idx_none"):
        release.release(home, "idx_none")
    assert registry.current(home) == "idx_a"


def test_an_alias_whose_collection_was_dropped_is_moved_too(
    home: Settings, client: MilvusClient, first: Bundle
) -> None:
    release.release(home, "idx_c")
    client.drop_collection("items_idx_c")  # by hand: Milvus lets it happen, alias and all
    release.release(home, "idx_a")
    assert aliased(client, home.milvus.alias) == "items_idx_a"


def test_old_collections_go_and_those_of_others_stay(
    home: Settings, client: MilvusClient, first: Bundle
) -> None:
    client.create_collection("items_of_somebody_else", dimension=2)
    two = home.model_copy(update={"milvus": home.milvus.model_copy(update={"keep_collections": 2})})
    toy.bundle(home, "idx_d", seed=7)
    build(two, "idx_d", promote=True, progress=quiet)
    left = set(client.list_collections())
    client.drop_collection("items_of_somebody_else")
    assert {"items_idx_d", "items_idx_a", "items_of_somebody_else"} <= left
    assert not {"items_idx_c", "items_idx_ivf"} & left


def test_a_milvus_that_is_away_is_named(home: Settings) -> None:
    away = home.model_copy(
        update={"milvus": home.milvus.model_copy(update={"uri": "http://127.0.0.1:9"})}
    )
    with pytest.raises(DependencyDown, match="milvus does not answer"):
        release.release(away, "idx_a")


# Text and prices as Milvus understands them ------------------------------------------------------

CHARACTERS = "\"'\\\n\t\r\0\x7f\u2028{}[]()%$`/ ab中😀\ufeff"
WIDTH = 32
QUERY = np.ones((1, WIDTH), np.float32)


@pytest.fixture(scope="module")
def strange(client: MilvusClient, searcher: Searcher) -> Iterator[list[str]]:
    """Brands; item n of the collection draft_items_strange has the n-th, and n for its price.

    Every third has no price. Indexed by clusters over vectors at random.
    """
    rng = np.random.default_rng(0)
    brands = ['" or 1 == 1 or brand == "', "\\", '\\"', "a' or 'a' == 'a", "\0", "\u2028", "%"]
    dice = random.Random(0)
    brands += ["".join(dice.choices(CHARACTERS, k=dice.randint(1, 8))) for _ in range(1500)]
    brands = list(dict.fromkeys(brands))
    rows = toy.items(len(brands)).to_pylist()
    for n, row in enumerate(rows):
        row |= {"brand": brands[n], "price": float(n) if n % 3 else None}
    vectors = rng.normal(size=(len(brands), WIDTH)).astype(np.float32)
    items = pa.Table.from_pylist(rows, schema=FIELDS)
    built = collection.build_draft(
        client,
        name="items_strange",
        described="",
        items=items,
        vectors_ND=vectors,
        index=collection.choose_index(rows=len(brands), flat_max_items=100),
        progress=quiet,
    )
    report = check.check(
        searcher,
        built,
        bundle="strange",
        live_name="items_strange",
        items=items,
        vectors_ND=vectors,
        queries_QD=rng.normal(size=(16, WIDTH)).astype(np.float32),
        min_recall=0.9,  # quantised, and random vectors lie close together
        progress=quiet,
    )
    assert report.index_type == "IVF_SQ8"
    assert report.passed, [(case.share, case.recall, case.violations) for case in report.cases]
    yield brands
    client.drop_collection(built.name)


def _found(searcher: Searcher, filters: Filters) -> set[int]:
    """Numbers of the items that satisfy filters."""
    (hits,) = searcher.search(
        "draft_items_strange", QUERY, k=10_000, expression=expression(filters)
    )
    return {NUMBER[key] for key in hits.keys.tolist()}


NUMBER = {key_of("item", item_id): n for n, item_id in enumerate(toy.item_ids(2_000))}
searching = hypothesis_settings(max_examples=150, deadline=None)


def test_every_strange_brand_finds_its_item_and_no_other(
    strange: list[str], searcher: Searcher
) -> None:
    for n, brand in enumerate(strange[:400]):
        assert _found(searcher, Filters(brand=(brand,))) == {n}, repr(brand)


@searching
@given(
    text=st.text(
        st.one_of(st.sampled_from(CHARACTERS), st.characters(codec="utf-8")),
        min_size=1,
        max_size=12,
    )
)
def test_any_text_finds_the_item_that_has_it_or_nothing(
    text: str, strange: list[str], searcher: Searcher
) -> None:
    expected = {n for n, brand in enumerate(strange) if stored(brand) == stored(text)}
    assert _found(searcher, Filters(brand=(text,))) == expected


@searching
@given(bounds=st.lists(st.none() | st.floats(0, 2_000), min_size=2, max_size=2))
def test_price_ranges_mean_the_same_to_milvus(
    bounds: list[float | None], strange: list[str], searcher: Searcher
) -> None:
    low, high = bounds
    if low is not None and high is not None:
        low, high = sorted((low, high))
    anything = low is None and high is None
    assert _found(searcher, Filters(price=PriceRange(min=low, max=high))) == {
        n
        for n in range(len(strange))
        if anything or (n % 3 and n >= (low or 0) and (high is None or n <= high))
    }


def test_the_report_reads_back_from_its_file(home: Settings, first: Bundle) -> None:
    written = json.loads(index_report.path(home, "idx_a").read_text())
    assert written["bundle"] == "idx_a"
    assert {"filter", "share", "matches", "recall", "violations"} <= set(written["cases"][0])
