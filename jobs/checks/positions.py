"""Where the topics end, and how far the two readers of them are."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping

from kafka import KafkaAdminClient, TopicPartition
from kafka.admin import OffsetSpec
from kafka.errors import (
    CoordinatorLoadInProgressError,
    CoordinatorNotAvailableError,
    NotCoordinatorError,
)
from tenacity import retry, retry_if_exception_type, stop_after_delay, wait_fixed

from jobs.stream.landed import position
from jobs.stream.routes import routes
from pagoda import topics
from pagoda.errors import CheckFailed
from pagoda.settings import Settings

Ends = Mapping[TopicPartition, int]
_ASK_S = 0.2
# What Kafka answers about a group while its coordinator comes up, and nothing of what is wrong.
_COMING_UP = (CoordinatorNotAvailableError, NotCoordinatorError, CoordinatorLoadInProgressError)


class Positions:
    """Topics: their ends, and the readers' positions."""

    def __init__(
        self, settings: Settings, admin: KafkaAdminClient, names: Iterable[str] = ()
    ) -> None:
        """Look the topics up: those named, or those that carry behaviour."""
        self._settings = settings
        self._admin = admin
        self._topics = topics.ensure(settings)
        kafka = settings.kafka
        self._partitions = [
            TopicPartition(name, partition)
            for name in names or (kafka.events_topic, kafka.searches_topic)
            for partition in range(self._topics[name].partitions)
        ]

    def ends(self) -> Ends:
        """The offset after the last record of each partition, now."""
        found = self._admin.list_partition_offsets(
            dict.fromkeys(self._partitions, OffsetSpec.LATEST)
        )
        return {partition: at.offset for partition, at in found.items()}

    # A broker that has seen no group yet makes its coordinator at the first question.
    @retry(
        retry=retry_if_exception_type(_COMING_UP),
        stop=stop_after_delay(30),
        wait=wait_fixed(0.5),
        reraise=True,
    )
    def consumed(self) -> Ends:
        """What the sequences consumer has written online and committed."""
        group = self._settings.kafka.stream_group
        return {
            partition: at.offset
            for partition, at in self._admin.list_group_offsets([group])[group].items()
        }

    def landed(self) -> Ends:
        """What the lake holds."""
        return {
            TopicPartition(route.topic, partition): offset
            for route in routes(self._settings.kafka)
            for partition, offset in position(
                self._settings, route, self._topics[route.topic]
            ).offsets.items()
        }

    def wait_consumed(self, ends: Ends, timeout_s: float) -> None:
        """Until the online state holds everything before `ends`. Raises: CheckFailed."""
        _wait("sequences", self.consumed, ends, timeout_s)

    def wait_landed(self, ends: Ends, timeout_s: float) -> None:
        """Until the lake holds everything before `ends`. Raises: CheckFailed."""
        _wait("landing", self.landed, ends, timeout_s)


def _wait(name: str, reached: Callable[[], Ends], ends: Ends, timeout_s: float) -> None:
    give_up = time.monotonic() + timeout_s
    while True:
        at = reached()
        behind = {
            partition: end - at.get(partition, 0)
            for partition, end in ends.items()
            if at.get(partition, 0) < end
        }
        if not behind:
            return
        if time.monotonic() > give_up:
            raise CheckFailed(
                f"{name} did not catch up within {timeout_s:.0f} s",
                found=", ".join(
                    f"{each.topic}:{each.partition} lacks {lag}" for each, lag in behind.items()
                ),
                next_step=f"Does `{name}` run? See `pagoda status` and its log.",
            )
        time.sleep(_ASK_S)
