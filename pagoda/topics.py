"""Kafka's topics as the platform needs them, made where they are missing.

`ingested_at` is Kafka's LogAppendTime: a topic stamped by its producers would let a client's clock
decide what was known when (law 3), so such a topic is refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from kafka import KafkaAdminClient
from kafka.admin import ConfigResource, ConfigResourceType, NewTopic
from kafka.errors import KafkaError, TopicAlreadyExistsError

from pagoda.errors import DependencyDown, SettingsError
from pagoda.settings import Settings

# A rejected record carries a whole record of Kafka's default limit (1 MiB) as base64.
MAX_REJECTED_BYTES = 2 * 1024 * 1024
_STAMP = "message.timestamp.type"
_BOOTSTRAP_MS = 5_000


@dataclass(frozen=True, kw_only=True)
class Topic:
    """A topic as the cluster has it.

    Attributes:
        topic_id: Kafka's UUID of it: a topic that was deleted and made again has another one.
    """

    name: str
    topic_id: str
    partitions: int


def ensure(settings: Settings) -> dict[str, Topic]:
    """Make the topics that are missing; name to topic, input and rejected ones alike.

    Raises: DependencyDown if Kafka does not answer, SettingsError naming every topic whose
    timestamps are not LogAppendTime.
    """
    wanted = _wanted(settings)
    with admin(settings) as client:
        present = set(client.list_topics())
        missing = [topic for name, topic in wanted.items() if name not in present]
        if missing:
            # Whoever was first is held to the same rules by the check below.
            with suppress(TopicAlreadyExistsError):
                client.create_topics(missing, timeout_ms=15_000, wait_for_metadata=True)
        _check_timestamps(client, list(wanted))
        return {
            each["name"]: Topic(
                name=each["name"],
                topic_id=str(each["topic_id"]),
                partitions=len(each["partitions"]),
            )
            for each in client.describe_topics(list(wanted))
        }


@contextmanager
def admin(settings: Settings) -> Iterator[KafkaAdminClient]:
    """An admin client. Raises: DependencyDown("kafka", ...), also for calls within."""
    client = None
    try:
        client = KafkaAdminClient(
            bootstrap_servers=settings.kafka.bootstrap_servers,
            bootstrap_timeout_ms=_BOOTSTRAP_MS,
            request_timeout_ms=15_000,
        )
        yield client
    except (KafkaError, OSError) as error:
        where = settings.kafka.bootstrap_servers
        raise DependencyDown("kafka", f"{where}: {type(error).__name__}: {error}") from error
    finally:
        if client is not None:
            client.close()


def _wanted(settings: Settings) -> dict[str, NewTopic]:
    kafka = settings.kafka
    inputs = {
        name: NewTopic(
            name,
            num_partitions=kafka.partitions,
            replication_factor=-1,
            topic_configs={_STAMP: "LogAppendTime"},
        )
        for name in kafka.topics
    }
    rejected = {
        kafka.rejected(name): NewTopic(
            kafka.rejected(name),
            num_partitions=1,
            replication_factor=-1,
            topic_configs={
                _STAMP: "LogAppendTime",
                "max.message.bytes": str(MAX_REJECTED_BYTES),
            },
        )
        for name in kafka.topics
    }
    return inputs | rejected


def _check_timestamps(client: KafkaAdminClient, names: list[str]) -> None:
    described = client.describe_configs(
        [ConfigResource(ConfigResourceType.TOPIC, name) for name in names], config_filter="all"
    )
    by_name = described["topic"]
    wrong = [name for name in names if by_name[name][_STAMP]["value"] != "LogAppendTime"]
    if wrong:
        raise SettingsError(
            f"{_STAMP} is not LogAppendTime",
            where=f"Kafka topics {', '.join(wrong)}",
            next_step="Set it with `kafka-configs --alter --add-config`, or name other topics.",
        )
