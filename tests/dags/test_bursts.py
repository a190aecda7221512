"""Which messages start a run: every message is covered by one, and a burst by few."""

from __future__ import annotations

import random
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from pagoda.bursts import COVERED_S, Bursts


@dataclass(frozen=True)
class Record:
    """A message as confluent-kafka shows it."""

    taken_ms: int
    name: str = "item-updates"

    def timestamp(self) -> tuple[int, int]:
        return 2, self.taken_ms

    def topic(self) -> str:
        return self.name


NOW = 1_795_000_000_000


def test_a_burst_starts_one_run_and_what_follows_the_next() -> None:
    bursts = Bursts()
    burst = [bursts.first_of_burst(Record(NOW + n), now_ms=NOW + n) for n in range(1000)]
    assert burst[0] == {"topic": "item-updates", "taken_ms": NOW}
    assert not any(burst[1:])
    later = NOW + 1000 * COVERED_S + 1
    assert bursts.first_of_burst(Record(int(later)), now_ms=later)


def test_what_waited_while_airflow_was_down_starts_one_run() -> None:
    bursts = Bursts()
    waited = [Record(NOW - n * 1000) for n in range(86_400, 100, -60)]
    assert sum(bool(bursts.first_of_burst(each, now_ms=NOW)) for each in waited) == 1


def test_topics_do_not_cover_each_other() -> None:
    bursts = Bursts()
    assert bursts.first_of_burst(Record(NOW), now_ms=NOW)
    assert bursts.first_of_burst(Record(NOW, "others"), now_ms=NOW)


@given(
    gaps_ms=st.lists(st.integers(0, 5_000), min_size=1, max_size=40),
    lags_ms=st.lists(st.integers(0, 200_000), min_size=40, max_size=40),
    starts_ms=st.lists(st.integers(0, 30_000), min_size=40, max_size=40),
    skew_ms=st.integers(-30_000, 30_000),
    order=st.randoms(use_true_random=False),
)
def test_every_message_is_read_by_a_run_that_looks_after_it_was_taken(
    gaps_ms: list[int],
    lags_ms: list[int],
    starts_ms: list[int],
    skew_ms: int,
    order: random.Random,
) -> None:
    """Beside the definition of a run: it begins after its event, and looks COVERED_S later.

    Messages of several partitions come in any order; the triggerer's clock differs from Kafka's.
    """
    taken, at = [], NOW
    for gap in gaps_ms:
        at += gap
        taken.append(at)
    order.shuffle(taken)
    bursts = Bursts()
    looks, clock = [], 0.0
    for moment, lag, start in zip(taken, lags_ms, starts_ms, strict=False):
        clock = max(clock, moment + lag)  # it comes to be read only after it was taken
        if bursts.first_of_burst(Record(moment), now_ms=clock + skew_ms):
            looks.append(clock + start + COVERED_S * 1000)
    assert max(looks) >= max(taken)
