"""An item that is sent to Kafka is found by a search: landing, watcher, update, serving."""

from __future__ import annotations

import time
import uuid

import pytest

from pagoda.airflow import Airflow
from pagoda.messages import ItemUpdate, encode, record_key
from pagoda.publisher import open_producer
from tests.road.conftest import Road
from tests.road.test_search import ask

pytestmark = [pytest.mark.airflow, pytest.mark.servers]
_GIVE_UP_S = 180  # far more than it takes: a busy machine is no reason to fail


def test_an_item_that_is_sent_is_found_by_a_search(road: Road, airflow: Airflow) -> None:
    brand = f"brand {uuid.uuid4().hex}"
    sent = ItemUpdate(
        item_id=uuid.uuid4().hex,
        updated_at=time.time_ns() // 1_000_000,
        title="Oat milk, just arrived",
        brand=brand,
        price=2.19,
    )
    producer = open_producer(road.settings)
    producer.send(road.settings.kafka.items_topic, key=record_key(sent), value=encode(sent)).get(
        timeout=30
    )
    producer.close(timeout=1)

    give_up_at = time.monotonic() + _GIVE_UP_S
    while not (found := ask(road, query="oat milk", filters={"brand": [brand]})["results"]):
        assert time.monotonic() < give_up_at, "it was not found"
        time.sleep(0.5)
    (item,) = found
    assert (item["item_id"], item["title"], item["price"]) == (
        sent.item_id,
        sent.title,
        sent.price,
    )
    # The scheduled look may have been the first to bring it; Kafka's message starts a run anyway.
    while "asset_triggered" not in {run.kind for run in airflow.runs("item_updates")}:
        assert time.monotonic() < give_up_at, "the message has started no run"
        time.sleep(0.5)
