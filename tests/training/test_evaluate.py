from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch

from pagoda.ids import key_of
from pagoda.models.catalogue import Catalogue
from pagoda.models.inputs import user_batch
from pagoda.models.mgdspr import MgdsprConfig
from pagoda.models.tables import Sizes
from pagoda.text import Tokenizer
from pagoda.windows import DAY_MS
from tests.oracles import metrics as oracle
from tests.training import toy
from training.data import Examples
from training.evaluate import Trial, encode_items, judge, judge_towers
from training.metrics import MISSED

WEEK_MS = toy.T0


def history(*events: tuple[str, str, int]) -> pl.DataFrame:
    return pl.DataFrame(
        [
            {"user_key": key_of("user", user), "item_key": key_of("item", item), "t_ms": t_ms}
            for user, item, t_ms in events
        ]
    )


@pytest.fixture(scope="session")
def past() -> pl.DataFrame:
    """Everybody took some items before the week, i0 most often."""
    events = [(f"u{n % 12}", f"i{n * 7 % 50}", WEEK_MS - DAY_MS - n) for n in range(120)] + [
        ("u1", "i0", WEEK_MS - n) for n in range(1, 40)
    ]
    return history(*events)


@pytest.fixture
def trial(examples: Examples, catalogue: Catalogue, past: pl.DataFrame) -> Trial:
    return Trial(examples=examples, catalogue=catalogue, history=past, starts_ms=WEEK_MS)


def test_towers_are_ranked_over_all_candidates(
    trial: Trial, examples: Examples, catalogue: Catalogue, tokenizer: Tokenizer
) -> None:
    torch.manual_seed(0)
    config = MgdsprConfig(width=16, attribute_width=8, heads=2)
    model = config.build(Sizes.of(catalogue, tokenizer)).eval()
    vectors = encode_items(model, catalogue)
    found = judge_towers(trial, model, vectors)
    batch = user_batch(
        examples.behaviour,
        catalogue,
        examples.texts,
        request_B=examples.request_B,
        text_B=examples.text_B,
    )
    with torch.no_grad():
        scores = model.encode_user(batch).numpy() @ vectors[trial.candidates - 1].T
    expected = [
        oracle.rank(line.tolist(), target)
        for line, target in zip(scores.astype(np.float64), trial.targets.tolist(), strict=True)
    ]
    close = [None if rank == MISSED else int(rank) for rank in found]
    # Other batch shapes round the last bit otherwise: neighbours may swap.
    assert all(
        a is b is None or (a is not None and b is not None and abs(a - b) <= 1)
        for a, b in zip(close, expected, strict=True)
    )


def test_candidates_are_titled_items_with_an_event_before_the_week_most_popular_first(
    trial: Trial, catalogue: Catalogue
) -> None:
    ids = catalogue.table["item_id"].to_pylist()
    candidates = [ids[number - 1] for number in trial.candidates]
    assert candidates[0] == "i0"
    assert set(candidates) == {f"i{n}" for n in range(50)}


def test_a_target_that_is_no_candidate_is_a_miss(trial: Trial, catalogue: Catalogue) -> None:
    ids = np.array(catalogue.table["item_id"].to_pylist())
    cold = np.array([int(item[1:]) >= 50 for item in ids[trial.examples.item_B - 1]])
    assert ((trial.targets == -1) == cold).all()


def test_a_repeat_is_a_pair_with_an_event_before_the_line(
    examples: Examples, catalogue: Catalogue
) -> None:
    line = 3
    user = int(examples.user_key_U[examples.request_B[line]])
    item = int(catalogue.keys[examples.item_B[line] - 1])
    at_ms = int(examples.t_ms_U[examples.request_B[line]])
    for t_ms, expected in ((at_ms - 1, True), (at_ms, False)):
        events = pl.DataFrame([{"user_key": user, "item_key": item, "t_ms": t_ms}])
        trial = Trial(examples=examples, catalogue=catalogue, history=events, starts_ms=WEEK_MS)
        assert trial.repeats[line] == expected


def test_planted_future_events_move_no_metric(
    trial: Trial, examples: Examples, catalogue: Catalogue, tokenizer: Tokenizer
) -> None:
    torch.manual_seed(0)
    config = MgdsprConfig(width=16, attribute_width=8, heads=2)
    model = config.build(Sizes.of(catalogue, tokenizer)).eval()
    vectors = encode_items(model, catalogue)
    last = int(examples.t_ms_U.max())
    planted = history(*[(f"u{n % 12}", f"i{n % 60}", last + n) for n in range(1, 900)])
    leaky = Trial(
        examples=examples,
        catalogue=catalogue,
        history=pl.concat([trial.history, planted]),
        starts_ms=WEEK_MS,
    )
    judged = [judge(each, model, vectors, week="test", name="toy") for each in (trial, leaky)]
    assert judged[0] == judged[1]
    assert {each.method for each in judged[0]} == {
        "toy", "most popular", "bm25", "popular among matching", "repeat first",
    }  # fmt: skip
