from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pagoda.ids import key_of
from pagoda.models.catalogue import Catalogue
from tests.oracles import metrics as oracle
from tests.oracles.row_sets import Event, Line, sets_of
from tests.training import toy
from training.data.batches import Examples
from training.evaluation import row_sets as under_test
from training.evaluation.judging import metrics
from training.evaluation.metrics import MISSED
from training.evaluation.row_sets import row_sets
from training.evaluation.trial import Trial

HOUR_MS = 3_600_000
STARTS_MS = toy.T0
NARROW, BROAD = 1, 2  # of the six items a shelf that are taken
# Before the week, at its lines' moments (one an hour), a millisecond beside them, and after it.
MOMENTS = st.builds(
    lambda hour, beside: STARTS_MS + hour * HOUR_MS + beside,
    st.one_of(st.integers(-4, 0), st.integers(0, 50)),
    st.sampled_from((-1, 0, 1)),
)
EVENTS = st.lists(
    st.builds(
        Event,
        user=st.sampled_from([f"u{n}" for n in range(12)]),
        item=st.sampled_from(toy.item_ids(36)),
        t_ms=MOMENTS,
    ),
    max_size=60,
)


@pytest.fixture(scope="module", autouse=True)
def _few_items_are_many() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(under_test, "NARROW", NARROW)
        patch.setattr(under_test, "BROAD", BROAD)
        yield


def trial_of(examples: Examples, catalogue: Catalogue, events: list[Event]) -> Trial:
    schema = {"user_key": pl.Int64, "item_key": pl.Int64, "t_ms": pl.Int64}
    history = [(key_of("user", each.user), key_of("item", each.item), each.t_ms) for each in events]
    return Trial(
        examples=examples,
        catalogue=catalogue,
        history=pl.DataFrame(history, schema, orient="row"),
        starts_ms=STARTS_MS,
    )


def expected(examples: Examples, catalogue: Catalogue, events: list[Event]) -> list[set[str]]:
    """The oracle's sets of each line."""
    user_of = {key_of("user", f"u{n}"): f"u{n}" for n in range(12)}
    shown = catalogue.table.select(["item_id", "first_category", "title"]).to_pylist()
    texts = {
        each["item_id"]: f"{each['first_category']} {each['title']}".lower()
        .replace(".", "")
        .split()
        for each in shown
    }
    found = []
    for line in range(examples.lines):
        request = examples.request_B[line]
        said = Line(
            user=user_of[int(examples.user_key_U[request])],
            item=shown[examples.item_B[line] - 1]["item_id"],
            t_ms=int(examples.t_ms_U[request]),
            words=examples.queries[line].split(),
        )
        found.append(sets_of(said, events, texts, starts_ms=STARTS_MS, narrow=NARROW, broad=BROAD))
    return found


@given(EVENTS)
def test_sets_are_those_that_looking_at_every_event_gives(
    examples: Examples, catalogue: Catalogue, events: list[Event]
) -> None:
    found = row_sets(trial_of(examples, catalogue, events))
    of_line = [{name for name in found if found[name][line]} for line in range(examples.lines)]
    assert of_line == expected(examples, catalogue, events)


@given(EVENTS, EVENTS, st.integers(0))
def test_events_from_a_line_on_move_it_to_no_other_set(
    examples: Examples,
    catalogue: Catalogue,
    events: list[Event],
    planted: list[Event],
    number: int,
) -> None:
    line = number % examples.lines
    at_ms = int(examples.t_ms_U[examples.request_B[line]])
    late = [replace(each, t_ms=max(at_ms, each.t_ms)) for each in planted]
    before, after = (
        row_sets(trial_of(examples, catalogue, known)) for known in (events, [*events, *late])
    )
    assert {name: before[name][line] for name in before} == {
        name: after[name][line] for name in after
    }


@settings(max_examples=30)
@given(EVENTS, st.randoms(use_true_random=False))
def test_each_set_s_metrics_are_those_of_its_lines(
    examples: Examples, catalogue: Catalogue, events: list[Event], dice: random.Random
) -> None:
    trial = trial_of(examples, catalogue, events)
    pool = len(trial.candidates)
    ranks = [dice.choice([None, *range(pool)]) for _ in range(examples.lines)]
    rank_B = np.array([MISSED if rank is None else rank for rank in ranks])
    judged = metrics("test", {"some": rank_B}, trial)
    sets = expected(examples, catalogue, events)
    assert len(judged) == 11
    for found in judged:
        own = [rank for rank, names in zip(ranks, sets, strict=True) if found.rows in names]
        assert found.count == len(own)
        assert bool(found.values) == bool(own)
        if own:
            assert np.isclose(found.values["recall@10"], oracle.recall(own, 10))
            assert np.isclose(found.values["ndcg@1000"], oracle.ndcg(own, 1_000))
            assert np.isclose(found.values["mrr"], oracle.mrr(own))
        if own and pool > 1:
            assert np.isclose(found.values["auc"], oracle.auc(own, pool))
        assert all(0 <= low <= high <= 1 for low, high in found.intervals.values())


def test_items_are_cut_into_thirds_of_the_events_before_the_week(
    examples: Examples, catalogue: Catalogue
) -> None:
    """Of ten events i0 has 4, i1 3, i2 2 and i3 1: 0, .4, .7 and .9 of them are before each."""
    events = [
        Event(user="u0", item=f"i{number}", t_ms=STARTS_MS - 1)
        for number, count in enumerate((4, 3, 2, 1))
        for _ in range(count)
    ]
    trial = trial_of(examples, catalogue, events)
    assert trial.popularity.tolist() == [4, 3, 2, 1]
    assert under_test._thirds(trial.popularity).tolist() == [0, 1, 2, 2, -1]
