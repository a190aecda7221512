from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.imports.mapping import Time
from jobs.imports.times import moment


def parsed(value: object, time: Time) -> datetime | None:
    frame = pl.DataFrame({"x": [value]})
    result = frame.select(moment(pl.col("x"), frame.schema["x"], time)).item()
    assert result is None or isinstance(result, datetime)
    return result


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2024-01-02T03:04:05Z", datetime(2024, 1, 2, 3, 4, 5, tzinfo=UTC)),
        ("2024-01-02 03:04:05.123987", datetime(2024, 1, 2, 3, 4, 5, 123_000, tzinfo=UTC)),
        ("2024-01-02T03:04:05+02:00", datetime(2024, 1, 2, 1, 4, 5, tzinfo=UTC)),
        ("2024-01-02T03:04-0500", datetime(2024, 1, 2, 8, 4, tzinfo=UTC)),
        ("2024-01-02", datetime(2024, 1, 2, tzinfo=UTC)),
        ("2024-13-02", None),
        ("yesterday", None),
        ("", None),
    ],
)
def test_iso_times_are_utc_milliseconds(text: str, expected: datetime | None) -> None:
    assert parsed(text, Time()) == expected


@pytest.mark.parametrize(
    ("text", "form", "expected"),
    [
        ("1700000000.1239", "epoch_s", datetime(2023, 11, 14, 22, 13, 20, 123_000, tzinfo=UTC)),
        ("1700000000123", "epoch_ms", datetime(2023, 11, 14, 22, 13, 20, 123_000, tzinfo=UTC)),
        ("nan", "epoch_s", None),
        ("1e30", "epoch_s", None),
        ("20240102", "%Y%m%d", datetime(2024, 1, 2, tzinfo=UTC)),
        ("02/01/2024 13:14 +0200", "%d/%m/%Y %H:%M %z", datetime(2024, 1, 2, 11, 14, tzinfo=UTC)),
    ],
)
def test_other_formats(text: str, form: str, expected: datetime | None) -> None:
    assert parsed(text, Time(format=form)) == expected


def test_naive_times_are_read_in_the_named_zone() -> None:
    vienna = Time(zone="Europe/Vienna")
    assert parsed("2024-07-01 12:00:00", vienna) == datetime(2024, 7, 1, 10, tzinfo=UTC)
    assert parsed(date(2024, 7, 1), vienna) == datetime(2024, 6, 30, 22, tzinfo=UTC)
    aware = datetime(2024, 7, 1, 12, tzinfo=timezone(timedelta(hours=-3)))
    assert parsed(aware, vienna) == datetime(2024, 7, 1, 15, tzinfo=UTC)


def test_a_repeated_hour_is_its_first_pass_and_a_skipped_hour_is_no_time() -> None:
    vienna = Time(zone="Europe/Vienna")
    assert parsed("2024-10-27 02:30:00", vienna) == datetime(2024, 10, 27, 0, 30, tzinfo=UTC)
    assert parsed("2024-03-31 02:30:00", vienna) is None


@given(st.datetimes(datetime(1970, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)))
def test_any_time_written_as_iso_comes_back_truncated_to_milliseconds(ts: datetime) -> None:
    expected = ts.replace(microsecond=ts.microsecond // 1000 * 1000)
    assert parsed(ts.isoformat(), Time()) == expected
    assert parsed(ts.replace(tzinfo=None).isoformat(" "), Time()) == expected
