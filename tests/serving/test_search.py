"""Searches over HTTP, on real Redis and Milvus, beside a plain reading of the bundle."""

from __future__ import annotations

import time
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from pagoda.bundle import Bundle
from pagoda.ids import key_of
from pagoda.settings import Settings
from tests.serving import online_rows
from tests.training import toy

pytestmark = pytest.mark.servers
asking = hypothesis_settings(max_examples=60, deadline=None)


@pytest.fixture(scope="module")
def bundle(home: Settings) -> Bundle:
    return Bundle.load(home.bundles / "serve_a")


def ask(http: httpx.Client, query: str = "milk", **fields: Any) -> dict[str, Any]:
    answer = http.post("/search", json={"query": query, **fields})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def ids(answer: dict[str, Any]) -> list[str]:
    return [item["item_id"] for item in answer["results"]]


def test_a_search_gives_items_with_their_fields_best_first(
    http: httpx.Client, bundle: Bundle
) -> None:
    answer = ask(http, "milk", user_id="alice", k=5)
    scores = [item["score"] for item in answer["results"]]
    assert scores == sorted(scores, reverse=True)
    assert len(scores) == 5
    assert answer["personalised"]
    assert (answer["bundle"], answer["collection"]) == ("serve_a", "items_serve_a")
    rows = {row["item_id"]: row for row in bundle.items.to_pylist()}
    for item in answer["results"]:
        row = rows[item["item_id"]]
        assert {name: item[name] for name in ("title", "brand", "price", "in_stock")} == {
            name: row[name] for name in ("title", "brand", "price", "in_stock")
        }
    assert set(answer["timings_ms"]) == {"features", "tower", "terms", "index", "items", "total"}


def test_users_with_other_histories_get_other_scores(http: httpx.Client) -> None:
    alice, bob = (ask(http, user_id=user, k=50)["results"] for user in ("alice", "bob"))
    assert _scores(alice) != _scores(bob)


def test_an_unknown_user_is_served_like_nobody(http: httpx.Client) -> None:
    unknown, nobody = ask(http, user_id="never seen"), ask(http)
    assert not unknown["personalised"]
    assert not nobody["personalised"]
    assert unknown["results"] == nobody["results"]
    assert unknown["results"]


def test_the_order_of_clicks_changes_the_results(http: httpx.Client, home: Settings) -> None:
    now_ms = time.time_ns() // 1_000_000
    rows = toy.feature_rows("dora", now_ms, clicks=40)
    online_rows.write(home, "dora", rows, at_ms=now_ms)
    before = ask(http, user_id="dora", k=50)
    day = rows["user_day"]
    assert day is not None
    turned = {**day, "click_items": day["click_items"][::-1]}
    online_rows.write(home, "dora", {"user_day": turned}, at_ms=now_ms)
    after = ask(http, user_id="dora", k=50)
    assert _scores(before["results"]) != _scores(after["results"])


def _scores(results: list[dict[str, Any]]) -> dict[str, float]:
    return {item["item_id"]: item["score"] for item in results}


@asking
@given(query=st.text(st.characters(codec="utf-8"), max_size=1000).filter(str.strip))
def test_no_query_fails(query: str, http: httpx.Client) -> None:
    assert ask(http, query, user_id="alice", k=3)["results"]


@asking
@given(
    filters=st.fixed_dictionaries(
        {},
        optional={
            "brand": st.lists(st.sampled_from([*toy.BRANDS, "nobody"]), max_size=3),
            "leaf_category": st.lists(st.sampled_from([*toy.SHELVES, "x"]), max_size=3),
            "colour": st.lists(st.sampled_from(["red", "blue"]), max_size=2),
            "price": st.fixed_dictionaries(
                {}, optional={"min": st.integers(0, 30), "max": st.integers(30, 70)}
            ),
            "in_stock": st.booleans(),
        },
    ),
    query=st.sampled_from(["milk", "acme tea", "nothing known", "red soap", "food"]),
    relevance=st.sampled_from(["filter", "post_filter", "off"]),
    k=st.integers(1, 50),
)
def test_results_satisfy_the_filters_and_terms_and_are_the_best_that_do(
    filters: dict[str, Any],
    query: str,
    relevance: str,
    k: int,
    http: httpx.Client,
    bundle: Bundle,
) -> None:
    """Law 7, beside the definition: all items by score, those that do not fit struck out."""
    asked = {"query": query, "user_id": "carol"}
    answer = ask(http, **asked, filters=filters, relevance=relevance, k=k)
    vector = np.array(http.post("/embed", json=asked).json()["vector"], np.float32)
    allowed = [
        row
        for row, score in sorted(
            zip(bundle.items.to_pylist(), bundle.item_vectors @ vector, strict=True),
            key=lambda pair: -pair[1],
        )
        if _fits(row, filters)
    ]
    terms = [term["fields"] for term in answer["terms"]]
    applied = [term["fields"] for term in answer["terms"] if term["applied"]]
    exact = [row["item_id"] for row in allowed if all(_names(row, each) for each in terms)]
    kept = [row["item_id"] for row in allowed if all(_names(row, each) for each in applied)]
    nearest = [row["item_id"] for row in allowed[: 4 * k]]
    expected = {
        "off": kept,
        "filter": [*exact, *(item for item in kept if item not in exact)],
        "post_filter": [item for item in nearest if item in exact]
        + [item for item in nearest if item not in exact and len(applied) < len(terms)],
    }
    assert ids(answer) == expected[relevance][:k]
    if relevance == "off":
        assert not applied


def _fits(row: dict[str, Any], filters: dict[str, Any]) -> bool:
    price = filters.get("price", {})
    return (
        all(
            not filters.get(name) or row[name] in filters[name]
            for name in ("brand", "leaf_category", "colour")
        )
        and price.get("min", 0) <= row["price"] <= price.get("max", 1e9)
        and filters.get("in_stock", row["in_stock"]) == row["in_stock"]
    )


def _names(row: dict[str, Any], fields: dict[str, list[str]]) -> bool:
    return any(row[name] in values for name, values in fields.items())


def test_quotes_and_backslashes_in_a_brand_work(http: httpx.Client) -> None:
    nasty = toy.BRANDS[3]
    answer = ask(http, "milk", filters={"brand": [nasty]}, k=50)
    assert {item["brand"] for item in answer["results"]} == {nasty}
    injected = ask(http, "milk", filters={"brand": ['x"] or price > 0 or brand in ["x']})
    assert injected["results"] == []


def test_terms_of_the_query_are_reported_and_decide(http: httpx.Client) -> None:
    answer = ask(http, "cheap milk", k=10)
    assert answer["terms"] == [
        {
            "phrase": "milk",
            "fields": {"leaf_category": ["milk"], "category": ["milk"]},
            "applied": True,
        }
    ]
    assert {item["leaf_category"] for item in answer["results"]} == {"milk"}
    assert all(item["terms"] == ["milk"] for item in answer["results"])
    free = ask(http, "cheap milk", k=50, relevance="off")
    assert {item["leaf_category"] for item in free["results"]} > {"milk"}
    assert not free["terms"][0]["applied"]


def test_where_terms_leave_too_few_those_come_first_and_others_fill_up(
    http: httpx.Client,
) -> None:
    answer = ask(http, "acme milk red", k=50)
    applied = {term["phrase"]: term["applied"] for term in answer["terms"]}
    assert answer["fell_back"]
    assert not all(applied.values())
    satisfied = [len(item["terms"]) == 3 for item in answer["results"]]
    assert any(satisfied)
    assert satisfied == sorted(satisfied, reverse=True)
    assert len(answer["results"]) >= 10


def test_a_post_filter_falls_back_where_the_nearest_items_miss_the_terms(
    http: httpx.Client,
) -> None:
    """Of the 4 nearest items perhaps none is a milk; the nearest are then shown as they are."""
    answers = [ask(http, shelf, k=1, relevance="post_filter") for shelf in toy.SHELVES]
    for answer in answers:
        (item,) = answer["results"]
        assert answer["fell_back"] != (item["terms"] == [answer["terms"][0]["phrase"]])


def test_explain_says_what_the_answer_was_made_from(http: httpx.Client) -> None:
    answer = ask(http, "milk", user_id="alice", explain=True, filters={"price": {"max": 60}})
    assert answer["explanation"]["expressions"] == [
        'price >= 0.0 and price <= 60.0 and (leaf_category in ["milk"] or category in ["milk"])'
    ]
    assert answer["explanation"]["matches"] == 10
    assert answer["explanation"]["windows"]["real_time"] == 50
    assert answer["explanation"]["windows"]["short_term"] == 30
    assert ask(http, "milk", user_id="alice")["explanation"] is None


def test_embed_gives_the_bundles_own_vector_and_its_collection(
    http: httpx.Client, bundle: Bundle
) -> None:
    answer = http.post("/embed", json={"query": "milk"}).json()
    assert answer["collection"] == "items_serve_a"
    assert len(answer["vector"]) == bundle.manifest.width
    assert not answer["personalised"]


def test_the_sequences_of_a_user_are_those_the_model_sees(http: httpx.Client) -> None:
    seen = http.get("/user/alice/sequences").json()
    assert seen["known"]
    assert [len(seen["real_time"]), len(seen["short_term"])] == [50, 30]
    assert {name: len(part) for name, part in seen["long_term"].items()} == {
        "click": 5,
        "buy": 2,
        "collect": 0,
    }
    assert [each["query"] for each in seen["queries"]] == ["green tea", "milk"]
    times = [each["at"] for each in seen["real_time"]]
    assert times == sorted(times, reverse=True)
    assert all(each["title"] for each in seen["real_time"])


def test_items_that_the_bundle_does_not_know_are_shown_as_unknown(
    http: httpx.Client, home: Settings
) -> None:
    now_ms = time.time_ns() // 1_000_000
    row = {
        "click_ts": [now_ms - 1000],
        "click_events": [1],
        "click_items": [key_of("item", "not in the catalogue")],
    }
    online_rows.write(home, "erin", {"user_intraday": row}, at_ms=now_ms)
    (only,) = http.get("/user/erin/sequences").json()["real_time"]
    assert only["item_id"] is None
    assert ask(http, user_id="erin")["personalised"]


def test_a_user_nobody_knows_has_no_sequences(http: httpx.Client) -> None:
    seen = http.get("/user/who%3F%2F%C3%A9/sequences").json()
    assert not seen["known"]
    assert seen["user_id"] == "who?/é"
    assert seen["real_time"] == []
