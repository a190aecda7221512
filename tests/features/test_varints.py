"""Packed integers are what protobuf itself makes of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pagoda import online_layout, varints
from pagoda.features import SEQUENCES_STATS_V1, USER_INTRADAY
from pagoda.online_layout import Damaged, StampedRow, Value

# Around every length that a varint can have, and negative numbers, which have ten bytes.
EDGES = [sign * 2**power + step for power in range(63) for sign in (1, -1) for step in (-1, 0)]
NUMBERS = st.integers(-(2**63), 2**63 - 1) | st.sampled_from(EDGES)
LISTS = st.lists(NUMBERS, max_size=20) | st.integers(0, 400).map(lambda n: [2**62 + n] * n)


def held_as(numbers: list[int]) -> bytes:
    value = Value()
    value.int64_list_val.SetInParent()
    value.int64_list_val.val.extend(numbers)
    return bytes(value.SerializeToString())


@given(rows=st.lists(st.lists(LISTS, min_size=3, max_size=3), max_size=4))
def test_lists_of_many_rows_are_what_was_written(rows: list[list[list[int]]]) -> None:
    columns = ("click_ts", "click_events", "click_items")
    view = USER_INTRADAY.only(*columns)
    stamp = online_layout.stamp(7)
    parts = [(view, [*map(held_as, lists), stamp]) for lists in rows]
    arrays = [
        {name: np.array(each, np.int64) for name, each in zip(columns, lists, strict=True)}
        for lists in rows
    ]
    assert [list(held.values()) for held in online_layout.encode(view, arrays)] == [
        held[:-1] for _, held in parts
    ]
    decoded = online_layout.decode(parts)
    assert [
        row.values and online_layout.plain(row.values) if isinstance(row, StampedRow) else row
        for row in decoded
    ] == [dict(zip(columns, lists, strict=True)) for lists in rows]


def test_what_is_not_packed_is_read_by_protobuf() -> None:
    one_by_one = bytes.fromhex("720408010802")  # two entries, not a packed list
    assert Value.FromString(one_by_one).int64_list_val.val == [1, 2]
    view = USER_INTRADAY.only("click_ts")
    (row,) = online_layout.decode([(view, [one_by_one, online_layout.stamp(7)])])
    assert isinstance(row, StampedRow)
    np.testing.assert_array_equal(row.values["click_ts"], [1, 2])
    assert row.values["click_ts"].dtype == np.int64


@pytest.mark.parametrize(
    "broken",
    [
        pytest.param(held_as([1, 2**40])[:-1], id="cut short"),
        pytest.param(held_as([1, 2**40])[:-1] + b"\xff", id="ends within an integer"),
        pytest.param(b"r\x0d\n\x0b" + b"\xff" * 10 + b"\x01", id="eleven bytes"),
        pytest.param(bytes(Value(int64_val=3).SerializeToString()), id="no list"),
    ],
)
def test_one_damaged_row_leaves_the_others_alone(broken: bytes) -> None:
    view, stamp = USER_INTRADAY.only("click_ts"), online_layout.stamp(7)
    before, damaged, absent, after = online_layout.decode(
        [
            (view, [held_as([1]), stamp]),
            (view, [broken, stamp]),
            (view, [None, None]),
            (view, [held_as([2**62]), stamp]),
        ]
    )
    assert isinstance(damaged, Damaged)
    assert absent is None
    for row, numbers in ((before, [1]), (after, [2**62])):
        assert isinstance(row, StampedRow)
        assert online_layout.plain(row.values) == {"click_ts": numbers}


def test_columns_keep_their_order_and_kinds() -> None:
    made: dict[str, Any] = {}
    for view in SEQUENCES_STATS_V1.views:
        held: list[bytes | None] = [None] * (len(view.columns) + 1)
        held[-1] = online_layout.stamp(7)
        (row,) = online_layout.decode([(view, held)])
        assert isinstance(row, StampedRow)
        assert list(row.values) == list(view.columns)
        made |= row.values
    assert set(made.values()) == {None}
    assert varints.decode([]) == []
    assert [each.tolist() for each in varints.decode([b"", b"\x01", b""])] == [[], [1], []]
