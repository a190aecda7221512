"""What was rejected is sent again once it can be read: each record once, also after a kill."""

from __future__ import annotations

import json
from collections import Counter
from datetime import UTC, datetime
from typing import Any

import orjson
import pyarrow as pa
import pytest
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from jobs.stream import retry
from jobs.stream.landed import rejected_row
from jobs.stream.rejects import RejectedRecord
from pagoda import lake
from pagoda.errors import Conflict
from pagoda.messages import Rejected
from pagoda.schemas import REJECTED, RETRIED
from pagoda.settings import Settings
from tests.stream.conftest import rows

pytestmark = pytest.mark.servers
TS = 1_795_000_000_000
NOW = datetime.fromtimestamp(TS / 1000, UTC)


@pytest.fixture
def home(stream_home: Settings, request: pytest.FixtureRequest) -> Settings:
    """The room's topics, and tables of this test alone."""
    namespace = f"retry_{abs(hash(request.node.name)) % 10**8}"
    mine = stream_home.lake.model_copy(update={"namespace": namespace})
    return stream_home.model_copy(update={"lake": mine})


def event(number: int, **fields: Any) -> dict[str, Any]:
    return {
        "schema": 1,
        "event_id": f"retried-{number}",
        "user_id": f"u{number}",
        "item_id": "i1",
        "action": "impression",
        "ts": TS,
        **fields,
    }


def reject(settings: Settings, *messages: dict[str, Any] | bytes, taken_ms: int = TS) -> None:
    """As landing notes them."""
    made = [
        rejected_row(
            RejectedRecord(
                topic=settings.kafka.events_topic,
                partition=0,
                offset=number,
                rejected=Rejected(
                    reason="schema: should be a version from 1 to 0",
                    raw=said if isinstance(said, bytes) else orjson.dumps(said),
                ),
                taken_ms=taken_ms,
            ),
            rejected_at=NOW,
        )
        for number, said in enumerate(messages)
    ]
    lake.open_table(settings, REJECTED).append(pa.Table.from_pylist(made, schema=REJECTED.schema))


def resent(settings: Settings) -> dict[str, tuple[int, bytes]]:
    """Event id to how many retried records there are of it, and their key."""
    topic = settings.kafka.events_topic
    consumer = KafkaConsumer(
        bootstrap_servers=settings.kafka.bootstrap_servers, auto_offset_reset="earliest"
    )
    try:
        partitions = [TopicPartition(topic, each) for each in consumer.partitions_for_topic(topic)]
        consumer.assign(partitions)
        ends = consumer.end_offsets(partitions)
        counts: Counter[str] = Counter()
        keys: dict[str, bytes] = {}
        while any(consumer.position(each) < ends[each] for each in partitions):
            for records in consumer.poll(timeout_ms=500).values():
                for each in records:
                    if dict(each.headers).get(retry.HEADER):
                        event_id = json.loads(each.value)["event_id"]
                        counts[event_id] += 1
                        keys[event_id] = each.key
        return {event_id: (count, keys[event_id]) for event_id, count in counts.items()}
    finally:
        consumer.close()


def test_only_what_can_be_read_now_and_was_right_then_is_sent_and_once(
    home: Settings, producer: KafkaProducer
) -> None:
    topic = home.kafka.events_topic
    ahead = event(2, ts=TS + 3_600_000)  # ahead of Kafka's clock then, though not of ours now
    reject(home, event(1), b"{", ahead, event(3, schema=99))
    dry = retry.retry(home, None)[topic]
    assert (dry.readable, dry.sent, dry.retried_before) == (1, 0, 0)
    assert "retried-1" not in resent(home)
    found = retry.retry(home, producer)[topic]
    assert (found.readable, found.sent) == (1, 1)
    assert found.unreadable.total() == 3
    assert {reason.split(":")[0] for reason in found.unreadable} == {"not JSON", "ts", "schema"}
    again = retry.retry(home, producer)[topic]
    assert (again.readable, again.sent, again.retried_before) == (0, 0, 1)
    sent = resent(home)
    assert sent["retried-1"] == (1, b"u1")
    assert not {"retried-2", "retried-3"} & sent.keys()


def test_the_same_place_with_other_bytes_is_another_record(
    home: Settings, producer: KafkaProducer
) -> None:
    """A topic that was made anew counts from zero again."""
    reject(home, event(4))
    retry.retry(home, producer)
    reject(home, event(5))
    retry.retry(home, producer)
    sent = resent(home)
    assert (sent["retried-4"][0], sent["retried-5"][0]) == (1, 1)


@pytest.mark.parametrize("noted", [0, 1, 2])
def test_a_run_killed_before_it_noted_what_it_sent_repeats_nothing(
    home: Settings, producer: KafkaProducer, monkeypatch: pytest.MonkeyPatch, noted: int
) -> None:
    numbers = range(10 * (noted + 1), 10 * (noted + 1) + 5)
    reject(home, *(event(number) for number in numbers))
    monkeypatch.setattr(retry, "_BATCH", 2)
    really, calls = retry._note, []

    def killed(settings: Settings, marks: list[bytes]) -> None:
        calls.append(marks)
        if len(calls) > noted:
            raise KeyboardInterrupt
        really(settings, marks)

    with monkeypatch.context() as patch:
        patch.setattr(retry, "_note", killed)
        with pytest.raises(KeyboardInterrupt):
            retry.retry(home, producer)
    found = retry.retry(home, producer)[home.kafka.events_topic]
    already = min(2 * (noted + 1), 5)
    assert (found.sent, found.retried_before) == (5 - already, already)
    sent = resent(home)
    assert [sent[f"retried-{number}"][0] for number in numbers] == [1] * 5
    assert len(rows(home, RETRIED)) == 5


def test_two_runs_at_once_are_refused(home: Settings, producer: KafkaProducer) -> None:
    with retry._alone(home), pytest.raises(Conflict, match="being sent already"):
        retry.retry(home, producer)
