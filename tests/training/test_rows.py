from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pagoda import lake
from pagoda.errors import InputError
from pagoda.features import USER_DAY, USER_INTRADAY, Service
from pagoda.schemas import BUILT_DAYS
from pagoda.windows import WindowSpec
from tests.conftest import Home
from tests.training import toy
from training.data import rows
from training.data.lines import Span


def test_only_the_rows_of_the_lines_requests_are_read(tmp_path: Path) -> None:
    """Also where rows of other requests lie between them in time, as of users' last lines."""
    baskets = toy.baskets(12)
    pq.write_table(pa.Table.from_batches([toy.record_batch(baskets)]), tmp_path / "part.parquet")
    some = baskets[2:9:3]
    found = pa.Table.from_batches(rows.read(tmp_path, pl.DataFrame(toy.lines(some))))
    expected = toy.record_batch(some)
    for column in ("user_key", "t_ms", "user_day__click_items"):
        assert found[column].to_pylist() == expected[column].to_pylist()


def test_a_day_without_rows_counts_as_built_if_nothing_came_before_it(home: Home) -> None:
    settings, first = home("built_of_nothing"), date(2026, 9, 1)
    days = [first + timedelta(days=n) for n in range(3)]
    built = [
        {"view": "user_day", "day": days[0], "inputs": [0, 0]},
        {"view": "user_day", "day": days[1], "inputs": [0, 7]},
        {"view": "user_stats", "day": days[2], "inputs": [0, 0]},
    ]
    lake.overwrite(settings, BUILT_DAYS, pa.Table.from_pylist(built, schema=BUILT_DAYS.schema))
    service = Service(name="some", description="", views=(USER_DAY, USER_INTRADAY))
    rows.require_built(settings, service, Span(first=days[0], end=days[1]), WindowSpec())
    with pytest.raises(InputError) as refused:
        rows.require_built(settings, service, Span(first=days[0], end=days[2] + timedelta(1)),
                           WindowSpec())  # fmt: skip
    assert refused.value.problems == [
        f"user_day: features of 2 days were not built, {days[1]} to {days[2]}"
    ]
