"""Which records a consumer reads again, and when: on a real broker, over lives that just end."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from kafka import KafkaProducer

from jobs.stream.click_actions import ClickActions
from jobs.stream.merge import Arrivals
from jobs.stream.metrics import Metrics
from jobs.stream.sequences import Consumer
from jobs.stream.source import LastWords, Source
from pagoda import dataset
from pagoda.errors import Conflict, DependencyDown, SettingsError
from pagoda.settings import Settings
from tests.stream.conftest import MakeHome, send, until
from tests.stream.test_online_rows import ListSink

pytestmark = pytest.mark.servers


@dataclass
class Store:
    """Takes what is merged, unless it is away."""

    away: bool = False
    merged: list[tuple[int, int]] = field(default_factory=list)  # ts, event

    def ping(self) -> None:
        if self.away:
            raise DependencyDown("redis", "gone")

    def merge(self, arrivals: Mapping[int, Arrivals], *, now_ms: int) -> int:  # noqa: ARG002
        if self.away:
            raise DependencyDown("redis", "gone")
        self.merged += [each[:2] for of in arrivals.values() for each in of.clicks]
        return len(arrivals)


@dataclass
class Life:
    """One life of a consumer; it ends without a word when it is dropped."""

    settings: Settings
    store: Store

    def __post_init__(self) -> None:
        actions = ClickActions(self.settings)
        self.source = Source(self.settings, read_as=str(actions))
        self.consumer = Consumer(
            settings=self.settings,
            source=self.source,
            state=self.store,  # type: ignore[arg-type]
            rejects=ListSink(),
            clock_ms=lambda: time.time_ns() // 1_000_000,
            click_actions=actions,
            metrics=Metrics(),
        )

    def live(self, until_merged: int) -> None:
        """Step until so many clicks were merged in this store."""

        def reached() -> bool:
            self.step()
            return len(self.store.merged) >= until_merged

        until(reached, what=f"{until_merged} merged, not {self.store.merged}")

    def step(self) -> None:
        try:
            self.consumer.step()
        except (DependencyDown, Conflict):
            time.sleep(0.05)

    def settle(self) -> None:
        """Step until nothing more comes."""
        before = -1
        while before != len(self.store.merged):
            before = len(self.store.merged)
            for _ in range(5):
                self.step()

    def kill(self) -> None:
        """End as kill -9 does: nothing is committed, nobody leaves the group."""
        self.source._consumer._coordinator._close_heartbeat()
        self.source._consumer._client.close()


@pytest.fixture
def home(make_home: MakeHome, request: pytest.FixtureRequest) -> Settings:
    made = make_home(f"source_{abs(hash(request.node.name)) % 10**8}")
    few = made.stream.model_copy(update={"batch_records": 2, "rewind_s": 0.5})
    return made.model_copy(update={"stream": few})


def clicks(count: int, action: str = "click") -> list[dict[str, Any]]:
    now_ms = int(time.time() * 1000)
    return [
        {
            "event_id": f"{action}{number}",
            "user_id": f"u{number % 3}",
            "item_id": "i",
            "action": action,
            "ts": now_ms - count + number,
        }
        for number in range(count)
    ]


def test_what_a_store_took_last_is_read_again_however_long_it_was_away(
    home: Settings, producer: KafkaProducer
) -> None:
    store = Store()
    life = Life(home, store)
    send(home, producer, clicks(4))
    life.live(until_merged=4)
    written, store.merged = set(store.merged), []
    store.away = True
    send(home, producer, clicks(4, "click-more"))
    give_up = time.monotonic() + 3 * home.stream.rewind_s
    while time.monotonic() < give_up:
        life.step()
    store.away = False
    life.settle()
    assert written <= set(store.merged)
    life.source.close()


def test_a_new_set_of_click_actions_reads_all_again_also_over_kills_and_while_nobody_runs(
    home: Settings, producer: KafkaProducer
) -> None:
    send(home, producer, [*clicks(6), *clicks(6, "buy")])
    store = Store()
    life = Life(home, store)
    life.live(until_merged=6)
    life.settle()
    assert len(set(store.merged)) == 6

    actions(home, "click", "buy")  # while it runs
    life.live(until_merged=len(store.merged) + 3)
    life.kill()  # in the middle
    life = Life(home, store)
    life.settle()
    assert len(set(store.merged)) == 12
    life.kill()

    actions(home, "click", "buy", "cart")  # while nobody runs
    store = Store()
    life = Life(home, store)
    life.settle()
    assert len(set(store.merged)) == 12
    life.kill()

    life = Life(home, store)
    life.settle()
    time.sleep(2 * home.stream.rewind_s)
    late = clicks(6, "cart")  # on all partitions
    send(home, producer, late)
    life.settle()
    life.kill()
    store = Store()
    life = Life(home, store)  # nothing has changed: only the last seconds
    life.settle()
    assert {ts for ts, _ in store.merged} == {each["ts"] for each in late}
    life.source.close()


def test_a_consumer_whose_name_was_taken_can_commit_nothing_and_says_so(
    home: Settings, producer: KafkaProducer
) -> None:
    older, newer = Source(home), Source(home)
    until(lambda: not older.poll(0.1) and older.joined, what="the older has joined")
    until(lambda: not newer.poll(0.1) and newer.joined, what="the newer has joined at once")
    send(home, producer, clicks(2))
    until(lambda: bool(older.poll(0.1)), what="the older still reads")
    with pytest.raises(SettingsError, match="name"):
        older.commit()
    newer.close()


def test_last_words_of_earlier_versions_mean_reading_anew() -> None:
    words = LastWords(start=7, read_as="buy click")
    assert LastWords.decode(words.encode()) == words
    for said in ("", "123", "{}", '{"start": null, "read_as": ""}'):
        assert LastWords.decode(said) is None


def actions(settings: Settings, *click_actions: str) -> None:
    day = "2026-01-01"
    fields = {"first_day": day, "last_day": day, "validation_from": day, "test_from": day}
    dataset.save(
        settings,
        dataset.Dataset.model_validate(
            {
                "name": "made up",
                "query_protocol": "",
                "fingerprint": "",
                "click_actions": click_actions,
                **fields,
            }
        ),
    )
