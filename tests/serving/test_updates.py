"""Items that change while the service runs: shown as they are, and filters hold at every moment."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from jobs.index.build import build
from jobs.index.update import update
from pagoda.bundle import Bundle
from pagoda.ids import key_of
from pagoda.index import milvus, upsert
from pagoda.settings import Settings
from tests.index.homes import own_home, quiet
from tests.index.items import item, land
from tests.serving import online_rows
from tests.serving.conftest import running
from tests.training import toy

pytestmark = pytest.mark.servers
EVERYTHING = {"query": "milk", "k": 500, "relevance": "off"}


@pytest.fixture(scope="module")
def home(servers: Settings, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A home in whose lake the toy shop lies, with the bundle serve_changing live."""
    home = own_home(servers, tmp_path_factory.mktemp("changing"))
    home = home.model_copy(update={"serving": home.serving.model_copy(update={"poll_ms": 50})})
    land(home, *(item(item_id) for item_id in toy.item_ids()))
    toy.bundle(home, "serve_changing")
    build(home, "serve_changing", promote=True, progress=quiet)
    return home


@pytest.fixture(scope="module")
def http(home: Settings) -> Iterator[httpx.Client]:
    with running(home) as url, httpx.Client(base_url=url, timeout=30) as client:
        yield client


def found(http: httpx.Client, **fields: Any) -> dict[str, dict[str, Any]]:
    """Results by item id."""
    answer = http.post("/search", json={**EVERYTHING, **fields})
    assert answer.status_code == 200, answer.text
    results = answer.json()["results"]
    by_id = {each["item_id"]: each for each in results}
    assert len(by_id) == len(results), "an item is shown twice"
    return by_id


def soon(holds: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 20
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.05)
    return holds()


def test_new_and_changed_items_are_shown_and_filtered_as_they_are(
    home: Settings, http: httpx.Client
) -> None:
    land(home, item("new300", brand="nouveau", title="Oat milk"), item("i6", at_s=1, price=600.0))
    update(home)
    assert soon(lambda: "new300" in found(http))
    now = found(http)
    assert len(now) == 61
    assert (now["new300"]["title"], now["new300"]["brand"]) == ("Oat milk", "nouveau")
    assert now["i6"]["price"] == 600.0
    assert set(found(http, filters={"price": {"min": 500}})) == {"i6"}
    assert set(found(http, filters={"brand": ["nouveau"]})) == {"new300"}
    assert "new300" in found(http, query="nouveau", relevance="filter"), "it is a term at once"


def test_a_click_on_a_new_item_is_shown_with_its_title(home: Settings, http: httpx.Client) -> None:
    now_ms = time.time_ns() // 1_000_000
    row = {
        "click_ts": [now_ms - 1000],
        "click_events": [1],
        "click_items": [key_of("item", "new301")],
    }
    online_rows.write(home, "frank", {"user_intraday": row}, at_ms=now_ms)
    land(home, item("new301", title="Rye bread"))
    update(home)

    def seen() -> str | None:
        title: str | None = http.get("/user/frank/sequences").json()["real_time"][0]["title"]
        return title

    assert soon(lambda: seen() == "Rye bread")


def test_no_result_ever_breaks_its_filter_while_prices_change(
    home: Settings, http: httpx.Client
) -> None:
    """Law 7. Milvus and the service learn of a change at different moments."""
    ids = ("i1", "i2", "i3", "i4")
    wrong: list[Any] = []
    asked = {"low": 0, "high": 0}
    stop = threading.Event()

    def reader(name: str, price: dict[str, float], fits: Callable[[float], bool]) -> None:
        while not stop.is_set():
            shown = found(http, filters={"price": price})
            wrong.extend(each for each in shown.values() if not fits(each["price"]))
            asked[name] += 1

    threads = [
        threading.Thread(target=reader, args=("low", {"max": 100}, lambda price: price <= 100)),
        threading.Thread(target=reader, args=("high", {"min": 100}, lambda price: price >= 100)),
    ]
    for thread in threads:
        thread.start()
    try:
        for number in range(12):
            price = 500.0 if number % 2 else 1.0
            land(home, *(item(each, at_s=10 + number, price=price) for each in ids))
            assert update(home).changed == len(ids)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert wrong == []
    assert min(asked.values()) > 12
    assert soon(
        lambda: {"i1", "i2", "i3", "i4"} <= set(found(http, filters={"price": {"min": 500}}))
    )


def test_what_only_milvus_knows_is_left_out_and_fails_nothing(
    home: Settings, http: httpx.Client
) -> None:
    bundle = Bundle.load(home.bundles / "serve_changing")
    before = set(found(http))
    stranger = toy.items(401).slice(400)
    with milvus(home) as client:
        upsert(client, bundle.collection, stranger, bundle.encode_items(stranger))
        assert client.query(
            bundle.collection, filter='item_id == "i400"', consistency_level="Strong"
        )
        assert set(found(http)) == before
        client.delete(bundle.collection, ids=stranger["item_key"].to_pylist())
