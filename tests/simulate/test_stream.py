"""Simulated shoppers through a real broker: all of it arrives, in order, where it belongs."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from jobs.simulate import live
from jobs.simulate.behaviour import Simulation
from jobs.simulate.catalogue import Catalogue
from pagoda import lake, topics
from pagoda.messages import Event, Search, decode_event, decode_search
from pagoda.publisher import open_producer
from pagoda.schemas import ITEMS
from pagoda.settings import PROJECT_ROOT, Lake, Settings
from tests.simulate.conftest import item_rows
from tests.stream.conftest import environment

pytestmark = pytest.mark.servers

COMMAND = [sys.executable, "-m", "jobs.stream.cli", "simulate", "--json", "--users", "40"]
Sent = dict[str, Any]


@pytest.fixture(scope="module")
def producer(kafka_server: Settings) -> Iterator[KafkaProducer]:
    opened = open_producer(kafka_server)
    yield opened
    opened.close(timeout=1)


@pytest.fixture(scope="module")
def shop(kafka_server: Settings, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Topics and a catalogue of this module's own."""
    kafka = kafka_server.kafka.model_copy(
        update={"events_topic": "sim-e", "searches_topic": "sim-s", "items_topic": "sim-i"}
    )
    home: Path = tmp_path_factory.mktemp("simulate")
    (home / "lake").symlink_to(kafka_server.lake_folder)
    made = kafka_server.model_copy(
        update={"home": home, "kafka": kafka, "lake": Lake(namespace="simulate")}
    )
    lake.open_table(made, ITEMS).append(item_rows())
    topics.ensure(made)
    return made


def simulate(shop: Settings, *options: str) -> Sent:
    """What the command says that it did."""
    done = subprocess.run(
        [*COMMAND, *options],
        cwd=PROJECT_ROOT,
        env=environment(shop),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (sent,) = json.loads(done.stdout)
    return dict(sent)


Record = tuple[int, bytes, Event | Search]


@pytest.fixture(scope="module")
def runs(shop: Settings) -> list[tuple[Sent, list[Record]]]:
    """Two runs with the same seed: what was said, and what the topics then held more."""
    found, before = [], 0
    for _ in range(2):
        sent = simulate(shop, "--rate", "0", "--seed", "4", "--messages", "2500")
        records = taken(shop)
        found.append((sent, records[before:]))
        before = len(records)
    return found


def taken(shop: Settings) -> list[Record]:
    """Every record of the topics, a partition after the other, as (partition, key, message)."""
    consumer = KafkaConsumer(bootstrap_servers=shop.kafka.bootstrap_servers)
    found = []
    try:
        partitions = [
            TopicPartition(topic, number)
            for topic in (shop.kafka.events_topic, shop.kafka.searches_topic)
            for number in range(shop.kafka.partitions)
        ]
        consumer.assign(partitions)
        consumer.seek_to_beginning()
        ends = consumer.end_offsets(partitions)
        while any(consumer.position(each) < ends[each] for each in partitions):
            for records in consumer.poll(timeout_ms=500).values():
                found += records
    finally:
        consumer.close()
    found.sort(key=lambda each: (each.timestamp, each.topic, each.partition, each.offset))
    decoders: dict[str, Callable[..., Any]] = {
        shop.kafka.events_topic: decode_event,
        shop.kafka.searches_topic: decode_search,
    }
    return [
        (each.partition, each.key, decoders[each.topic](each.value, now_ms=each.timestamp))
        for each in found
    ]


def test_every_message_arrives_and_can_be_read(runs: list[tuple[Sent, list[Record]]]) -> None:
    for sent, records in runs:
        messages = [message for _, _, message in records]
        assert all(isinstance(each, Event | Search) for each in messages)
        assert len(messages) == 2_500
        assert sum(isinstance(each, Event) for each in messages) == sent["events"]
        assert sum(isinstance(each, Search) for each in messages) == sent["searches"]
        assert sent["simulated"] is True


def test_a_user_has_the_partition_that_every_other_client_gives(
    shop: Settings, runs: list[tuple[Sent, list[Record]]], producer: KafkaProducer
) -> None:
    found = {(key, partition) for partition, key, _ in runs[0][1]}
    assert all(key == message.user_id.encode() for _, key, message in runs[0][1])
    assert len(found) == len({key for key, _ in found}) > 10
    assert len({partition for _, partition in found}) == shop.kafka.partitions
    for key, partition in found:
        sent = producer.send(shop.kafka.items_topic, key=key, value=b"where would this go?")
        assert sent.get(timeout=30).partition == partition


def test_the_same_seed_sends_the_same_under_new_ids(
    runs: list[tuple[Sent, list[Record]]],
) -> None:
    """By user, because brokers keep order within a partition."""

    def by_user(sent: Sent, records: list[Record]) -> dict[str, list[tuple[Any, ...]]]:
        run = "~" + sent["truth"].split("~")[-1]
        events = defaultdict(list)
        for _, _, each in records:
            assert run in (each.event_id if isinstance(each, Event) else each.search_id)
            if isinstance(each, Event):
                plain = (each.event_id.replace(run, ""), each.item_id, each.action, each.position)
                events[each.user_id].append(plain)
            else:
                events[f"{each.user_id} asks"].append((each.search_id.replace(run, ""), each.query))
        return events

    first, second = (by_user(*run) for run in runs)
    assert first == second


def test_events_happen_now_and_in_the_order_of_the_funnel(
    runs: list[tuple[Sent, list[Record]]],
) -> None:
    order = ("impression", "click", "collect", "cart", "buy")
    last: dict[tuple[str | None, str], int] = {}
    newest: dict[str, int] = {}
    for _, _, each in runs[0][1]:
        if isinstance(each, Event):
            step = order.index(each.action)
            assert step > last.get((each.search_id, each.item_id), -1)
            last[each.search_id, each.item_id] = step
            assert each.ts >= newest.get(each.user_id, 0)
            newest[each.user_id] = each.ts


def test_the_truth_about_a_stream_is_kept(runs: list[tuple[Sent, list[Record]]]) -> None:
    sent, records = runs[0]
    folder = Path(sent["truth"])
    truth = pl.read_parquet(folder / "truth" / "impressions" / "*.parquet")
    shown = {(each["search_id"], each["item_id"]) for each in truth.iter_rows(named=True)}
    clicked = truth.filter(pl.col("clicked_for").is_not_null())
    clicks = {(each["search_id"], each["item_id"]) for each in clicked.iter_rows(named=True)}
    for _, _, each in records:
        if isinstance(each, Event):
            assert (each.search_id, each.item_id) in (
                clicks if each.action != "impression" else shown
            )
    assert json.loads((folder / "simulation.json").read_text())["simulated"] is True
    assert len(pl.read_parquet(folder / "truth" / "users.parquet")) == 40


def test_no_more_is_sent_than_the_rate_allows(shop: Settings) -> None:
    sent = simulate(shop, "--rate", "400", "--messages", "500", "--no-truth", "--no-impressions")
    assert sent["events"] + sent["searches"] == 500
    assert sent["seconds"] >= 500 / 400 - 0.05  # of the last batch nobody waits for the end
    assert sent["truth"] is None
    assert sent["pace"] > 1  # forty people cannot do so much


def test_options_that_do_not_go_together_are_refused(shop: Settings, tmp_path: Path) -> None:
    done = subprocess.run(
        [*COMMAND, "--rate", "5", "--to-files", str(tmp_path), "--to-lake", str(tmp_path)],
        cwd=PROJECT_ROOT,
        env=environment(shop),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 4
    assert "--rate goes without" in done.stderr
    assert "one of them" in done.stderr


def test_as_many_shoppers_are_in_the_shop_as_the_rate_needs(catalogue: Catalogue) -> None:
    plan = live.Plan(rate=30)
    many = live.Crowd.of(Simulation(seed=1, users=20_000), catalogue, plan)
    assert many.pace == 1
    assert many.at_once < 2_000
    few = live.Crowd.of(Simulation(seed=1, users=many.at_once // 2), catalogue, plan)
    assert few.at_once == many.at_once // 2
    assert few.pace == pytest.approx(2, rel=0.3)


def test_every_round_has_as_many_shoppers_and_nobody_is_left_out(catalogue: Catalogue) -> None:
    simulation = Simulation(seed=1, users=50)
    made = live.rounds(simulation, catalogue, at_once=35)
    visited: Counter[str] = Counter()
    for _ in range(10):
        searches = next(made).searches
        users = set(searches["user_id"].to_pylist())
        assert len(users) == 35
        visited.update(users)
    assert set(visited.values()) == {7}
    assert searches["search_id"].to_pylist()[0] == "sim-1-u15-d6-0"


def test_messages_hold_what_every_other_client_sends(catalogue: Catalogue) -> None:
    """Other alphabets, quotes and backslashes included."""
    made = next(live.rounds(Simulation(seed=1, users=50), catalogue, at_once=50))
    batches = list(live.batches(made, live.Clock(live.Plan(rate=0, messages=400))))
    found = [
        decode(value.encode(), now_ms=time.time_ns() // 1_000_000)
        for batch in batches
        for decode, value in zip(
            [decode_search if each else decode_event for each in batch.is_search],
            batch.values,
            strict=True,
        )
    ]
    assert len(found) == 400
    asked = {row["search_id"]: row["query"] for row in made.searches.to_pylist()}
    did = {row["event_id"]: row for row in made.events.to_pylist()}
    for message in found:
        if isinstance(message, Search):
            assert message.query == asked[message.search_id]
        else:
            assert isinstance(message, Event)
            assert asdict(message) == {**did[message.event_id], "ts": message.ts}
    assert any("größe" in message.query for message in found if isinstance(message, Search))
