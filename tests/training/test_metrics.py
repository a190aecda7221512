from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pagoda.text import units_of
from tests.oracles import metrics as oracle
from training.evaluation import baselines
from training.evaluation.metrics import MISSED, gains, ranks_of

SCORES = st.lists(st.integers(-3, 3), min_size=1, max_size=12)
WORDS = ("milk", "tea", "green", "soap")
TEXTS = st.lists(st.lists(st.sampled_from(WORDS), max_size=4), min_size=1, max_size=8)


@settings(deadline=None)
@given(st.data())
def test_ranks_agree_with_sorting_everything(data: st.DataObject) -> None:
    scores = data.draw(SCORES)
    targets = data.draw(st.lists(st.integers(-1, len(scores) - 1), min_size=1, max_size=5))
    found = ranks_of(np.array([scores] * len(targets), np.float32), np.array(targets))
    expected = [oracle.rank(scores, target) for target in targets]
    assert [None if rank == MISSED else rank for rank in found] == expected


def test_a_score_that_is_no_number_is_a_miss_and_no_hit() -> None:
    scores = np.array([[np.nan, 1.0], [np.nan, 1.0]], np.float32)
    assert ranks_of(scores, np.array([0, 1])).tolist() == [MISSED, 0]


@settings(deadline=None)
@given(st.lists(st.one_of(st.none(), st.integers(0, 1_200)), min_size=1, max_size=30))
def test_metrics_agree_with_brute_force(ranks: list[int | None]) -> None:
    pool = 1_300
    found = gains(np.array([MISSED if rank is None else rank for rank in ranks]), pool=pool)
    assert all(len(gain_B) == len(ranks) for gain_B in found.values())
    means = {name: gain_B.mean() for name, gain_B in found.items()}
    for k in (10, 50, 100, 500, 1_000):
        assert np.isclose(means.pop(f"recall@{k}"), oracle.recall(ranks, k))
        assert np.isclose(means.pop(f"ndcg@{k}"), oracle.ndcg(ranks, k))
    assert np.isclose(means.pop("mrr"), oracle.mrr(ranks))
    assert np.isclose(means.pop("auc"), oracle.auc(ranks, pool))
    assert not means


@settings(deadline=None)
@given(TEXTS, st.lists(st.sampled_from([*WORDS, "unseen"]), max_size=3), st.data())
def test_word_baselines_agree_with_brute_force(
    documents: list[list[str]], query: list[str], data: st.DataObject
) -> None:
    owned = data.draw(st.lists(st.integers(0, len(documents) - 1), max_size=6))
    target = data.draw(st.integers(-1, len(documents) - 1))
    index = baselines.TextIndex([" ".join(document) for document in documents])
    found = baselines.by_words(
        index, [" ".join(query)], [np.array(owned, np.int64)], np.array([target])
    )
    bm25 = [round(score, 4) for score in oracle.bm25(documents, query)] if any(documents) else []
    assert np.allclose(index.bm25(" ".join(query)), bm25 or 0, atol=1e-3)
    among = np.array(owned, np.int64)
    assert (
        index.bm25(" ".join(query), among).tolist() == index.bm25(" ".join(query))[among].tolist()
    )
    if target < 0:
        assert all(ranks[0] == MISSED for ranks in found.values())
        return
    matches = [float(set(query) <= set(document)) for document in documents]
    assert found["popular among matching"][0] == oracle.rank(matches, target)
    repeats = oracle.repeat_first(documents, query, owned)
    assert found["repeat first"][0] == repeats.index(target)


def test_most_popular_takes_the_place_in_order_of_popularity() -> None:
    assert baselines.most_popular(np.array([0, 7, -1])).tolist() == [0, 7, MISSED]


def test_query_words_are_cut_as_the_tokenizer_cuts() -> None:
    index = baselines.TextIndex(["Fluid MILK/Products", "tea"])
    assert index.matches("milk, products").tolist() == [True, False]
    assert units_of("milk, products").words == ["milk", "products"]
