"""What the road's search service answers, and what it knows of its users."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

import numpy as np
import polars as pl
import pytest

from pagoda import dataset, live_event
from pagoda.bundle import Bundle, Request
from pagoda.features import candidates_of
from pagoda.ids import keys_of
from pagoda.lake import open_table
from pagoda.online import OnlineReader
from pagoda.registry import require
from pagoda.schemas import EVENTS
from pagoda.windows import DAY_MS, Windows, WindowSpec, cut, start_of_day
from tests.road.conftest import Road

pytestmark = [pytest.mark.airflow, pytest.mark.servers]
SPEC = WindowSpec()


def ask(road: Road, **body: Any) -> dict[str, Any]:
    with road.search as http:
        answer = http.post("/search", json=body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


@pytest.mark.parametrize("user_id", [None, "nobody-we-know"])
def test_strangers_get_unpersonalised_results(road: Road, user_id: str | None) -> None:
    found = ask(road, query="soft drinks", user_id=user_id, k=10)
    assert len(found["results"]) == 10
    assert not found["personalised"]


def test_results_satisfy_every_filter(road: Road) -> None:
    some = ask(road, query="cheese", k=50)["results"]
    brand = some[0]["brand"]
    found = ask(road, query="cheese", k=50, filters={"brand": [brand], "price": {"max": 5}})
    assert found["results"]
    assert all(each["brand"] == brand and each["price"] <= 5 for each in found["results"])


def test_a_live_click_moves_the_sequence_and_the_results(road: Road) -> None:
    shown = live_event.show(road.settings)
    assert shown.known_after["real_time"][0]["item_id"] == shown.clicked["item_id"]
    assert shown.known_before["real_time"][0]["item_id"] != shown.clicked["item_id"] or (
        shown.known_before["real_time"][0]["at"] < shown.known_after["real_time"][0]["at"]
    )
    before = [(item["item_id"], item["score"]) for item in shown.before["results"]]
    after = [(item["item_id"], item["score"]) for item in shown.after["results"]]
    assert before != after
    assert shown.visible_ms < 5_000


def test_the_order_within_the_real_time_sequence_changes_the_user_vector(road: Road) -> None:
    bundle = Bundle.load(require(road.settings, road.manifest.name))
    reader = OnlineReader(road.settings, bundle.service)
    at_ms = time.time_ns() // 1_000_000
    user = _most_active(road)
    rows = reader.read(int(keys_of("user", [user])[0]), at_ms)
    turned = {
        name: None if row is None else {**row, "click_items": list(row["click_items"])[::-1]}
        for name, row in rows.items()
    }
    straight, reversed_ = bundle.embed(
        [Request(query="milk", at_ms=at_ms, rows=each) for each in (rows, turned)]
    )
    assert not np.allclose(straight, reversed_)


def test_sequences_are_there_for_the_users_who_have_behaviour(road: Road) -> None:
    now_ms = time.time_ns() // 1_000_000
    recent_from = start_of_day(now_ms) - SPEC.recent_days * DAY_MS
    clicks = _clicks(road)
    recent = clicks.filter(pl.col("ts_ms") >= recent_from)
    before = clicks.filter(
        (pl.col("ts_ms") < recent_from)
        & (pl.col("ts_ms") >= recent_from - SPEC.long_term_days * DAY_MS)
    )
    seen = _windows(road, clicks["user_id"].unique().to_list(), now_ms)

    active = recent["user_id"].unique().to_list()
    with_both = [user for user in active if len(seen[user].real_time) and len(seen[user].queries)]
    assert len(with_both) >= 0.8 * len(active) > 0

    active = before["user_id"].unique().to_list()
    with_long = [user for user in active if any(map(len, seen[user].long_term.values()))]
    assert len(with_long) >= 0.8 * len(active) > 0

    counts = recent.group_by("user_id").len()
    many = counts.filter(pl.col("len") > SPEC.real_time)["user_id"].to_list()
    assert many
    assert all(len(seen[user].short_term) for user in many)


def _clicks(road: Road) -> pl.DataFrame:
    """Distinct click events of the lake: user_id, ts_ms."""
    actions = dataset.load(road.settings).click_actions
    rows = open_table(road.settings, EVENTS).scan(
        selected_fields=("event_id", "user_id", "action", "ts")
    )
    frame = pl.DataFrame(pl.from_arrow(rows.to_arrow()))
    return (
        frame.filter(pl.col("action").is_in(actions))
        .unique(["event_id", "ts"])
        .select("user_id", ts_ms=pl.col("ts").dt.epoch("ms"))
    )


def _most_active(road: Road) -> str:
    since = start_of_day(int(datetime.now(UTC).timestamp() * 1000)) - SPEC.recent_days * DAY_MS
    recent = _clicks(road).filter(pl.col("ts_ms") >= since)
    most = recent.group_by("user_id").len().sort("len", "user_id")
    return str(most["user_id"][-1])


def _windows(road: Road, users: list[str], now_ms: int) -> dict[str, Windows]:
    """What serving would see of each user now."""
    reader = OnlineReader(
        road.settings, Bundle.load(require(road.settings, road.manifest.name)).service
    )
    seen = {}
    keys = [int(key) for key in keys_of("user", users)]
    for user, rows in zip(users, reader.read_many(keys, now_ms), strict=True):
        day, intraday = (candidates_of(rows[view] or {}) for view in ("user_day", "user_intraday"))
        seen[user] = cut(day.union(intraday), at_ms=now_ms, spec=SPEC)
    return seen
