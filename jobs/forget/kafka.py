"""Until when Kafka still holds what a user did."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from kafka.admin import ConfigResource, ConfigResourceType

from pagoda import topics
from pagoda.settings import Settings


def held_until(settings: Settings, *, now: datetime | None = None) -> dict[str, datetime | None]:
    """Topic to the moment by which all that it holds now is deleted; None: never.

    Kafka deletes whole segments: one is closed at most `segment.ms` after its first record, and
    deleted `retention.ms` after its last.

    Raises: DependencyDown("kafka", ...).
    """
    now = now or datetime.now(UTC)
    kafka = settings.kafka
    names = [kafka.events_topic, kafka.searches_topic]
    names += [kafka.rejected(name) for name in kafka.topics]
    topics.ensure(settings)
    with topics.admin(settings) as admin:
        found = admin.describe_configs(
            [ConfigResource(ConfigResourceType.TOPIC, name) for name in names], config_filter="all"
        )["topic"]
    return {name: _until(found[name], now) for name in names}


def _until(config: Any, now: datetime) -> datetime | None:
    retention_ms = int(config["retention.ms"]["value"])
    if retention_ms < 0 or config["cleanup.policy"]["value"] != "delete":
        return None
    return now + timedelta(milliseconds=retention_ms + int(config["segment.ms"]["value"]))
