"""`pagoda bench train`: both ways compute the same, and a difference would be told."""

from __future__ import annotations

import pytest
import torch

from pagoda.errors import CheckFailed
from pagoda.models.catalogue import Catalogue
from pagoda.models.inputs import user_batch
from pagoda.models.tables import Sizes
from training import bench_ways
from training.bench_towers import require_equal
from training.bench_ways import LINES, Kind, Plain
from training.data import Examples, batches
from training.loop import LoopConfig, train

REQUESTS = 3


@pytest.fixture(scope="module")
def made() -> Catalogue:
    return bench_ways.catalogue(50, seed=0)


@pytest.fixture(scope="module")
def rows(made: Catalogue) -> Examples:
    return bench_ways.examples(made, requests=2 * REQUESTS, seed=0)


def model(kind: Kind, made: Catalogue) -> torch.nn.Module:
    torch.manual_seed(0)
    sizes = Sizes.of(made, made.tokenizer, stats=["s"] * 7)
    return bench_ways.config(kind, 16).build(sizes)


@pytest.mark.parametrize("kind", ["mgdspr", "alpha_dnn"])
def test_what_is_not_shared_changes_nothing_that_is_learned(
    kind: Kind, made: Catalogue, rows: Examples
) -> None:
    config = LoopConfig(requests_per_batch=REQUESTS, epochs=3)
    shared, plain = model(kind, made), Plain(model(kind, made))
    assert train(plain, rows, made, config) == pytest.approx(
        train(shared, rows, made, config), rel=1e-4
    )
    assert any(
        not torch.equal(one, other)
        for one, other in zip(model(kind, made).parameters(), shared.parameters(), strict=True)
    )


def test_every_line_stands_alone(made: Catalogue, rows: Examples) -> None:
    (batch, *_) = batches(rows, made, requests_per_batch=REQUESTS, seed=0, epoch=0)
    alone = bench_ways.alone(batch.user)
    lines = REQUESTS * LINES
    assert len(alone.real_time.at_UT) == len(alone.texts.words_XN) == lines
    used = torch.cat(
        [
            alone.real_time.at_UT[alone.real_time.mask_UT],
            alone.short_term.at_UT[alone.short_term.mask_UT],
            *(bags.at for bags in alone.long_term.values()),
        ]
    )
    assert len(used.unique()) == len(used)
    shown = user_batch(  # the same lines, each a request of its own
        rows.behaviour.take(rows.request_B[:LINES]),
        made,
        rows.texts,
        request_B=torch.arange(LINES).numpy(),
        text_B=rows.text_B[:LINES],
    )
    first = bench_ways.alone(
        user_batch(
            rows.behaviour.take(rows.request_B[:1]),
            made,
            rows.texts,
            request_B=torch.zeros(LINES, dtype=torch.int64).numpy(),
            text_B=rows.text_B[:LINES],
        )
    )
    clicked = [
        each.items.item_M[each.real_time.at_UT][each.real_time.mask_UT] for each in (first, shown)
    ]
    assert torch.equal(*clicked)


def test_other_losses_are_told() -> None:
    require_equal({"pagoda": {"losses": [1.0, 2.0]}, "plain": {"losses": [1.0, 2.0001]}})
    with pytest.raises(CheckFailed, match="losses of pagoda and plain differ"):
        require_equal({"pagoda": {"losses": [1.0, 2.0]}, "plain": {"losses": [1.0, 2.1]}})
