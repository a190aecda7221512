"""Bare loops over the topics that the sequences consumer reads: poll, decode the JSON, count.

    python -m jobs.bench.loops kafka-python | confluent-kafka

No group, no checks, no state: what no consumer in Python can be faster than. The word `begun` on
stdout says that the client is connected, one JSON line at the end what was read.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Annotated, Literal

import confluent_kafka
import orjson
import typer
from kafka import KafkaConsumer, TopicPartition

from pagoda.console import run
from pagoda.settings import Settings, load

_POLL_S = 0.2

app = typer.Typer(add_completion=False)


@app.command()
def main(
    client: Annotated[Literal["kafka-python", "confluent-kafka"], typer.Argument()],
) -> None:
    """Read both topics from their beginnings to their ends."""
    settings = load()
    connect = _kafka_python if client == "kafka-python" else _librdkafka
    total, poll = connect(settings)
    _say(b"begun")
    records = size = 0
    while records < total:
        for value in poll():
            orjson.loads(value)
            records += 1
            size += len(value)
    _say(orjson.dumps({"records": records, "bytes": size}))


def _kafka_python(settings: Settings) -> tuple[int, Callable[[], list[bytes]]]:
    """How many records there are, and what gives the values of the next ones."""
    consumer = KafkaConsumer(
        bootstrap_servers=settings.kafka.bootstrap_servers,
        enable_auto_commit=False,
        fetch_max_wait_ms=100,
    )
    partitions = [TopicPartition(*each) for each in _partitions(settings)]
    consumer.assign(partitions)
    consumer.seek_to_beginning()
    timeout_ms, limit = int(_POLL_S * 1000), settings.stream.batch_records

    def poll() -> list[bytes]:
        polled = consumer.poll(timeout_ms=timeout_ms, max_records=limit)
        return [record.value for records in polled.values() for record in records]

    return sum(consumer.end_offsets(partitions).values()), poll


def _librdkafka(settings: Settings) -> tuple[int, Callable[[], list[bytes]]]:
    """The same of confluent-kafka."""
    consumer = confluent_kafka.Consumer(
        {
            "bootstrap.servers": settings.kafka.bootstrap_servers,
            "group.id": "bench-loop",  # named, because it must be; never joined
            "enable.auto.commit": False,
        }
    )
    partitions = [
        confluent_kafka.TopicPartition(*each, confluent_kafka.OFFSET_BEGINNING)
        for each in _partitions(settings)
    ]
    total = sum(consumer.get_watermark_offsets(each)[1] for each in partitions)
    consumer.assign(partitions)

    def poll() -> list[bytes]:
        found = consumer.consume(settings.stream.batch_records, timeout=_POLL_S)
        return [value for record in found if (value := record.value()) is not None]

    return total, poll


def _partitions(settings: Settings) -> Iterator[tuple[str, int]]:
    for topic in (settings.kafka.events_topic, settings.kafka.searches_topic):
        for number in range(settings.kafka.partitions):
            yield topic, number


def _say(line: bytes) -> None:
    sys.stdout.buffer.write(line + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    run(app)
