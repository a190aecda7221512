from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pagoda.ids import key_of
from pagoda.models.catalogue import Catalogue
from pagoda.models.tables import Sizes
from pagoda.windows import DAY_MS
from tests.oracles import funnel as oracle
from tests.oracles.metrics import ranking
from tests.training import toy
from tests.training.test_bst import SMALL
from tests.training.test_bst import built as built_bst
from training import ranker
from training.data.batches import Examples
from training.evaluation import baselines, scores
from training.evaluation.baselines import TextIndex
from training.evaluation.channels import Channels, Orders
from training.evaluation.funnel import Funnel, gains, passed
from training.evaluation.trial import Trial

POOL = 9
ORDERS = st.permutations(range(POOL))


@given(
    channels=st.dictionaries(st.sampled_from("abc"), ORDERS, min_size=1),
    passing=st.lists(st.booleans(), min_size=POOL, max_size=POOL),
    scores=st.lists(st.integers(0, 3), min_size=POOL, max_size=POOL),
    k=st.integers(1, POOL + 2),
    ranked=st.integers(1, POOL + 2),
)
def test_counts_agree_with_looking_at_each_item(
    channels: dict[str, list[int]], passing: list[bool], scores: list[int], k: int, ranked: int
) -> None:
    """With ties, items of several channels, and channels that nothing is left of."""
    orders = {name: np.array(order) for name, order in channels.items()}
    score_N = np.array(scores, np.float32)
    found = passed(
        orders,
        np.array(passing),
        k=k,
        pre_rank=lambda columns: score_N[columns],
        ranked=ranked,
    )
    expected = oracle.passed(channels, passing, scores, k=k, ranked=ranked)
    assert {name: tuple(each.values()) for name, each in found.items()} == expected
    assert {tuple(each) for each in found.values()} == {(f"num_prank@{k}", f"num_rank@{ranked}")}
    alone = passed(orders, np.array(passing), k=k, pre_rank=None, ranked=ranked)
    assert alone == {name: {f"num_prank@{k}": each[0]} for name, each in expected.items()}


TEXTS = st.lists(st.sampled_from(["tea", "green tea", "milk", "milk tea", "x"]), min_size=1)


@given(data=st.data(), texts=TEXTS, query=st.sampled_from(["tea", "milk", "tea milk", "y", ""]))
def test_rankings_are_in_the_order_of_the_baselines_ranks(
    data: st.DataObject, texts: list[str], query: str
) -> None:
    owned = np.array(data.draw(st.lists(st.integers(0, len(texts) - 1))), np.int64)
    index = TextIndex(texts)
    targets = np.arange(len(texts))
    ranks = baselines.by_words(index, [query] * len(texts), [owned] * len(texts), targets)
    orders = baselines.rankings(index, query, owned)
    assert orders.keys() == ranks.keys()
    for method, order in orders.items():
        assert order.tolist() == np.argsort(ranks[method]).tolist()


@pytest.fixture
def trial(examples: Examples, catalogue: Catalogue) -> Trial:
    """All toy items but the last ten are candidates; some users have had some."""
    past = pl.DataFrame(
        [
            {
                "user_key": key_of("user", f"u{n % 5}"),
                "item_key": key_of("item", f"i{n % 50}"),
                "t_ms": toy.T0 - DAY_MS,
            }
            for n in range(70)
        ]
    )
    return Trial(examples=examples, catalogue=catalogue, history=past, starts_ms=toy.T0)


def made_up(trial: Trial) -> list[scores.Scored]:
    """Scores of all lines, in two passes."""
    lines, pool = trial.examples.lines, len(trial.candidates)
    score_BN = np.random.default_rng(0).integers(0, 8, (lines, pool)).astype(np.float32)
    return [(np.arange(lines)[half], score_BN[half]) for half in (slice(0, 40), slice(40, None))]


def drawn(trial: Trial, scored: list[scores.Scored], **options: int) -> dict[int, Orders]:
    """What every method has first for drawn lines."""
    channels = Channels(trial, name="toy", **options)
    scores.read(scored, [channels])
    return channels.orders


def asked(query: str) -> list[dict[str, tuple[str, ...]]]:
    """What a toy query asks for: each is the name of a shelf, and all have ten items."""
    return [{"leaf_category": (query,), "category": (query,)}]


def test_a_week_agrees_with_looking_at_each_item(
    trial: Trial, examples: Examples, catalogue: Catalogue, sizes: Sizes
) -> None:
    model = built_bst(SMALL, sizes)
    scored = made_up(trial)
    funnel = Funnel(min_relevant=10, pre_ranker=model, k=12, ranked=4)
    orders = drawn(trial, scored, first=12, lines=10_000)
    assert sorted(orders) == list(range(examples.lines))
    found = gains(trial, funnel, orders)
    items = catalogue.table.to_pylist()
    score_BN = np.concatenate([each for _, each in scored])
    for at, line in enumerate(orders):
        query = examples.queries[line]
        passing = [oracle.satisfies(items[n - 1], asked(query)) for n in trial.candidates]
        assert 0 < sum(passing) < len(passing)
        channels = {
            "toy": ranking(score_BN[line].tolist()),
            "most popular": list(range(len(passing))),
            **{
                name: order.tolist()
                for name, order in baselines.rankings(trial.index, query, trial.owned[line]).items()
            },
        }
        odds = ranker.scores(model, examples, catalogue, line=line, items=trial.candidates)
        expected = oracle.passed(channels, passing, odds.tolist(), k=12, ranked=4)
        for name, counts in expected.items():
            values = (found[name][metric][at] for metric in ("num_prank@12", "num_rank@4"))
            assert tuple(values) == counts


def test_some_lines_are_drawn_the_same_ones_every_time(trial: Trial) -> None:
    whole = drawn(trial, made_up(trial), lines=10_000)
    some = drawn(trial, made_up(trial), first=5, lines=7)
    again = drawn(trial, made_up(trial)[::-1], first=5, lines=7)
    assert len(some) == 7
    assert set(some) == set(again)
    for line, orders in some.items():
        for name, columns in orders.items():
            assert columns.tolist() == again[line][name].tolist() == whole[line][name][:5].tolist()


def test_terms_that_leave_too_few_ask_for_nothing(trial: Trial) -> None:
    """As in serving: a shelf has ten items, here eleven are wanted."""
    funnel = Funnel(min_relevant=11, pre_ranker=None, k=12)
    found = gains(trial, funnel, drawn(trial, made_up(trial)))
    assert all((each["num_prank@12"] == 12).all() for each in found.values())
