"""Kafka records to what each user did, and what could not be read."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass, field

from jobs.stream.merge import Arrivals
from jobs.stream.rejects import RejectedRecord
from jobs.stream.source import Record
from pagoda.messages import Rejected, Search, decode_event, decode_search
from pagoda.settings import Settings


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Decoded records: what each user did, and what could not be read."""

    arrivals: dict[int, Arrivals] = field(default_factory=lambda: defaultdict(Arrivals))
    rejected: list[RejectedRecord] = field(default_factory=list)


def decode(
    records: Collection[Record], *, settings: Settings, click_actions: Collection[str]
) -> Batch:
    """Group a batch by user. Events that are no clicks are read, and move nothing."""
    batch, searches_topic = Batch(), settings.kafka.searches_topic
    for record in records:
        reads = decode_search if record.topic == searches_topic else decode_event
        message = reads(record.value, now_ms=record.taken_ms)
        if isinstance(message, Rejected):
            batch.rejected.append(
                RejectedRecord(
                    topic=record.topic,
                    partition=record.partition,
                    offset=record.offset,
                    rejected=message,
                    taken_ms=record.taken_ms,
                )
            )
        elif isinstance(message, Search):
            asked = batch.arrivals[message.user_key].queries
            asked.append((message.ts, message.search_key, message.query))
        elif message.action in click_actions:
            clicks = batch.arrivals[message.user_key].clicks
            clicks.append((message.ts, message.event_key, message.item_key))
    return batch
