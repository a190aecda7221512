"""What the check says of a shop whose features are known, and which limits name what."""

from __future__ import annotations

import math
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from jobs.quality import show
from jobs.quality.check import Column, check
from jobs.quality.judge import judge
from pagoda import textfile
from pagoda.features import USER_STATS, VIEWS
from pagoda.settings import Quality, Settings
from tests.oracles import drift as oracle
from tests.quality.conftest import NOW, TODAY, USERS, WAITING, WRITTEN_MS, Shop

pytestmark = pytest.mark.servers

GENEROUS = Quality(
    max_age_hours=1e6,
    max_behind_hours=1e6,
    max_wait_s=1e6,
    max_null_rate=1,
    max_null_rise=1,
    psi_warn=1e6,
    psi_fail=1e6,
)


def column(shop: Shop, view: str, name: str) -> Column:
    found = next(each for each in shop.report.views if each.view.name == view)
    return next(each for each in found.columns if each.name == name)


def weeks(shop: Shop, view: str, name: str) -> tuple[list[Any], list[Any]]:
    """This week's values and the reference week's, as they were written."""
    rows = shop.rows[view]
    last = [row[name] for row in rows if (TODAY - row["day"]).days < 7]
    return last, [row[name] for row in rows if (TODAY - row["day"]).days >= 7]


@pytest.mark.parametrize("name", ["click_ts", "query_texts", "long_collect_items"])
def test_a_sequence_is_judged_by_its_lengths(shop: Shop, name: str) -> None:
    found = column(shop, "user_day", name)
    current, reference = (
        [float(len(each)) for each in week] for week in weeks(shop, "user_day", name)
    )
    assert found.current.total == 7 * USERS
    assert found.current.quantile(0.5) == oracle.quantile(current, 50)
    assert found.empty_rate(found.current) == current.count(0) / len(current)
    assert math.isclose(found.psi or 0, oracle.psi(reference, current))


def test_a_number_is_judged_by_its_value_to_three_digits(shop: Shop) -> None:
    found = column(shop, "user_stats", "mean_price_30d")
    current, reference = weeks(shop, "user_stats", "mean_price_30d")
    assert found.current.null_rate == current.count(None) / len(current)
    assert found.current.quantile(0.95) == pytest.approx(oracle.quantile(current, 95), rel=0.005)
    assert math.isclose(found.psi or 0, oracle.psi(reference, current), rel_tol=0.01)


def test_rows_that_stay_valid_count_from_the_beginning(shop: Shop) -> None:
    found = column(shop, "item_profile", "brand")
    assert (found.current.total, found.reference.total) == (30, 29)
    assert found.empty_rate(found.current) == 20 / 30
    assert column(shop, "item_profile", "title").current.null_rate == 1


def test_the_online_store_is_looked_at_row_by_row(shop: Shop) -> None:
    found = next(each for each in shop.report.views if each.view.name == "user_day")
    online = found.online
    assert online is not None
    assert (online.rows, online.expired, online.damaged) == (4, 1, 1)
    assert online.newest_ms == WRITTEN_MS
    clicks = column(shop, "user_day", "click_ts")
    assert clicks.online is not None
    assert (clicks.online.total, clicks.empty_rate(clicks.online)) == (3, 1 / 3)
    texts = column(shop, "user_day", "query_texts").online
    assert texts is not None
    assert texts.null_rate == 1 / 3


def test_a_walk_cut_short_is_a_sample(shop: Shop) -> None:
    few = shop.settings.quality.model_copy(update={"online_keys": 2, "online_rows": 1})
    settings = shop.settings.model_copy(update={"quality": few})
    report = check(settings, at=NOW, say=lambda _: None)
    found = next(each for each in report.views if each.view.name == "user_day")
    assert found.online is not None
    assert found.online.rows == 2
    assert sum(each.total for each in found.online.columns.values()) <= len(found.columns)


def test_what_no_reader_has_read_waits(shop: Shop) -> None:
    waiting = {(each.reader, each.topic): each for each in shop.report.backlogs}
    kafka = shop.settings.kafka
    for reader in ("sequences", "landing"):
        events, searches = (
            waiting[reader, topic] for topic in (kafka.events_topic, kafka.searches_topic)
        )
        assert events.records == WAITING
        assert 0 < searches.records + events.waited_s < 3600
        assert (searches.records, searches.waited_s) == (0, 0)


def test_nothing_is_found_within_generous_limits_but_damage(shop: Shop) -> None:
    assert {(each.level, each.where, each.what) for each in judge(shop.report, GENEROUS)} == {
        ("fail", "user_day.query", "lists of different lengths"),
        ("fail", "user_day online", "damaged rows"),
        # These views were never built; one has no rows online either.
        ("fail", "item_stats offline", "newest row"),
        ("fail", "item_stats online", "newest row"),
        ("fail", "user_items offline", "newest row"),
        ("fail", "user_items online", "newest row"),
        ("fail", "user_stats online", "newest row"),
        ("fail", "user_intraday offline", "newest row"),
    }


@pytest.mark.parametrize(
    ("limits", "named"),
    [
        ({"max_age_hours": 1e-6}, {"user_day offline", "user_day online", "user_stats offline"}),
        ({"max_event_age_hours": 1e-9}, {"lake"}),
        (
            {"max_wait_s": 1e-6},
            {"sequences, topic quality-events", "landing, topic quality-events"},
        ),
        ({"max_null_rate": 0}, {"user_stats.clicks_7d", "user_day.query_texts online"}),
        (
            {"max_null_rise": 0.05},
            {"user_stats.mean_price_30d", "user_day.query_texts online"},
        ),
        (
            {"psi_fail": 0.25, "min_rows": 100},
            {"user_day.click", "user_stats.mean_price_30d"},
        ),
        ({"psi_fail": 0.25, "min_rows": 10_000}, set()),
    ],
)
def test_every_limit_that_is_exceeded_is_named(
    shop: Shop, limits: dict[str, float], named: set[str]
) -> None:
    anyway = {(each.where, each.what) for each in judge(shop.report, GENEROUS)}
    found = judge(shop.report, GENEROUS.model_copy(update=limits))
    assert {each.where for each in found if (each.where, each.what) not in anyway} == named
    assert all(each.found and each.limit for each in found)


def test_some_drift_is_a_warning(shop: Shop) -> None:
    limits = GENEROUS.model_copy(update={"psi_warn": 0.25, "min_rows": 100})
    warned = {each.where for each in judge(shop.report, limits) if each.level == "warn"}
    assert warned == {"user_day.click", "user_stats.mean_price_30d"}


def test_servers_that_are_away_are_findings_and_the_rest_is_still_looked_at(shop: Shop) -> None:
    settings = shop.settings.model_copy(
        update={
            "redis": shop.settings.redis.model_copy(update={"port": 1}),
            "kafka": shop.settings.kafka.model_copy(update={"bootstrap_servers": "127.0.0.1:1"}),
        }
    )
    report = check(settings, at=NOW, say=lambda _: None)
    assert {each.where for each in judge(report, GENEROUS)} >= {"redis", "kafka"}
    assert [each.rows for each in report.views] == [each.rows for each in shop.report.views]


def test_the_metrics_are_a_valid_exposition_of_the_same_figures(shop: Shop) -> None:
    show.publish(shop.settings, shop.report, judge(shop.report, Quality()))
    families = text_string_to_metric_families(textfile.texts(shop.settings).decode())
    samples = {
        (each.name, *each.labels.values()): each.value
        for family in families
        for each in family.samples
    }
    clicks = column(shop, "user_day", "click_ts")
    assert samples["pagoda_quality_psi", "user_day.click_ts"] == clicks.psi
    assert samples["pagoda_quality_rows", "offline", "user_day"] == 7 * USERS
    assert samples["pagoda_quality_waiting_records", "landing", "quality-events"] == WAITING
    read = textfile.values(shop.settings, "quality", since=0)
    assert read['pagoda_quality_psi{column="user_day.click_ts"}'] == clicks.psi
    assert textfile.values(shop.settings, "quality", since=NOW.timestamp() + 1e6) == {}


def test_as_json_every_view_and_column_is_there(shop: Shop) -> None:
    found = show.as_json(shop.report, judge(shop.report, Quality()))
    assert [each["view"] for each in found["views"]] == [view.name for view in VIEWS]
    assert len(found["columns"]) == sum(len(view.columns) for view in VIEWS)
    assert not found["ok"]


def test_the_reference_week_can_be_fixed(shop: Shop) -> None:
    fixed = Settings(quality=Quality(reference_from=TODAY)).quality
    settings = shop.settings.model_copy(update={"quality": fixed})
    report = check(settings, at=NOW, say=lambda _: None)
    assert report.weeks.reference_first == TODAY
    stats = next(each for each in report.views if each.view is USER_STATS)
    assert stats.columns[1].reference.total == USERS
