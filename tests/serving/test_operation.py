"""What the service says of itself, and what it leaves behind: Kafka, the lake, metrics."""

from __future__ import annotations

import time
from collections.abc import Callable

import httpx
import orjson
import pytest
from kafka import KafkaConsumer
from prometheus_client import CollectorRegistry, Gauge
from typer.testing import CliRunner

from pagoda import settings as settings_module
from pagoda import textfile
from pagoda.cli import models, search
from pagoda.errors import DependencyDown, InputError
from pagoda.ids import key_of
from pagoda.lake import open_table
from pagoda.messages import Search, decode_search
from pagoda.schemas import SERVED
from pagoda.settings import Settings
from tests.serving.conftest import running

pytestmark = pytest.mark.servers


def within(seconds: float, probe: Callable[[], bool]) -> bool:
    """Whether something becomes true in time."""
    deadline = time.monotonic() + seconds
    while not probe():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def test_it_lives_and_is_ready_with_every_dependency_by_name(http: httpx.Client) -> None:
    assert http.get("/health").json() == {"status": "ok"}
    answer = http.get("/ready")
    assert answer.status_code == 200
    ready = answer.json()
    assert ready["ready"]
    assert ready["bundle"] == "serve_a"
    assert {name: each["ok"] for name, each in ready["dependencies"].items()} == {
        "bundle": True,
        "redis": True,
        "milvus": True,
        "kafka": True,
    }
    assert not ready["dependencies"]["kafka"]["needed"]


def test_a_search_reaches_kafka_and_an_anonymous_one_does_not(
    http: httpx.Client, home: Settings
) -> None:
    http.post("/search", json={"query": "nobody asks"})
    before_ms = time.time_ns() // 1_000_000
    asked = {"query": " green tea ", "user_id": "alice"}
    search_id = http.post("/search", json=asked).json()["search_id"]
    consumer = KafkaConsumer(
        home.kafka.searches_topic,
        bootstrap_servers=home.kafka.bootstrap_servers,
        auto_offset_reset="earliest",
        consumer_timeout_ms=20_000,
    )
    found = None
    for record in consumer:
        message = decode_search(record.value, now_ms=record.timestamp)
        assert isinstance(message, Search)
        assert message.query != "nobody asks"
        if message.search_id == search_id:
            found = message
            break
    consumer.close()
    assert found is not None
    assert (found.user_id, found.query) == ("alice", "green tea")
    assert before_ms <= found.ts <= before_ms + 60_000


def test_sampled_requests_lie_in_the_lake_with_the_rows_as_read(
    http: httpx.Client, home: Settings
) -> None:
    answer = http.post("/search", json={"query": "milk", "user_id": "bob"}).json()
    table = open_table(home, SERVED)

    def written() -> list[dict[str, object]]:
        table.refresh()
        wanted = f"search_id == '{answer['search_id']}'"
        found: list[dict[str, object]] = table.scan(row_filter=wanted).to_arrow().to_pylist()
        return found

    assert within(20, lambda: bool(written()))
    (row,) = written()
    assert row["user_key"] == key_of("user", "bob")
    assert row["bundle"] == "serve_a"
    rows = orjson.loads(str(row["features"]))
    assert len(rows["user_day"]["click_items"]) == 80
    assert rows["user_day"]["valid_from_ms"] < time.time() * 1000
    assert rows["user_intraday"] is None


def test_metrics_count_requests_and_time_every_step(http: httpx.Client) -> None:
    http.post("/search", json={"query": "milk"})
    text = http.get("/metrics").text
    assert 'pagoda_requests_total{path="/search",status="200"}' in text
    assert 'pagoda_search_step_seconds_count{step="tower"}' in text
    assert 'pagoda_bundle_info{bundle="serve_a"} 1.0' in text
    assert "pagoda_searches_publish_failed 0.0" in text


def test_metrics_show_what_checks_have_written(http: httpx.Client, home: Settings) -> None:
    registry = CollectorRegistry()
    Gauge("pagoda_made_up", "For this test", registry=registry).set(7)
    textfile.write(home, "made_up", registry)
    text = http.get("/metrics").text
    assert "\npagoda_made_up 7.0\n" in text
    assert text.count("# HELP pagoda_requests_total") == 1


def test_the_page_offers_recently_active_users_only_where_there_are_any(
    http: httpx.Client,
) -> None:
    assert http.get("/users/examples").json() == []


def test_without_kafka_searches_are_answered_and_readiness_says_so(home: Settings) -> None:
    kafka = home.kafka.model_copy(update={"bootstrap_servers": "127.0.0.1:9"})
    with running(home.model_copy(update={"kafka": kafka})) as url:
        answer = httpx.post(f"{url}/search", json={"query": "milk", "user_id": "alice"})
        assert answer.status_code == 200
        ready = httpx.get(f"{url}/ready")
        assert ready.status_code == 200
        assert not ready.json()["dependencies"]["kafka"]["ok"]
        assert "pagoda_searches_publish_pending 1.0" in httpx.get(f"{url}/metrics").text


def test_without_a_bundle_the_answer_says_what_to_do(
    home: Settings, tmp_path_factory: pytest.TempPathFactory
) -> None:
    empty = home.model_copy(update={"home": tmp_path_factory.mktemp("empty")})
    with running(empty) as url:
        answer = httpx.post(f"{url}/search", json={"query": "milk"})
        assert answer.status_code == 503
        assert answer.json()["dependency"] == "bundle"
        assert "pagoda index" in answer.json()["message"]
        ready = httpx.get(f"{url}/ready")
        assert ready.status_code == 503
        dependencies = ready.json()["dependencies"]
        assert [name for name, each in dependencies.items() if not each["ok"]] == ["bundle"]


def test_the_command_line_searches_and_shows_what_is_wrong(
    url: str, home: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = home.model_copy(
        update={"serving": home.serving.model_copy(update={"port": int(url.rsplit(":", 1)[1])})}
    )
    monkeypatch.setattr(settings_module, "load", lambda: at)
    shown = CliRunner().invoke(search.app, ["milk", "--user", "alice", "--k", "3", "--json"])
    assert shown.exit_code == 0
    assert len(orjson.loads(shown.stdout)["results"]) == 3
    table = CliRunner().invoke(search.app, ["milk", "--brand", "acme", "--max-price", "60"])
    assert table.exit_code == 0
    assert "acme" in table.stdout
    refused = CliRunner().invoke(search.app, ["milk", "--k", "0"])
    assert isinstance(refused.exception, InputError)
    assert refused.exception.problems == ["k: Input should be greater than or equal to 1"]
    away = at.model_copy(update={"serving": at.serving.model_copy(update={"port": 9})})
    monkeypatch.setattr(settings_module, "load", lambda: away)
    lost = CliRunner().invoke(search.app, ["milk"])
    assert isinstance(lost.exception, DependencyDown)
    assert lost.exception.name == "serving"


def test_the_command_line_lists_bundles_with_their_index(
    home: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings_module, "load", lambda: home)
    listed = orjson.loads(CliRunner().invoke(models.app, ["list", "--json"]).stdout)
    assert {each["name"]: each["state"] for each in listed} == {
        "serve_a": "current",
        "serve_b": "earlier",
    }
    assert all(each["index"]["passed"] for each in listed)
    assert "serve_a" in CliRunner().invoke(models.app, ["list"]).stdout
