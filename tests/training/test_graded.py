from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pagoda.errors import NothingToDo
from pagoda.ids import key_of
from pagoda.models.catalogue import Catalogue
from pagoda.windows import DAY_MS
from tests.oracles import graded as oracle
from tests.oracles.metrics import ranking
from tests.training import toy
from training.data.batches import Examples
from training.evaluation import scores
from training.evaluation.graded import JudgedPairs, judged_gains
from training.evaluation.metrics import KS
from training.evaluation.trial import Trial
from training.labels import Labels


@settings(deadline=None)
@given(st.data())
def test_shares_agree_with_walking_down_the_ranking(data: st.DataObject) -> None:
    pool = data.draw(st.integers(1, 12))
    order = data.draw(st.permutations(range(pool)))
    good = data.draw(st.dictionaries(st.integers(0, pool - 1), st.booleans()))
    rank_J = np.array([order.index(each) for each in good], np.int64)
    found = judged_gains(rank_J, np.array(list(good.values()), bool), pool=pool, ks=(1, 3, 20))
    for k in (1, 3, 20):
        for name, expected in (
            ("judged", oracle.judged(order, good, k)),
            ("p_good", oracle.p_good(order, good, k)),
            ("p_good_condensed", oracle.condensed(order, good, k)),
        ):
            value = found.pop(f"{name}@{k}")
            assert math.isnan(value) if expected is None else np.isclose(value, expected)
    assert not found


@pytest.fixture
def trial(examples: Examples, catalogue: Catalogue) -> Trial:
    """All toy items but the last ten are candidates."""
    past = pl.DataFrame(
        [
            {
                "user_key": key_of("user", "u1"),
                "item_key": key_of("item", f"i{n}"),
                "t_ms": toy.T0 - DAY_MS,
            }
            for n in range(50)
        ]
    )
    return Trial(examples=examples, catalogue=catalogue, history=past, starts_ms=toy.T0)


def test_a_week_agrees_with_walking_down_each_line(trial: Trial) -> None:
    """With ties, labelled items that are no candidates, and lines without labels."""
    lines, pool = trial.examples.lines, len(trial.candidates)
    score_BN = np.random.default_rng(0).integers(0, 8, (lines, pool)).astype(np.float32)
    query = trial.examples.queries[0]
    good = {f"i{n}": n % 3 == 0 for n in range(0, 60, 4)}
    scored = [(np.arange(lines)[half], score_BN[half]) for half in (slice(0, 9), slice(9, None))]
    pairs = JudgedPairs(trial, Labels({query: good}))
    scores.read(scored, [pairs])
    (found,) = pairs.metrics({"toy": pairs.rank_P}, week="test")

    ids = trial.catalogue.table["item_id"].to_pylist()
    column_of = {ids[number - 1]: column for column, number in enumerate(trial.candidates)}
    places = {column_of[each]: value for each, value in good.items() if each in column_of}
    assert len(places) < len(good)
    chosen = [line for line in range(lines) if trial.examples.queries[line] == query]
    assert 0 < len(chosen) < lines
    assert found.count == len(chosen)
    assert found.values["coverage"] == len(chosen) / lines
    rankings = [ranking(score_BN[line].tolist()) for line in chosen]
    for k in KS:
        for name, law in (
            ("judged", oracle.judged),
            ("p_good", oracle.p_good),
            ("p_good_condensed", oracle.condensed),
        ):
            shares = [law(order, places, k) for order in rankings]
            known = [share for share in shares if share is not None]
            assert np.isclose(found.values[f"{name}@{k}"], sum(known) / len(known))


def test_labels_of_other_queries_are_nothing_to_judge_by(trial: Trial) -> None:
    with pytest.raises(NothingToDo, match="labels of 'caviar'"):
        JudgedPairs(trial, Labels({"caviar": {"i0": True}}))
