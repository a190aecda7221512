"""Which Kafka message is worth a run in Airflow: the first of a burst.

Airflow's Kafka trigger ends with each message that it reports and takes two seconds to listen
again, so a thousand messages would start runs for half an hour. But a run reads all that Kafka
holds COVERED_S after the run's beginning, which comes after the message that started it: what
follows within that time needs no run of its own.

The triggerer of Airflow's own environment imports this by name, so it needs nothing but Python.
"""

from __future__ import annotations

import time
from typing import Any, Protocol

COVERED_S = 2.0
# Far beyond what clocks differ by: what Kafka took so long before a run was started, the run reads.
_CERTAINLY_BEFORE_S = 60.0


class Record(Protocol):
    """What is asked of a message of confluent-kafka."""

    def timestamp(self) -> tuple[int, int]:
        """The kind of the time, and when Kafka took the record, epoch milliseconds."""
        ...

    def topic(self) -> str:
        """Its topic."""
        ...


class Bursts:
    """Remembers, for each topic, until when the run that was started last covers all messages."""

    def __init__(self) -> None:
        self._covered_ms: dict[str, float] = {}

    def first_of_burst(self, message: Record, *, now_ms: float) -> dict[str, Any] | None:
        """What the event says if the message is worth a run, else None.

        Args:
            message: taken by Kafka, which stamps it (LogAppendTime), at most `now_ms`.
        """
        topic, (_, taken_ms) = message.topic(), message.timestamp()
        if taken_ms <= self._covered_ms.get(topic, 0):
            return None
        self._covered_ms[topic] = max(
            taken_ms + COVERED_S * 1000, now_ms - _CERTAINLY_BEFORE_S * 1000
        )
        return {"topic": topic, "taken_ms": taken_ms}


_bursts = Bursts()


def worth_a_run(message: Record) -> dict[str, Any] | None:
    """`apply_function` of Airflow's trigger."""
    return _bursts.first_of_burst(message, now_ms=time.time() * 1000)
