"""On real purchases: at the moment of a request the windows are full, not just well-formed."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

import pandas as pd
import pytest
from pyspark.sql import SparkSession

from jobs.batch import build
from jobs.batch.build import Days
from jobs.imports.completejourney import CompleteJourney
from jobs.imports.run import run_import
from pagoda import dataset, features, lake, schemas, store
from pagoda.windows import DAY_MS, Windows, WindowSpec, start_of_day
from tests.conftest import Home
from tests.features.reading import entity_frame, historical, windows_of

pytestmark = pytest.mark.spark

HOUSEHOLDS, BUILT_DAYS = 60, 6


@dataclass(frozen=True)
class Request:
    """A real search, what its windows held, and how often its user had bought before."""

    windows: Windows
    recent: int  # in the ten days before, up to the search
    before: int  # in the twenty days before those


@pytest.fixture(scope="module")
def requests(spark: SparkSession, home: Home) -> list[Request]:
    """Every search of the slice's last days, as a training row has it."""
    settings = home("slice")
    run_import(settings, CompleteJourney(households=HOUSEHOLDS))
    last = dataset.load(settings).last_day
    days = Days(first=last - timedelta(days=BUILT_DAYS - 1), last=last)
    build.build_all(spark, settings, days)
    store.apply(settings)
    events = lake.open_table(settings, schemas.EVENTS).scan().to_arrow().to_pandas()
    searches = lake.open_table(settings, schemas.SEARCHES).scan().to_arrow().to_pandas()
    asked = searches[searches.ts >= pd.Timestamp(days.first, tz="UTC") + pd.Timedelta(hours=1)]
    t = (asked.ts - pd.Timestamp(0, tz="UTC")) // pd.Timedelta(milliseconds=1)
    pairs = sorted(set(zip(asked.user_key, t, strict=True)))
    return [
        Request(
            windows=windows_of(row),
            recent=bought(events, row, from_days=10, to_ms=row["t"]),
            before=bought(events, row, from_days=30, to_ms=start_of_day(row["t"]) - 10 * DAY_MS),
        )
        for row in historical(settings, features.SEQUENCES_V1, entity_frame(pairs, "user_key"))
    ]


def bought(events: pd.DataFrame, row: dict, *, from_days: int, to_ms: int) -> int:
    begin = pd.Timestamp(start_of_day(row["t"]) - from_days * DAY_MS, unit="ms", tz="UTC")
    end = pd.Timestamp(to_ms, unit="ms", tz="UTC")
    mine = events[events.user_key == row["user_key"]]
    return int(((mine.ts >= begin) & (mine.ts < end)).sum())


def test_there_are_enough_requests_to_judge(requests: list[Request]) -> None:
    assert len(requests) > HOUSEHOLDS / 2


def test_who_was_active_lately_has_real_time_clicks_and_queries(requests: list[Request]) -> None:
    active = [each for each in requests if each.recent]
    assert active
    filled = [each for each in active if len(each.windows.real_time) and len(each.windows.queries)]
    assert len(filled) >= 0.8 * len(active)


def test_who_was_active_before_has_long_term_clicks(requests: list[Request]) -> None:
    active = [each for each in requests if each.before]
    assert active
    filled = [each for each in active if len(each.windows.long_term["click"])]
    assert len(filled) >= 0.8 * len(active)


def test_more_than_fifty_clicks_spill_into_the_short_term(requests: list[Request]) -> None:
    busy = [each for each in requests if each.recent > WindowSpec().real_time]
    assert busy
    assert all(len(each.windows.short_term) == min(each.recent - 50, 100) for each in busy)
