"""Law 2: a sequence is the newest N distinct events, however they arrive."""

from __future__ import annotations

from functools import reduce

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pagoda.sequences import EMPTY_ITEMS, EMPTY_QUERIES, Sequence, items, merge, queries

# Few times and events, so that ties, duplicates and even contradicting values are common.
lines = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(0, 3)), max_size=12)
limits = st.integers(0, 6)


def sequence(of: list[tuple[int, int, int]]) -> Sequence:
    return items([ts for ts, _, _ in of], [event for _, event, _ in of], [item for *_, item in of])


def newest(of: list[tuple[int, int, int]], limit: int) -> list[tuple[int, int, int]]:
    values: dict[tuple[int, int], int] = {}
    for ts, event, item in of:
        values[ts, event] = max(item, values.get((ts, event), item))
    ordered = sorted((ts, event, item) for (ts, event), item in values.items())
    return ordered[len(ordered) - min(limit, len(ordered)) :]


def as_lines(of: Sequence) -> list[tuple[int, int, int]]:
    return list(zip(of.ts.tolist(), of.event.tolist(), of.value.tolist(), strict=True))


@given(a=lines, b=lines, limit=limits)
def test_merging_keeps_the_newest_distinct_events(
    a: list[tuple[int, int, int]], b: list[tuple[int, int, int]], limit: int
) -> None:
    assert as_lines(merge(sequence(a), sequence(b), limit=limit)) == newest(a + b, limit)


@given(a=lines, b=lines, c=lines, limit=limits)
def test_merging_is_commutative_associative_and_idempotent(
    a: list[tuple[int, int, int]],
    b: list[tuple[int, int, int]],
    c: list[tuple[int, int, int]],
    limit: int,
) -> None:
    x, y, z = (merge(sequence(each), limit=limit) for each in (a, b, c))
    assert merge(x, y, limit=limit) == merge(y, x, limit=limit)
    assert merge(merge(x, y, limit=limit), z, limit=limit) == merge(
        x, merge(y, z, limit=limit), limit=limit
    )
    assert merge(x, x, limit=limit) == x


@given(data=st.data(), of=lines, limit=limits)
def test_any_order_duplication_and_batching_of_arrival_ends_the_same(
    data: st.DataObject, of: list[tuple[int, int, int]], limit: int
) -> None:
    again = data.draw(st.lists(st.sampled_from(of), max_size=8)) if of else []
    arrived = data.draw(st.permutations(of + again))
    size = data.draw(st.integers(1, 5))
    batches = [arrived[begin : begin + size] for begin in range(0, len(arrived), size)]
    state = reduce(
        lambda so_far, batch: merge(so_far, sequence(batch), limit=limit), batches, EMPTY_ITEMS
    )
    assert as_lines(state) == newest(of, limit)


def test_queries_merge_by_time_and_search() -> None:
    merged = merge(
        queries([2, 1], [7, 8], ["red shoes", "shoes"]), queries([2], [7], ["red shoes"]), limit=5
    )
    assert merged.value.tolist() == ["shoes", "red shoes"]
    assert merged.event.tolist() == [8, 7]


def test_keys_and_times_are_64_bits_whatever_they_came_as() -> None:
    short = np.array([1, 2], np.int32)
    for sequence in (items(short, short, short), items([1, 2], iter((1, 2)), (1, 2))):
        assert {sequence.ts.dtype, sequence.event.dtype, sequence.value.dtype} == {
            np.dtype("int64")
        }
        assert as_lines(sequence) == [(1, 1, 1), (2, 2, 2)]


def test_merging_nothing_gives_nothing_of_its_own_kind() -> None:
    assert len(merge(limit=3)) == 0
    assert merge(EMPTY_QUERIES, EMPTY_QUERIES, limit=3).value.dtype == object


@pytest.mark.parametrize("lengths", [(1, 0, 1), (0, 0, 1), (1, 1, 0), (2, 1, 1)])
def test_arrays_of_different_lengths_are_refused(lengths: tuple[int, int, int]) -> None:
    ts, event, value = (np.zeros(length, np.int64) for length in lengths)
    with pytest.raises(ValueError, match=r"^.*$") as refused:
        Sequence(ts=ts, event=event, value=value)
    assert str(refused.value) == (
        "arrays of one sequence differ in length: "
        f"ts {lengths[0]}, event {lengths[1]}, value {lengths[2]}"
    )


def test_sequences_are_equal_if_times_events_and_values_are() -> None:
    one = items([1], [2], [3])
    others = [items([0], [2], [3]), items([1], [0], [3]), items([1], [2], [0]), EMPTY_ITEMS]
    assert one == items([1], [2], [3])
    assert all(one != other for other in [*others, (1, 2, 3)])
