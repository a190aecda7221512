"""Recommendation: a live model that reads no queries answers without one, and refuses words."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import orjson
import pytest
from playwright.sync_api import Browser, expect
from typer.testing import CliRunner

from jobs.index.build import build
from pagoda import settings as settings_module
from pagoda.bundle import Bundle
from pagoda.cli import search
from pagoda.errors import InputError
from pagoda.models.towers import Config
from pagoda.online import OnlineReader
from pagoda.settings import Settings
from pagoda.shelf import Shelf
from pagoda.understanding import Vocabulary
from serving.live import Live
from serving.schemas import EmbedRequest
from serving.search import QueryRefused, Timings, embed
from tests.index.homes import own_home, quiet
from tests.serving import online_rows
from tests.serving.conftest import running
from tests.training import toy
from tests.training.small import ALPHA_DNN
from tests.training.test_last_item import LAST_ITEM

BLANK = ("", " \t", "\x1c")


def live_of(folder: Path, config: Config, **manifest: Any) -> Live:
    """What serves such a bundle; its reader has never met Redis."""
    bundle = Bundle.load(toy.save(folder, "toy", config=config))
    bundle.manifest = bundle.manifest.model_copy(update=manifest)
    shelf = Shelf(bundle.items)
    reader = OnlineReader(Settings(home=folder), bundle.service)
    return Live(bundle=bundle, stamp=(), shelf=shelf, vocabulary=Vocabulary(shelf), reader=reader)


def vector(live: Live, query: str) -> list[float]:
    found: list[float] = embed(live, EmbedRequest(query=query), Timings()).vector_D.tolist()
    return found


@pytest.mark.parametrize(
    ("config", "requests", "reads"),
    [
        (toy.SMALL, "searches", True),
        (toy.SMALL, None, True),  # of a version that knew no others
        (LAST_ITEM, "searches", False),
        (LAST_ITEM, "events", False),
        (ALPHA_DNN, "searches", True),
        (ALPHA_DNN, "events", False),
    ],
)
def test_a_bundle_takes_either_words_or_none(
    tmp_path: Path, config: Config, requests: str | None, reads: bool
) -> None:
    live = live_of(tmp_path, config, dataset={"requests": requests} if requests else {})
    taken, refused = (("milk",), BLANK) if reads else (BLANK, ("milk",))
    assert all(vector(live, query) for query in taken)
    for query in refused:
        with pytest.raises(QueryRefused, match="the model of bundle toy reads") as said:
            vector(live, query)
        assert said.value.where == "query"
        assert said.value.next_step


@pytest.fixture(scope="module")
def home(servers: Settings, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A home in which serve_last_item is live, and two users have clicked."""
    home = own_home(servers, tmp_path_factory.mktemp("without"))
    serving = home.serving.model_copy(update={"served_sample": 1.0, "served_flush_s": 3600})
    home = home.model_copy(update={"serving": serving})
    toy.save(home.bundles, "serve_last_item", config=LAST_ITEM)
    build(home, "serve_last_item", promote=True, progress=quiet)
    now_ms = time.time_ns() // 1_000_000
    for user in ("alice", "bob"):
        online_rows.write(home, user, toy.feature_rows(user, now_ms, clicks=80), at_ms=now_ms)
    return home


@pytest.fixture(scope="module")
def url(home: Settings) -> Iterator[str]:
    with running(home) as address:
        yield address


@pytest.fixture(scope="module")
def ask(url: str) -> Iterator[Callable[..., httpx.Response]]:
    with httpx.Client(base_url=url, timeout=30) as client:
        yield lambda path="/search", **body: client.post(path, json=body)


Ask = Callable[..., httpx.Response]


@pytest.mark.servers
def test_what_is_recommended_is_what_lies_nearest_to_the_last_click(
    ask: Ask, home: Settings
) -> None:
    bundle = Bundle.load(home.bundles / "serve_last_item")
    vectors, best = {}, {}
    for user in ("alice", "bob"):
        answer = ask(user_id=user, k=60).json()
        vectors[user] = ask("/embed", user_id=user).json()["vector"]
        vector_D = np.array(vectors[user], np.float32)
        order = np.argsort(-(bundle.item_vectors @ vector_D))
        best[user] = [item["item_id"] for item in answer["results"]]
        assert best[user] == bundle.items["item_id"].take(order).to_pylist()
        assert answer["personalised"]
        assert answer["terms"] == []
        assert not answer["fell_back"]
    assert vectors["alice"] != vectors["bob"]  # towers untrained: the order may be the same
    for same in ({"query": ""}, {"query": " \t"}, {"relevance": "post_filter"}):
        found = ask(user_id="alice", k=60, **same).json()["results"]
        assert [item["item_id"] for item in found] == best["alice"]
    milk = ask(user_id="alice", k=60, filters={"leaf_category": ["milk"]}).json()["results"]
    assert [item["item_id"] for item in milk] == [
        item for item in best["alice"] if int(item[1:]) % 6 == toy.SHELVES.index("milk")
    ]


@pytest.mark.servers
def test_words_are_refused_and_nothing_is_taken_for_their_answer(ask: Ask, url: str) -> None:
    for path in ("/search", "/embed"):
        answer = ask(path, query="milk", user_id="alice")
        assert answer.status_code == 422
        refusal = answer.json()
        assert refusal["error"] == "invalid_request"
        (problem,) = refusal["problems"]
        assert problem["where"] == "query"
        assert "serve_last_item reads no queries" in problem["what"]
        assert "`filters`" in problem["what"]
        assert refusal["message"] == f"query: {problem['what']}"
    ready = httpx.get(f"{url}/ready").json()
    assert (ready["ready"], ready["reads_queries"]) == (True, False)


@pytest.mark.servers
def test_a_recommendation_is_sampled_but_is_no_search_for_kafka(home: Settings) -> None:
    with running(home) as url:
        assert httpx.post(f"{url}/search", json={"user_id": "alice"}).status_code == 200
        metrics = httpx.get(f"{url}/metrics").text
    assert "pagoda_searches_publish_pending 0.0" in metrics
    assert "pagoda_searches_published 0.0" in metrics


@pytest.mark.servers
def test_the_command_line_recommends_without_words(
    url: str, home: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = int(url.rsplit(":", 1)[1])
    at = home.model_copy(update={"serving": home.serving.model_copy(update={"port": port})})
    monkeypatch.setattr(settings_module, "load", lambda: at)
    shown = CliRunner().invoke(search.app, ["--user", "alice", "--k", "3", "--json"])
    assert shown.exit_code == 0
    assert len(orjson.loads(shown.stdout)["results"]) == 3
    refused = CliRunner().invoke(search.app, ["milk"])
    assert isinstance(refused.exception, InputError)
    assert "reads no queries" in refused.exception.problems[0]


@pytest.mark.servers
@pytest.mark.browser
def test_the_page_takes_no_words_and_recommends(url: str, browser: Browser) -> None:
    page = browser.new_page()
    page.goto(f"{url}/?q=milk&user=alice")
    expect(page.get_by_label("Search for")).to_be_disabled()
    expect(page.locator("#summary")).to_contain_text("personalised for alice")
    expect(page.locator("#items > li")).to_have_count(20)
    page.get_by_label("as user").fill("bob")
    page.get_by_role("button", name="Search", exact=True).click()
    expect(page.locator("#summary")).to_contain_text("personalised for bob")
    page.context.close()
