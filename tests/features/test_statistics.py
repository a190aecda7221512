"""Whatever statistic is declared is computed: random declarations against a naive count."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.batch import item_stats, user_stats
from pagoda.features import ITEM_STATS, USER_STATS, View
from pagoda.statistics import COMPUTED, Aggregation, Kind, Statistic
from tests.features.histories import DAY, DAYS, arrivals, days, history_of, midnights, times_of_day
from tests.features.test_versions import as_of, built, moment
from tests.oracles import features as oracle
from tests.oracles.features import Arrival
from tests.oracles.windows import Happening

PRICES = {0: 1.25, 2: 8.5}  # of the items 0, 1 and 2
KINDS: tuple[Kind, ...] = ("click", "buy", "collect", "search")


@st.composite
def statistics(draw: st.DrawFn) -> Statistic:
    aggregation: Aggregation = draw(st.sampled_from(COMPUTED["user_key"]))
    of_items = aggregation in ("distinct_items", "mean_price")
    kinds = st.sampled_from(KINDS[:3] if of_items else KINDS)
    return Statistic(
        aggregation=aggregation,
        of=tuple(draw(st.lists(kinds, min_size=1, unique=True))),
        days=draw(st.sampled_from((1, 2, 7, 30))),
    )


def view_of(view: View, declared: list[Statistic]) -> View:
    named = {f"s{number}_{each.days}d": each for number, each in enumerate(declared)}
    columns = {name: each.type for name, each in named.items()}
    return replace(view, columns=columns, statistics=named)


@given(
    data=st.data(),
    declared=st.lists(statistics(), min_size=1, max_size=4),
    day=days,
    time=times_of_day,
)
def test_any_declared_statistic_of_a_user_equals_a_naive_count(
    data: st.DataObject, declared: list[Statistic], day: int, time: int
) -> None:
    view = view_of(USER_STATS, declared)
    arrived = data.draw(arrivals(day, back=34))
    at_ms = moment(data, arrived, day, time)
    history = history_of(arrived, prices=PRICES) if arrived else None
    rows = [
        row
        for batch in (user_stats.of_user(1, history, days=built(day), view=view) if history else ())
        for row in batch.to_pylist()
        if row["day"].toordinal() == oracle.day_number(at_ms - 1)
    ]
    found = as_of(rows, at_ms)
    for name, each in view.statistics.items():
        expected = oracle.statistic(
            arrived,
            at_ms=at_ms,
            aggregation=each.aggregation,
            of=each.of,
            days=each.days,
            click_actions=("click",),
            prices=dict(PRICES),
        )
        value = found.get(name, None if each.aggregation == "mean_price" else 0)
        assert value == expected or math.isclose(value, expected), str(each)


def test_a_mean_price_is_of_the_named_actions_alone() -> None:
    """Few random views that read other actions too have both at hand."""
    day = DAYS[0]
    arrived = [
        Arrival(
            user="u",
            ingested=day - DAY // 2,
            happening=Happening(ts=day - DAY // 2, key=item, what=item, action=action),
        )
        for item, action in ((0, "click"), (2, "buy"))
    ]
    bought = Statistic(aggregation="mean_price", of=("buy",), days=7)
    clicks = Statistic(aggregation="count", of=("click",), days=7)
    (batch,) = user_stats.of_user(
        1,
        history_of(arrived, prices=PRICES),
        days=midnights(day, 1),
        view=view_of(USER_STATS, [bought, clicks]),
    )
    assert batch["s0_7d"].to_pylist() == [PRICES[2]]


def test_what_may_be_declared_is_what_is_computed() -> None:
    assert set(COMPUTED["user_key"]) == set(user_stats.AGGREGATIONS)
    assert set(COMPUTED["item_key"]) == set(item_stats.AGGREGATIONS)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"of": ()}, "of no kind of event"),
        ({"of": ("look",)}, "unknown kind 'look'"),
        ({"days": 0}, "over 0 days"),
        ({"days": -1, "of": ()}, "of no kind of event; over -1 days"),
        (
            {"aggregation": "median"},
            "unknown aggregation 'median': one of ['active_days', 'count', 'distinct_items', "
            "'distinct_users', 'mean_price']",
        ),
        (
            {"aggregation": "mean_price", "of": ("search",)},
            "mean_price of searches, which have no item",
        ),
    ],
)
def test_a_statistic_that_means_nothing_is_refused(fields: dict, said: str) -> None:
    with pytest.raises(ValueError, match=r"^.*$") as refused:
        Statistic(**{"aggregation": "count", "of": ("buy",), "days": 7, **fields})
    assert str(refused.value).partition(": ")[2] == said


@pytest.mark.parametrize(
    ("view", "name", "statistic", "said"),
    [
        (
            USER_STATS,
            "clicks_7d",
            Statistic(aggregation="count", of=("click",), days=14),
            "clicks_7d: a column over 14 days ends in _14d",
        ),
        (
            USER_STATS,
            "users_7d",
            Statistic(aggregation="distinct_users", of=("click",), days=7),
            "distinct_users is not computed by user_key, only count,",
        ),
        (
            ITEM_STATS,
            "searches_7d",
            Statistic(aggregation="count", of=("search",), days=7),
            "a search has no item",
        ),
    ],
)
def test_a_column_that_cannot_be_computed_is_refused_by_its_view(
    view: View, name: str, statistic: Statistic, said: str
) -> None:
    with pytest.raises(ValueError, match=f"view {view.name}: .*{said}"):
        replace(view, columns={name: statistic.type}, statistics={name: statistic})
