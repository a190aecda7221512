"""docs/add-a-feature.md, "A field in a message", performed: no order of upgrades loses a message.

Producers of both schemas send all the time, while the readers are old or new in every combination.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaProducer

from jobs.checks.positions import Positions
from pagoda import topics
from pagoda.features import SEQUENCES_V1, USER_INTRADAY
from pagoda.ids import key_of
from pagoda.online import OnlineReader
from pagoda.schemas import EVENTS, REJECTED, RETRIED
from pagoda.settings import Settings
from tests import guide
from tests.stream.conftest import Jobs, environment, rows, send, until

pytestmark = [pytest.mark.servers, pytest.mark.spark]
USER = "changing"
FAR = 2**40  # a position that schema 1 does not know


def click(name: str, schema: int) -> dict[str, Any]:
    new = {"session_id": f"session-of-{name}", "position": FAR} if schema == 2 else {"position": 1}
    ts = int(time.time() * 1000)
    event = {"event_id": name, "user_id": USER, "item_id": "i1", "action": "click", "ts": ts}
    return {"schema": schema, **event, **new}


def test_no_order_of_upgrades_loses_a_message(
    road_home: Settings, road_jobs: Jobs, producer: KafkaProducer, tmp_path: Path
) -> None:
    steps = guide.section("A field in a message")
    upgraded = guide.Copy(tmp_path / "upgraded")
    for diff in steps.diffs:
        upgraded.change(diff)
    sent: dict[str, dict[str, Any]] = {}

    def both_producers_send(moment: str) -> None:
        for schema in (1, 2):
            name = f"{moment}-schema-{schema}"
            sent[name] = click(name, schema)
        send(road_home, producer, [each for n, each in sent.items() if n.startswith(moment)])
        wait_until_read(road_home)

    road_jobs.start("landing")
    road_jobs.start("sequences")
    both_producers_send("both-old")
    road_jobs.stop("sequences")
    road_jobs.start("sequences", root=upgraded.root)
    both_producers_send("landing-old")
    assert "landing-old-schema-2" in online(road_home)
    road_jobs.stop("landing")
    road_jobs.start("landing", root=upgraded.root)
    road_jobs.stop("sequences")
    road_jobs.start("sequences")
    both_producers_send("sequences-old")
    road_jobs.stop("sequences")
    road_jobs.start("sequences", root=upgraded.root)
    both_producers_send("both-new")
    # Each was kept by whoever could not read it, once.
    lost = ["both-old-schema-2", "landing-old-schema-2", "sequences-old-schema-2"]
    until(lambda: len(kept(road_home)) == 3, what="rejected messages have landed")
    assert kept(road_home) == Counter(lost)

    dry, sent_now, *_ = [
        {row["topic"]: row for row in json.loads(out)}[road_home.kafka.events_topic]
        for out in (
            upgraded.run([f"{command} --json"], environment(road_home))
            for command in (*steps.commands, steps.commands[-1])
        )
    ]
    assert (dry["readable_now"], dry["sent"]) == (3, 0)
    assert sent_now["sent"] == 3
    assert len(rows(road_home, RETRIED)) == 3
    wait_until_read(road_home)

    assert online(road_home) == set(sent)
    landed = {
        (row["event_id"], row["position"], row.get("session_id"))
        for row in rows(road_home, EVENTS)
        if row["user_id"] == USER
    }
    assert landed == {
        (name, each["position"], each.get("session_id")) for name, each in sent.items()
    }


def wait_until_read(settings: Settings) -> None:
    """Both readers have passed the topics' ends."""
    with topics.admin(settings) as admin:
        positions = Positions(settings, admin)
        ends = positions.ends()
        positions.wait_consumed(ends, 120)
        positions.wait_landed(ends, 120)


def online(settings: Settings) -> set[str]:
    """The events in the user's online row."""
    reader = OnlineReader(settings, SEQUENCES_V1)
    row = reader.read(key_of("user", USER), int(time.time() * 1000))[USER_INTRADAY.name]
    moments = ("both-old", "landing-old", "sequences-old", "both-new")
    names = [f"{moment}-schema-{schema}" for moment in moments for schema in (1, 2)]
    return {name for name in names if key_of("event", name) in (row or {})["click_events"]}


def kept(settings: Settings) -> Counter[str]:
    """The event ids of this test's records in `rejected`."""
    raws = [row["raw"] for row in rows(settings, REJECTED) if USER.encode() in row["raw"]]
    return Counter(json.loads(raw)["event_id"] for raw in raws)
