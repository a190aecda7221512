"""What a trial knows where each user has a line of their own to be judged on."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch

from pagoda.ids import key_of
from pagoda.models.catalogue import Catalogue
from pagoda.models.inputs import user_batch
from pagoda.models.mgdspr import Mgdspr, MgdsprConfig
from pagoda.models.tables import Sizes
from pagoda.text import Tokenizer
from tests.oracles import held_out as oracle
from tests.training import toy
from tests.training.conftest import MakeExamples
from training.data.batches import Examples
from training.evaluation import unseen
from training.evaluation.judging import judge
from training.evaluation.metrics import gains
from training.evaluation.trial import Trial
from training.vectors import encode_items

CONFIG = MgdsprConfig(width=16, attribute_width=8, heads=2, query="last_item")
USERS = 10


@pytest.fixture(scope="module")
def judged(make_examples: MakeExamples) -> Examples:
    """A line without a query for each user, at moments of their own."""
    return make_examples(
        [
            toy.Basket(user=f"u{n}", at_ms=toy.T0 + n, taken=(("", f"i{n * 3}"),), clicks=5)
            for n in range(USERS)
        ]
    )


@pytest.fixture(scope="module")
def events() -> pl.DataFrame:
    """Each judged user's last events stand around their own line; "other" is not judged."""
    made = [(f"u{n}", f"i{(n * 3 + step) % 60}", toy.T0 + n + step) for n in range(USERS)
            for step in range(-6, 3)]  # fmt: skip
    made += [("other", f"i{n}", toy.T0 + 1_000 + n) for n in range(40)]
    return pl.DataFrame(
        [(key_of("user", user), key_of("item", item), t_ms) for user, item, t_ms in made],
        schema=["user_key", "item_key", "t_ms"],
        orient="row",
    )


@pytest.fixture
def trial(judged: Examples, catalogue: Catalogue, events: pl.DataFrame) -> Trial:
    return Trial(examples=judged, catalogue=catalogue, history=events, starts_ms=None)


@pytest.fixture(scope="module")
def model(catalogue: Catalogue, tokenizer: Tokenizer) -> Mgdspr:
    torch.manual_seed(0)
    return CONFIG.build(Sizes.of(catalogue, tokenizer)).eval()


def test_what_counts_of_a_user_ends_at_the_users_own_line(trial: Trial) -> None:
    steps = {
        n: trial.past.filter(pl.col("user_key") == key_of("user", f"u{n}"))["t_ms"] - toy.T0 - n
        for n in range(USERS)
    }
    assert all(found.sort().to_list() == list(range(-6, 0)) for found in steps.values())
    assert len(trial.past.filter(pl.col("user_key") == key_of("user", "other"))) == 40
    assert trial.past.columns == ["user_key", "item_key", "t_ms"]


def test_towers_and_popularity_are_ranked_among_what_the_user_has_not_had(
    trial: Trial, judged: Examples, catalogue: Catalogue, model: Mgdspr
) -> None:
    vectors = encode_items(model, catalogue)
    found = {(m.method, m.rows): m for m in judge(trial, model, vectors, week="test", name="toy")}
    sets = ("all", "non-repeats", "among unseen", "among 100 unseen")
    assert {(method, rows) for method in ("toy", "most popular") for rows in sets} <= set(found)
    batch = user_batch(
        judged.behaviour, catalogue, judged.texts, request_B=judged.request_B, text_B=judged.text_B
    )
    with torch.no_grad():
        by_towers = model.encode_user(batch).numpy() @ vectors[trial.candidates - 1].T
    for method, scores in (
        ("toy", by_towers.tolist()),
        ("most popular", [[-n for n in range(len(trial.candidates))]] * judged.lines),
    ):
        ranks = [
            oracle.rank_among(line, target, sorted(set(range(len(line))) - set(own.tolist())))
            for line, target, own in zip(scores, trial.targets.tolist(), trial.owned, strict=True)
        ]
        assert None not in ranks
        found_B = gains(np.array(ranks), pool=None)
        expected = {name: float(gain_B.mean()) for name, gain_B in found_B.items()}
        for rows in ("among unseen", "among 100 unseen"):  # fewer than a hundred: all of them
            assert found[method, rows].count == judged.lines
            assert found[method, rows].values == pytest.approx(expected)


def test_what_a_user_did_later_moves_no_metric(
    trial: Trial, judged: Examples, catalogue: Catalogue, model: Mgdspr, events: pl.DataFrame
) -> None:
    later = pl.DataFrame(
        [(key_of("user", f"u{n % USERS}"), key_of("item", f"i{n % 60}"), toy.T0 + 9_000 + n)
         for n in range(300)],
        schema=events.schema, orient="row",
    )  # fmt: skip
    leaky = Trial(
        examples=judged,
        catalogue=catalogue,
        history=pl.concat([events, later]),
        starts_ms=None,
    )
    vectors = encode_items(model, catalogue)
    one, other = (judge(each, model, vectors, week="test", name="toy") for each in (trial, leaky))
    assert one == other


def test_drawn_items_are_those_of_the_line_wherever_it_stands(trial: Trial) -> None:
    """A hundred of many: the draw is by user and moment, so a bundle is judged alike again."""
    owned, targets = trial.owned, trial.targets
    seeds = [[int(key), int(t)] for key, t in
             zip(trial.examples.user_key_U, trial.examples.t_ms_U, strict=True)]  # fmt: skip
    there = unseen.draw(owned, targets, seeds, candidates=5_000)
    back = unseen.draw(owned[::-1], targets[::-1], seeds[::-1], candidates=5_000)
    np.testing.assert_array_equal(there, back[::-1])
