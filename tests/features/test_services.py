"""What a published service reads stays, whatever its views gain."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pagoda import features
from pagoda.errors import InputError
from pagoda.features import SEQUENCES_STATS_V1, USER_DAY, USER_STATS, Service, candidates_of
from pagoda.schemas import INT64S
from pagoda.statistics import Statistic
from pagoda.windows import WindowSpec, cut
from tests.features.histories import arrivals, days, times_of_day
from tests.features.test_versions import as_of, moment, rows_of
from tests.features.test_windows import SMALL, as_lists, defined
from tests.oracles import features as oracle

CARTS = Statistic(aggregation="count", of=("cart",), days=7)


@pytest.mark.parametrize(
    ("name", "schema_hash"),
    [
        ("sequences_v1", "49c49d45982afb59"),
        ("sequences_stats_v1", "db79dc53281604cf"),
        ("items_v1", "0ea12b90827819dd"),
    ],
)
def test_a_published_service_never_changes(name: str, schema_hash: str) -> None:
    """Bundles out there name these. Add a service of the next version instead."""
    assert features.service(name).schema_hash == schema_hash


def test_a_column_that_a_view_gains_is_not_read_by_its_services() -> None:
    grown = replace(
        USER_STATS,
        columns={"carts_7d": CARTS.type, **USER_STATS.columns},
        statistics={"carts_7d": CARTS, **USER_STATS.statistics},
    )
    longer = replace(USER_DAY, columns={**USER_DAY.columns, "cart_ts": INT64S})
    before = SEQUENCES_STATS_V1
    again = Service(
        name=before.name,
        description=before.description,
        views=tuple(
            {"user_stats": grown, "user_day": longer}.get(view.name, view).only(*view.columns)
            for view in before.views
        ),
    )
    assert again.schema_hash == before.schema_hash
    assert again.columns_of(grown) == before.columns_of(USER_STATS)
    assert "carts_7d" in again.views[2].table.schema.names  # the table is the whole one


@pytest.mark.parametrize(
    "changed",
    [
        {"columns": {**USER_STATS.columns, "clicks_7d": features.ITEM_PROFILE.columns["price"]}},
        {"statistics": {**USER_STATS.statistics, "clicks_7d": replace(CARTS, of=("buy",))}},
        {"ttl_days": 9},
        {"entity": "item_key", "statistics": {}},
    ],
    ids=lambda changed: "-".join(changed),
)
def test_whatever_changes_in_what_is_read_changes_the_hash(changed: dict[str, Any]) -> None:
    names = tuple(USER_STATS.columns)
    service = Service(name="s", description="", views=(USER_STATS.only(*names),))
    other = replace(service, views=(replace(USER_STATS, **changed).only(*names),))
    assert other.schema_hash != service.schema_hash


def test_a_part_names_columns_that_the_view_has() -> None:
    with pytest.raises(ValueError, match=r"user_stats has no column carts_7d, hats_7d"):
        USER_STATS.only("clicks_7d", "carts_7d", "hats_7d")


def test_names_that_nobody_gave_are_refused_with_those_there_are() -> None:
    assert features.view("user_day") is USER_DAY
    with pytest.raises(InputError, match=r"no view 'x' .expected one of user_day, user_intraday, "):
        features.view("x")
    with pytest.raises(KeyError) as refused:
        features.service("x")
    assert refused.value.args == (
        "no feature service 'x'; there are ['sequences_v1', 'sequences_stats_v1', "
        "'sequences_owned_v1', 'items_v1']",
    )


def test_rows_say_what_they_hold_and_readers_what_they_miss() -> None:
    grown = replace(
        USER_STATS,
        columns={**USER_STATS.columns, "carts_7d": CARTS.type},
        statistics={
            **USER_STATS.statistics,
            "carts_7d": CARTS,
            "clicks_7d": Statistic(aggregation="count", of=("click", "collect"), days=7),
        },
    )
    spec = WindowSpec()
    old_rows, new_rows = USER_STATS.definition, grown.definition
    assert USER_STATS.only("buys_30d").lacking(new_rows, spec) == []
    assert grown.only("buys_30d").lacking(old_rows, spec) == []
    assert grown.only("buys_30d", "carts_7d", "clicks_7d").lacking(old_rows, spec) == [
        "carts_7d: expected int64, count of cart over 7 days, found no such column",
        "clicks_7d: expected int64, count of click, collect over 7 days, "
        "found int64, count of click over 7 days",
    ]
    assert USER_STATS.lacking(None, spec) == ["they do not say what they hold"]
    assert USER_DAY.lacking(USER_DAY.definition, WindowSpec(real_time=80, long_term_days=40)) == [
        "clicks 180, rows hold 150",
        "long_term_days 40, rows hold 20",
    ]


rows_hold = st.builds(
    WindowSpec,
    recent_days=st.integers(4, 5),
    long_term_days=st.integers(0, 6),
    real_time=st.integers(0, 4),
    short_term=st.integers(0, 4),
    long_term=st.integers(0, 4),
    queries=st.integers(0, 3),
)


@st.composite
def within(draw: st.DrawFn, held: WindowSpec) -> WindowSpec:
    """Windows of a model that fit into rows built with `held`."""
    clicks = draw(st.integers(0, held.clicks))
    real_time = draw(st.integers(0, clicks))
    long_term = draw(st.integers(0, held.long_term))
    long_term_days = draw(st.integers(0, held.long_term_days))
    has_long_term = bool(long_term and long_term_days)
    recent_days = held.recent_days if has_long_term else draw(st.integers(1, held.recent_days))
    return WindowSpec(
        recent_days=recent_days,
        long_term_days=long_term_days,
        real_time=real_time,
        short_term=clicks - real_time,
        long_term=long_term,
        queries=draw(st.integers(0, held.queries)),
        batch_delay_days=draw(st.integers(0, min(held.batch_delay_days, recent_days - 1))),
    )


@given(data=st.data(), day=days, time=times_of_day, held=rows_hold)
def test_windows_that_fit_into_the_rows_are_never_cut_short(
    data: st.DataObject, day: int, time: int, held: WindowSpec
) -> None:
    """Law 1 for models whose windows are not those that the rows were built with."""
    spec = data.draw(within(held))
    assert spec.beyond(held) == []
    arrived = data.draw(arrivals(day, back=12))
    at_ms = moment(data, arrived, day, time)
    day_rows, intraday_rows = rows_of(arrived, day, held)
    known = candidates_of(as_of(day_rows, at_ms)).union(candidates_of(as_of(intraday_rows, at_ms)))
    expected = [each.happening for each in oracle.known(arrived, at_ms=at_ms)]
    assert as_lists(cut(known, at_ms=at_ms, spec=spec)) == defined(expected, at_ms, spec)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("recent_days", 5),
        ("recent_days", 3),  # where recent days end, long-term candidates begin
        ("real_time", 4),
        ("long_term_days", 6),
        ("long_term", 4),
        ("queries", 3),
        ("batch_delay_days", 4),
    ],
)
def test_windows_that_need_more_than_rows_hold_are_named(field: str, value: int) -> None:
    held = replace(SMALL, recent_days=5) if field == "batch_delay_days" else SMALL
    wanted = replace(held, **{field: value}, **({"batch_delay_days": 0} if value == 3 else {}))
    (problem,) = wanted.beyond(held)
    assert problem.startswith("clicks 8" if field == "real_time" else f"{field} {value}")
    assert SMALL.beyond(SMALL) == []


@given(texts=st.lists(st.text(), min_size=1, max_size=4))
@example(texts=["oat milk\0"])  # numpy's own strings end there
def test_texts_come_out_of_a_row_as_they_went_in(texts: list[str]) -> None:
    numbers = list(range(len(texts)))
    row = {"query_ts": numbers, "query_events": numbers, "query_texts": texts}
    assert candidates_of(row).queries.value.tolist() == texts
