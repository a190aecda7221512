"""Each source of negatives, and their sums, are what they say, by the production loop."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from pagoda.models.base import TwoTowers
from pagoda.models.behaviour import Behaviour, Owned
from pagoda.models.catalogue import Catalogue
from pagoda.models.inputs import ItemBatch, UserBatch
from pagoda.models.ragged import Ragged
from pagoda.text import Tokenizer
from pagoda.windows import LONG_TERM_ACTIONS
from tests.oracles import losses as oracle
from tests.training import toy
from tests.training.conftest import MakeExamples
from training.data.batches import Batch, Examples, batches
from training.loop_config import LoopConfig
from training.losses import Mix
from training.negatives import (
    Chances,
    Memory,
    Negatives,
    draw,
    draw_for_each,
    draw_of_each,
    log_batch_missed,
    once_each,
)
from training.objective import Objective

Gradient = npt.NDArray[np.float64]

ITEMS, REQUESTS, AT_ONCE, WIDTH = 100, 6_000, 120, 3
MINED = Negatives(mined=4, mined_first=3, mined_last=7, mined_from=0)
SUMS = {
    "batch": Negatives(),
    "each": Negatives(batch=False, each=80),
    "uniform": Negatives(batch=False, uniform=50),
    "batch + uniform": Negatives(uniform=25),
    "batch + memory": Negatives(memory=3),
    "batch + uniform + memory": Negatives(uniform=25, memory=2, memory_after=4),
    "batch + impressed": Negatives(impressed=4),
    "uniform + mined": replace(MINED, batch=False, uniform=50),
    "all": replace(MINED, uniform=25, memory=2, memory_after=4, impressed=5),
}
# The user by whom lines are drawn: what is popular lies in one direction.
TRUTH = torch.tensor([2.0, 0.0, 0.0])


@dataclass(frozen=True)
class Errors:
    """The largest of a coordinate of the mean gradient: of the user's vector, of any item's."""

    user: float
    items: float


class Given(TwoTowers):
    """One user vector for all lines, and item vectors, both given."""

    def __init__(self, user_D: Tensor, item_MD: Tensor) -> None:
        super().__init__()
        self.user_D, self.item_MD = nn.Parameter(user_D), nn.Parameter(item_MD)

    def encode_user(self, batch: UserBatch) -> Tensor:
        return self.user_D.expand(len(batch.request_B), -1)

    def encode_item(self, items: ItemBatch) -> Tensor:
        return self.item_MD[items.item_M]


@pytest.fixture(scope="module")
def shop(tokenizer: Tokenizer) -> Catalogue:
    rows = toy.items().slice(0, 1).to_pylist() * ITEMS
    named = [{**row, "item_key": n + 1, "item_id": f"n{n}"} for n, row in enumerate(rows)]
    return Catalogue.build(pa.Table.from_pylist(named, schema=toy.items().schema), tokenizer)


@pytest.fixture(scope="module")
def drawn(tokenizer: Tokenizer) -> tuple[Examples, torch.Tensor]:
    """Requests of one line each, and item vectors: what is popular lies in one direction.

    Every request was shown five of the twenty most popular.
    """
    dice = np.random.default_rng(0)
    items = np.concatenate([np.zeros((1, WIDTH)), dice.normal(size=(ITEMS, WIDTH)) / 2])
    weight = np.exp(items[1:] @ TRUTH.numpy())
    taken = 1 + dice.choice(ITEMS, size=REQUESTS, p=weight / weight.sum())
    nothing = Ragged.from_rows([[]] * REQUESTS)
    best_first = 1 + np.argsort(-weight)
    shown = best_first[5 * dice.integers(4, size=(REQUESTS, 1)) + np.arange(5)]
    examples = Examples(
        behaviour=Behaviour(
            real_time=nothing,
            real_time_age_s=nothing,
            short_term=nothing,
            long_term=dict.fromkeys(LONG_TERM_ACTIONS, nothing),
            queries=nothing,
            owned=Owned.nothing(REQUESTS),
            stats_UF=np.zeros((REQUESTS, 1), np.float32),
        ),
        texts=tokenizer.encode(["milk"]),
        text_list=["milk"],
        user_key_U=np.arange(REQUESTS),
        t_ms_U=np.arange(REQUESTS),
        request_B=np.arange(REQUESTS, dtype=np.int32),
        text_B=np.zeros(REQUESTS, np.int32),
        item_B=taken.astype(np.int32),
        item_key_B=taken.astype(np.int64),
        action_B=np.zeros(REQUESTS, np.int64),
        impressed=Ragged.from_rows(
            [row[row != own] for row, own in zip(shown, taken, strict=True)]
        ),
    )
    return examples, torch.tensor(items, dtype=torch.float32)


@pytest.mark.parametrize("negatives", SUMS.values(), ids=SUMS)
def test_the_expected_gradient_is_that_of_the_full_softmax(
    negatives: Negatives, drawn: tuple[Examples, torch.Tensor], shop: Catalogue
) -> None:
    """Of users and of items, over many batches; without the correction it is not, but for draws.

    Hard items count once more: the gradient is not that of the softmax without them.
    """
    user = torch.tensor([1.0, -0.5, 0.5])
    counted_again, plain = errors(negatives, "negatives", user, drawn, shop)
    assert counted_again.user < 0.02
    # Of a hundred items half are drawn: their gradient varies more. Were the batch not
    # weighed for the memory, the two with one would have .005 and .008.
    assert counted_again.items < (0.003 if negatives.batch else 0.006)
    if negatives.batch:
        uncorrected = errors(negatives, "off", user, drawn, shop)[0]
        assert uncorrected.user > 0.05
        assert uncorrected.items > 0.005
    if negatives.impressed or negatives.mined:
        assert plain.user > 0.04


@pytest.mark.parametrize(
    "negatives",
    [each for each in SUMS.values() if not (each.impressed or each.mined)],
    ids=[name for name, each in SUMS.items() if not (each.impressed or each.mined)],
)
def test_at_the_truth_nothing_is_learned_where_all_is_corrected(
    negatives: Negatives, drawn: tuple[Examples, torch.Tensor], shop: Catalogue
) -> None:
    """`log_q="all"`: with the user by whom the lines were drawn the full softmax is at its optimum.

    Its gradient is nothing but the draw of the lines, and the corrected loss has the same.
    """
    found, _ = errors(negatives, "all", TRUTH, drawn, shop)
    assert found.user < 0.01
    assert found.items < (0.004 if negatives.batch else 0.02)  # the draws, as above
    if negatives.batch:
        uncorrected, _ = errors(negatives, "off", TRUTH, drawn, shop)
        assert uncorrected.user > 0.03
        assert uncorrected.items > 0.008


def errors(
    negatives: Negatives,
    log_q: str,
    user_D: Tensor,
    drawn: tuple[Examples, torch.Tensor],
    shop: Catalogue,
) -> tuple[Errors, Errors]:
    """How far the mean gradient is from the full softmax's: with hard items once more, without."""
    examples, item_MD = drawn

    @cache
    def full(item: int, hard: frozenset[int]) -> Gradient:
        again = [each - 1 for each in hard]
        of_user, of_items = oracle.full_softmax_gradient(
            user_D.tolist(), item_MD[1:].tolist(), item - 1, 1.0, again
        )
        return np.array([of_user, *of_items])

    config = LoopConfig(
        requests_per_batch=AT_ONCE,
        negatives=negatives,
        temperature=1.0,
        log_q=log_q,  # type: ignore[arg-type]
    )
    model, objective = Given(user_D, item_MD), Objective(config, examples, shop)
    differences: list[tuple[Gradient, Gradient]] = []
    for epoch in range(3):
        if negatives.mines(epoch):
            objective.mined.mine(model, examples, shop, seed=(1, epoch))
        for batch in batches(
            examples,
            shop,
            requests_per_batch=AT_ONCE,
            seed=1,
            epoch=epoch,
            negatives=negatives,
            mined_LK=objective.mined.items_LK,
        ):
            loss = objective.loss(model, batch, step=len(differences))
            of_user, of_items = torch.autograd.grad(loss, (model.user_D, model.item_MD))
            gradient = torch.cat([of_user.unsqueeze(0), of_items[1:]])
            taken = batch.items.item_M[batch.positive_B].tolist()
            hard = [
                frozenset() if negatives.each else hard_of(batch, line) for line in range(AT_ONCE)
            ]
            with_hard = np.mean([full(*each) for each in zip(taken, hard, strict=True)], axis=0)
            plain = np.mean([full(item, frozenset()) for item in taken], axis=0)
            differences.append((gradient.numpy() - with_hard, gradient.numpy() - plain))
    settled = differences[negatives.memory_after + negatives.memory :]
    error = np.abs(np.mean(settled, axis=0)).max(axis=2)
    again, without = (Errors(user=each[0], items=each[1:].max()) for each in error)
    return again, without


def hard_of(batch: Batch, line: int) -> frozenset[int]:
    """Numbers of the line's hard items, each there once."""
    places = batch.hard_BK[line]
    items = batch.items.item_M[places[places >= 0]].tolist()
    assert len(set(items)) == len(items)
    return frozenset(items)


def test_where_all_chances_are_equal_correcting_all_of_them_changes_nothing(
    drawn: tuple[Examples, torch.Tensor], shop: Catalogue
) -> None:
    """Hard items keep their odds against the taken one."""
    examples, item_MD = drawn
    negatives = Negatives(batch=False, uniform=20, impressed=3)
    batch = next(
        batches(examples, shop, requests_per_batch=9, seed=2, epoch=0, negatives=negatives)
    )
    assert (batch.hard_BK >= 0).any()
    found = []
    for log_q in ("off", "all", "negatives"):
        config = LoopConfig(requests_per_batch=9, negatives=negatives, log_q=log_q)  # type: ignore[arg-type]
        loss = Objective(config, examples, shop).loss(Given(item_MD[1], item_MD), batch, step=0)
        found.append(loss.item())
    assert found[0] == pytest.approx(found[1])
    assert found[0] != pytest.approx(found[2])


@given(
    st.integers(1, 10**12), st.integers(0, 12), st.lists(st.integers(0, 40), min_size=1, max_size=5)
)
def test_a_chance_to_miss_is_exact_however_many_requests_there_are(
    requests: int, drawn: int, taken: list[int]
) -> None:
    drawn, taken = min(drawn, requests), [min(each, requests) for each in taken]
    found = log_batch_missed(np.array(taken), drawn, requests)
    for count, one in zip(taken, found, strict=True):
        missed = Fraction(math.comb(requests - count, drawn), math.comb(requests, drawn))
        # Of a chance that is nearly one, what it lacks is what log q is made of.
        assert -np.expm1(one) == pytest.approx(float(1 - missed), rel=1e-9)


def test_a_chance_is_the_share_of_batches_that_hold_the_item() -> None:
    """Counted over sets that are drawn here, for every sum of sources."""
    dice = np.random.default_rng(3)
    requests, pool, size = 200, 12, 10
    taken_by = dice.choice(pool, size=requests, p=np.arange(1, pool + 1) / 78) + 1
    counts = np.bincount(taken_by, minlength=pool + 1)
    for name, negatives in SUMS.items():
        few = replace(negatives, uniform=negatives.uniform // 25, each=negatives.each // 25)
        held = Chances(counts, requests=requests, requests_per_batch=size, pool=pool, negatives=few)
        found = np.exp(held.log_q(np.arange(1, pool + 1), remembered=negatives.memory))
        seen = np.zeros(pool + 1)
        rounds = 4_000
        for number in range(rounds):
            there: set[int] = set()
            for _ in range(negatives.memory):
                there |= set(taken_by[dice.permutation(requests)[:size]].tolist())
            if few.batch:  # of a line whose own request has not taken the item, all others
                there |= set(taken_by[dice.permutation(requests)[: size - 1]].tolist())
            if few.uniform:
                there |= set(draw(few.uniform, pool=pool, seed=(9, number)).tolist())
            if few.each:
                (own,) = draw_for_each(1, few.each, pool=pool, seed=(9, number)).tolist()
                there |= set(own) - {0}
            seen[list(there)] += 1
        np.testing.assert_allclose(found, seen[1:] / rounds, atol=0.03, err_msg=name)


def test_memory_holds_the_newest_vector_of_each_item_and_none_of_the_batchs() -> None:
    memory = Memory(2)
    for number, items in enumerate(([1, 2], [2, 3], [3, 4])):
        vectors = torch.full((2, 2), float(number), requires_grad=True)
        memory.add(np.array(items), vectors)
    items, vectors = memory.columns(besides=np.array([4, 9]), device=torch.device("cpu"))
    assert items.tolist() == [2, 3]
    assert vectors[:, 0].tolist() == [1.0, 2.0]
    assert not vectors.requires_grad
    other = Memory(2)
    other.take_up(memory.tensors())
    again, same = other.columns(besides=np.array([4, 9]), device=torch.device("cpu"))
    assert (again.tolist(), same.tolist()) == (items.tolist(), vectors.tolist())


def test_memory_is_used_when_it_may_be() -> None:
    memory, used = Memory(3, after=2), []
    for step in range(6):
        used.append(memory.used(step))
        memory.add(np.array([step]), torch.zeros(1, 2))
    assert used == [0, 0, 2, 3, 3, 3]
    with pytest.raises(ValueError, match="need the batch or items drawn"):
        Negatives(batch=False)
    with pytest.raises(ValueError, match="memory goes on from the batch"):
        Negatives(batch=False, uniform=2, memory=3)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"impressed": -1}, "must not be negative"),
        ({"mined": 2, "mined_first": 0}, "1 <= mined_first <= mined_last"),
        ({"mined": 3, "mined_first": 5, "mined_last": 6}, "fewer ranks"),
        ({"mined_from": -1}, "mined_from"),
        ({"each": -1}, "must not be negative"),
        ({"each": 2}, "stand alone"),
        ({"batch": False, "each": 2, "uniform": 2}, "stand alone"),
        ({"batch": False, "each": 2, "impressed": 2}, "stand alone"),
    ],
)
def test_hard_sources_that_cannot_be_are_refused(wrong: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Negatives(**wrong)  # type: ignore[arg-type]


def test_a_lines_own_draws_are_all_but_what_its_request_has_taken(
    make_examples: MakeExamples, catalogue: Catalogue
) -> None:
    """Nearly the whole pool is drawn for each line of two baskets."""
    baskets = [
        toy.Basket(user=f"u{n}", at_ms=toy.T0, taken=(("milk", f"i{n}"), ("tea", f"i{n + 9}")))
        for n in range(2)
    ]
    made = make_examples(baskets)
    batch = next(
        batches(
            made,
            catalogue,
            requests_per_batch=2,
            seed=0,
            epoch=0,
            negatives=Negatives(batch=False, each=2_000),
        )
    )
    number_of = dict(zip(catalogue.keys.tolist(), range(1, 61), strict=True))
    for request in range(2):
        own = {number_of[key] for key in made.item_key_B[made.request_B == request].tolist()}
        for line in np.flatnonzero(batch.user.request_B == request):
            assert hard_of(batch, int(line)) == set(range(1, 61)) - own
    with pytest.raises(ValueError, match="all lines share"):
        LoopConfig(negatives=Negatives(batch=False, each=3), mix=Mix())


def test_draws_of_each_row_are_distinct_values_of_it_and_as_likely() -> None:
    rows = Ragged.from_rows([[3, 5, 7, 9], [], [4], [1, 2]])
    seen = np.zeros(10)
    for number in range(500):
        found = draw_of_each(rows, 2, seed=(1, number))
        assert found.tolist() == draw_of_each(rows, 2, seed=(1, number)).tolist()
        assert len(set(found[0].tolist())) == 2
        assert found[1:3].tolist() == [[0, 0], [4, 0]]
        assert sorted(found[3].tolist()) == [1, 2]
        seen[found[0]] += 1
    assert set(np.flatnonzero(seen)) == {3, 5, 7, 9}
    assert np.abs(seen[[3, 5, 7, 9]] / 500 - 0.5).max() < 0.1
    assert once_each(np.array([[4, 0, 4], [2, 1, 0]])).tolist() == [[0, 4, 0], [0, 1, 2]]


def test_draws_are_distinct_items_of_the_pool_and_repeat() -> None:
    seen = np.zeros(21)
    for number in range(500):
        items = draw(5, pool=20, seed=(1, number))
        assert len(set(items.tolist())) == 5
        assert items.tolist() == draw(5, pool=20, seed=(1, number)).tolist()
        seen[items] += 1
    assert seen[0] == 0
    assert np.abs(seen[1:] / 500 - 0.25).max() < 0.08
    assert draw(50, pool=20, seed=(1,)).tolist() == list(range(1, 21))
