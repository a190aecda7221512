"""What happens to events on the road: parity, and a killed consumer."""

from __future__ import annotations

import json
import os
import signal
import time
import uuid
from collections.abc import Callable

import pytest

from pagoda.airflow import Airflow
from pagoda.features import SEQUENCES_V1
from pagoda.ids import key_of
from pagoda.messages import Event, encode, record_key
from pagoda.online import OnlineReader, connect
from pagoda.publisher import open_producer
from tests.road.conftest import HOUSEHOLDS, Road, pagoda

pytestmark = [pytest.mark.airflow, pytest.mark.servers]


def test_killing_the_consumer_loses_nothing(road: Road) -> None:
    users = [f"shopper-{number}" for number in range(3)]
    events = [_click(users[number % 3], number) for number in range(300)]
    first_pid = _consumer_pid(road)
    assert first_pid is not None
    producer = open_producer(road.settings)
    for number, event in enumerate(events):
        if number == 150:
            producer.flush()
            os.kill(first_pid, signal.SIGKILL)
        producer.send(road.settings.kafka.events_topic, value=encode(event), key=record_key(event))
    producer.close()
    wanted = {user: {e.event_key for e in events if e.user_id == user} for user in users}
    _wait_until(lambda: {user: _online_events(road, user) for user in users} == wanted)
    _wait_until(lambda: _consumer_pid(road) not in (None, first_pid))


def test_a_changed_byte_in_redis_turns_the_parity_dag_red(road: Road, airflow: Airflow) -> None:
    user, restore = _change_a_byte(road)
    try:
        ran = pagoda(road.settings, "run", "parity", "--param", f"users={2 * HOUSEHOLDS}")
    finally:
        restore()
    assert ran.returncode == 1, ran.stderr[-3000:]
    red = airflow.runs("parity")[0]
    assert red.state == "failed"
    counts = airflow.xcom(red, "online", "metrics")
    assert counts["pagoda_parity_online_differences"] == 2
    assert counts["pagoda_parity_online_compared"] >= HOUSEHOLDS / 2
    (task,) = (each for each in airflow.tasks(red) if each.task_id == "online")
    assert task.try_number == 1, "trying again cannot help"
    log = "\n".join(airflow.log(red, task))
    assert user in log
    assert "other_value" in log
    assert "completejourney" in log, "the record's source"


def _change_a_byte(road: Road) -> tuple[str, Callable[[], None]]:
    """Flip one bit of the newest clicked item in a user's batch row; the user, and the way back."""
    reader = OnlineReader(road.settings, SEQUENCES_V1)
    field = _field("user_day", "click_items")
    with road.search as http:
        user = str(http.get("/users/examples").json()[0]["user_id"])
    key = reader.redis_key(key_of("user", user))
    with connect(road.settings) as client:
        held = client.hget(key, field)
        assert isinstance(held, bytes)
        client.hset(key, field, held[:-1] + bytes([held[-1] ^ 1]))

    def restore() -> None:
        with connect(road.settings) as client:
            client.hset(key, field, held)

    return user, restore


def _field(view: str, column: str) -> bytes:
    from feast.infra.online_stores.helpers import _mmh3

    return bytes(_mmh3(f"{view}:{column}"))


def _click(user: str, number: int) -> Event:
    return Event(
        event_id=f"killed-{uuid.uuid4().hex}",
        user_id=user,
        item_id=str(number),
        action="click",
        ts=time.time_ns() // 1_000_000,
    )


def _online_events(road: Road, user: str) -> set[int]:
    rows = OnlineReader(road.settings, SEQUENCES_V1).read(
        key_of("user", user), time.time_ns() // 1_000_000
    )
    row = rows["user_intraday"]
    return set(row["click_events"]) if row else set()


def _consumer_pid(road: Road) -> int | None:
    try:
        said = json.loads((road.settings.run / "sequences.ready").read_text())
    except FileNotFoundError:
        return None
    return int(said["pid"])


def _wait_until(holds: Callable[[], bool], within_s: float = 60) -> None:
    give_up_at = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < give_up_at, "it did not come about in time"
        time.sleep(0.2)
