"""What the towers know of what a user had before, against plain loops."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from pagoda.models.catalogue import Catalogue
from pagoda.models.inputs import UserBatch, item_batch
from pagoda.models.mgdspr_repeats import MgdsprRepeats
from pagoda.models.tables import Sizes
from tests.training import toy
from tests.training.conftest import MakeExamples
from tests.training.small import MGDSPR, MGDSPR_REPEATS, built, vectors, whole

D = MGDSPR.width
TIMES = [(1, 1), (2, 2), (3, 4), (5, 8), (9, 16), (17, 32), (33, math.inf)]
AGES = [(0, 1), (2, 3), (4, 7), (8, 14), (15, 28), (29, 56), (57, 112), (113, 199), (200, math.inf)]


@pytest.fixture(scope="module")
def model(sizes: Sizes) -> MgdsprRepeats:
    return built(MGDSPR_REPEATS, sizes)


def bucket(value: int, buckets: list[tuple[int, float]]) -> int:
    return next(n for n, (low, high) in enumerate(buckets) if low <= value <= high)


@torch.no_grad()
def test_the_code_is_that_of_plain_loops(model: MgdsprRepeats, batch: UserBatch) -> None:
    """Line by line, item by item."""
    part = model.owned
    q_BQD, item_MD = model.query_rows(batch), model.item_tower(batch.items)
    found = model.encode_user(batch)
    for line in range(len(batch.request_B)):
        request = int(batch.request_B[line])
        probe = part.probe.weight @ q_BQD[line].flatten()
        weights, codes = [1.0], [torch.zeros(8)]  # the zero vector
        for at, is_there, times, age in zip(
            batch.owned.at_UT[request].tolist(),
            batch.owned.mask_UT[request].tolist(),
            batch.owned_times_UJ[request].tolist(),
            batch.owned_age_days_UJ[request].tolist(),
            strict=True,
        ):
            if not is_there:
                continue
            n_times, n_age = bucket(times, TIMES), bucket(age, AGES)
            key = part.key.weight @ item_MD[at]
            key = key + part.times.weight[n_times + 1] + part.ages.weight[n_age + 1]
            prior = part.prior.weight[1 + n_times * len(AGES) + n_age, 0]
            weights.append(math.exp(float(probe @ key + prior)))
            codes.append(part.code.weight[batch.items.item_M[at]])
        mean = sum(w * code for w, code in zip(weights, codes, strict=True)) / sum(weights)
        expected = MGDSPR_REPEATS.code_gain * mean
        torch.testing.assert_close(found[line, D:], expected, atol=1e-5, rtol=1e-4)


def test_the_first_part_is_mgdspr_and_items_carry_their_codes(
    model: MgdsprRepeats, sizes: Sizes, batch: UserBatch, catalogue: Catalogue
) -> None:
    paper = built(MGDSPR, sizes)
    paper.load_state_dict(model.state_dict(), strict=False)
    items = item_batch(torch.tensor([0, 1, 7, 60]).numpy(), catalogue)
    with torch.no_grad():
        torch.testing.assert_close(model.encode_user(batch)[:, :D], paper.encode_user(batch))
        item_MX = model.encode_item(items)
        torch.testing.assert_close(item_MX[:, :D], paper.encode_item(items))
        assert torch.equal(item_MX[:, D:], model.owned.code.weight[items.item_M])
    assert item_MX[0].eq(0).all()  # the unknown item


def test_what_was_had_once_and_long_ago_counts_less_at_first(sizes: Sizes) -> None:
    """Before training: an item had 40 times has a prior above one had once, whatever the ages."""
    torch.manual_seed(0)
    prior = MGDSPR_REPEATS.build(sizes).owned.prior.weight[1:, 0].view(len(TIMES), len(AGES))
    assert (prior[1:].min(1).values > prior[:-1].max(1).values).all()


def test_who_had_nothing_gets_no_code(
    sizes: Sizes, make_examples: MakeExamples, catalogue: Catalogue
) -> None:
    new = make_examples([toy.Basket(user="new", at_ms=toy.T0, taken=(("milk", "i0"),), clicks=0)])
    code_BR = vectors(MGDSPR_REPEATS, sizes, whole(new, catalogue))[:, D:]
    assert code_BR.shape == (1, 8)
    assert code_BR.eq(0).all()


def test_without_queries_the_last_item_asks(sizes: Sizes, batch: UserBatch) -> None:
    config = replace(MGDSPR_REPEATS, query="last_item")
    found = vectors(config, sizes, batch)
    assert found.shape == (len(batch.request_B), D + 8)
    paper = built(replace(MGDSPR, query="last_item"), sizes)
    paper.load_state_dict(built(config, sizes).state_dict(), strict=False)
    with torch.no_grad():
        torch.testing.assert_close(found[:, :D], paper.encode_user(batch))


def test_order_says_nothing_but_times_and_ages_do(sizes: Sizes, batch: UserBatch) -> None:
    def turned(rows: Tensor) -> Tensor:
        return rows.flip(1)

    owned = batch.owned
    flipped = replace(
        batch,
        owned=replace(owned, at_UT=turned(owned.at_UT), mask_UT=turned(owned.mask_UT)),
        owned_times_UJ=turned(batch.owned_times_UJ),
        owned_age_days_UJ=turned(batch.owned_age_days_UJ),
    )
    base = vectors(MGDSPR_REPEATS, sizes, batch)
    torch.testing.assert_close(vectors(MGDSPR_REPEATS, sizes, flipped), base, atol=1e-5, rtol=1e-4)
    for changed in (
        replace(batch, owned_times_UJ=batch.owned_times_UJ.clamp(max=1)),
        replace(batch, owned_age_days_UJ=batch.owned_age_days_UJ + 300),
    ):
        assert (vectors(MGDSPR_REPEATS, sizes, changed) - base).abs().max() > 1e-4


def test_gradients_reach_the_codes_of_what_was_had(model: MgdsprRepeats, batch: UserBatch) -> None:
    model.zero_grad()
    model.encode_user(batch)[:, D:].square().sum().backward()  # type: ignore[no-untyped-call]
    gradient = model.owned.code.weight.grad
    assert gradient is not None
    reached = set(gradient.coalesce().indices()[0].tolist())
    had = set(batch.items.item_M[batch.owned.at_UT[batch.owned.mask_UT]].tolist())
    assert had == reached - {0}
