"""Users whose rows are made together get the rows that each would get alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from jobs.batch import rows, user_day
from jobs.batch.history import Histories, History
from tests.features.histories import SCHEMA, arrivals, days, history_rows, midnights
from tests.features.test_windows import SMALL
from tests.oracles.features import Arrival

# Keys are any 63 bits.
KEYS = (0, 1, 2**62, 2**63 - 1)


@given(data=st.data(), day=days)
def test_users_together_get_the_rows_of_each_alone(data: st.DataObject, day: int) -> None:
    arrived = {key: data.draw(arrivals(day, back=9, size=15)) for key in KEYS}
    on_time = {  # nearly everybody
        key: [Arrival(user="u", ingested=e.happening.ts, happening=e.happening) for e in found]
        if data.draw(st.booleans())
        else found
        for key, found in arrived.items()
    }
    table = table_of({key: found for key, found in on_time.items() if found})
    if not table.num_rows:
        return
    at = midnights(day - 2 * 86_400_000, 4)
    together = user_day.of_users(Histories.of(table), days=at, spec=SMALL)
    alone = (
        batch
        for key, found in on_time.items()
        if found
        for batch in user_day.of_user(
            key, History.of(table_of({key: found}).to_batches())[1], days=at, spec=SMALL
        )
    )
    assert in_order(together) == in_order(alone)


@given(
    sizes=st.lists(st.integers(1, 6), min_size=1, max_size=8),
    batch=st.integers(1, 5),
    chunk=st.integers(1, 8),
)
def test_chunks_hold_whole_users_and_every_row(sizes: list[int], batch: int, chunk: int) -> None:
    user = np.repeat(np.arange(len(sizes)), sizes)
    given_rows = pa.table({"user_key": user, "n": np.arange(len(user))})
    chunks = list(rows.whole_users(given_rows.to_batches(max_chunksize=batch), events=chunk))
    assert pa.concat_tables(chunks)["n"].to_pylist() == given_rows["n"].to_pylist()
    held = [set(each["user_key"].to_pylist()) for each in chunks]
    assert sum(map(len, held)) == len(sizes)
    assert max(each.num_rows for each in chunks) < max(chunk, max(sizes) + 1) + batch


@given(users=st.integers(1, 4), moments=st.integers(1, 4), size=st.integers(1, 5))
def test_moments_come_in_parts_of_a_size_each_once(users: int, moments: int, size: int) -> None:
    keys = np.arange(10, 10 + users)
    whole = rows.Moments(
        user=np.repeat(keys, moments),
        at_ms=np.tile(np.arange(moments), users),
        line=np.arange(users * moments),
    )
    parts = list(whole.in_parts(size))
    assert all(len(each) == size for each in parts[:-1])
    for name in ("user", "at_ms", "line"):
        joined = np.concatenate([getattr(each, name) for each in parts])
        assert joined.tolist() == getattr(whole, name).tolist()


def table_of(arrived: dict[int, list[Arrival]]) -> pa.Table:
    found = [row for key, of_user in arrived.items() for row in history_rows(of_user, user_key=key)]
    return pa.Table.from_pylist(found, schema=SCHEMA)


def in_order(batches: Iterable[pa.RecordBatch] | Iterator[pa.RecordBatch]) -> list[dict[str, Any]]:
    made = [row for batch in batches for row in batch.to_pylist()]
    return sorted(made, key=lambda row: (row["user_key"], row["event_timestamp"], row["created"]))
