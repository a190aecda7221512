from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import pad

from pagoda.models.bst import Block, BstConfig, Pairs, time_number
from pagoda.models.catalogue import Catalogue
from pagoda.models.inputs import Padded
from pagoda.models.tables import Sizes
from tests.training import toy
from tests.training.conftest import MakeExamples
from tests.training.small import built
from training.data.batches import Examples
from training.ranker import pairs_of

SMALL = BstConfig(
    item_width=8,
    attribute_width=4,
    time_width=4,
    text_width=8,
    heads=2,
    events=6,
    hidden=(24, 16),
)


@pytest.fixture
def pairs(examples: Examples, catalogue: Catalogue) -> Pairs:
    """Every line with its own item and with two others."""
    lines = np.repeat(np.arange(examples.lines), 3)
    items = np.stack([examples.item_B, examples.item_B % 60 + 1, np.full(examples.lines, 7)], 1)
    return pairs_of(examples, catalogue, line_P=lines, item_P=items.reshape(-1))


@torch.no_grad()
def logits(config: BstConfig, sizes: Sizes, pairs: Pairs) -> Tensor:
    found: Tensor = built(config, sizes)(pairs)
    return found


def test_a_pair_alone_has_the_odds_it_has_among_others(
    sizes: Sizes, examples: Examples, catalogue: Catalogue, pairs: Pairs
) -> None:
    together = logits(SMALL, sizes, pairs)
    assert together.shape == (3 * examples.lines,)
    assert together.std() > 1e-3
    for line in (0, 5, 17, examples.lines - 1):
        alone = pairs_of(
            examples, catalogue, line_P=np.array([line]), item_P=examples.item_B[[line]]
        )
        torch.testing.assert_close(
            logits(SMALL, sizes, alone)[0], together[3 * line], atol=1e-5, rtol=1e-4
        )


def test_more_padding_changes_nothing(sizes: Sizes, pairs: Pairs) -> None:
    clicks = pairs.user.real_time
    user = replace(
        pairs.user,
        # Wider, and with something where nothing is.
        real_time=Padded(
            at_UT=pad(clicks.at_UT, (0, 7), value=3), mask_UT=pad(clicks.mask_UT, (0, 7))
        ),
        real_time_age_s_UT=pad(pairs.user.real_time_age_s_UT, (0, 7), value=99),
    )
    torch.testing.assert_close(
        logits(SMALL, sizes, replace(pairs, user=user)), logits(SMALL, sizes, pairs)
    )


def with_clicks(pairs: Pairs, at_UT: Tensor) -> Pairs:
    user = replace(pairs.user, real_time=replace(pairs.user.real_time, at_UT=at_UT))
    return replace(pairs, user=user)


def test_the_newest_events_are_looked_at_and_none_before_them(sizes: Sizes, pairs: Pairs) -> None:
    clicks = pairs.user.real_time
    length_U = clicks.mask_UT.sum(1)
    back_UT = length_U[:, None] - 1 - torch.arange(clicks.mask_UT.shape[1])
    looked_at_UT = (back_UT >= 0) & (back_UT < SMALL.events)
    plain = logits(SMALL, sizes, pairs)
    older = with_clicks(pairs, clicks.at_UT.where(looked_at_UT, 1))
    assert (older.user.real_time.at_UT != clicks.at_UT).any()
    assert torch.equal(logits(SMALL, sizes, older), plain)
    request_P = pairs.user.request_B[pairs.line_P]
    for back in range(SMALL.events):
        other_UT = (clicks.at_UT + 1) % len(pairs.user.items.item_M)
        changed = with_clicks(pairs, other_UT.where(back_UT == back, clicks.at_UT))
        moved_P = (logits(SMALL, sizes, changed) - plain).abs() > 1e-6
        assert torch.equal(moved_P, (length_U > back)[request_P])


def test_how_long_ago_an_event_was_counts_and_without_time_it_does_not(
    sizes: Sizes, pairs: Pairs
) -> None:
    user = replace(pairs.user, real_time_age_s_UT=pairs.user.real_time_age_s_UT * 4 + 3)
    for config, moves in ((SMALL, True), (replace(SMALL, time=False), False)):
        plain, later = (logits(config, sizes, each) for each in (pairs, replace(pairs, user=user)))
        has_clicks_P = pairs.user.real_time.mask_UT[:, 0][pairs.user.request_B[pairs.line_P]]
        assert torch.equal((plain != later), has_clicks_P & moves)


@given(st.lists(st.integers(0, 2**31 - 2), min_size=1))
def test_a_time_has_a_row_of_its_own_with_each_doubling(ages: list[int]) -> None:
    found = time_number(torch.tensor(ages))
    assert found.tolist() == [min(1 + (1 + age).bit_length(), 27) for age in ages]


def test_a_block_is_what_the_paper_writes(sizes: Sizes) -> None:
    """Two layer norms, each over a residual; one head is plain scaled attention."""
    torch.manual_seed(0)
    block = Block(replace(SMALL, heads=1)).eval()
    x_PTD = torch.randn(3, 5, SMALL.width)
    mask_PT = torch.arange(5) < torch.tensor([[5], [2], [1]])
    with torch.no_grad():
        found = block(x_PTD, mask_PT)
        for x_TD, mask_T, of_pair in zip(x_PTD, mask_PT, found, strict=True):
            x_TD = x_TD[mask_T]  # what is masked is as if it were not there
            q, k, v = block.attention.query_key_value(x_TD).chunk(3, -1)
            mixed = (q @ k.T / SMALL.width**0.5).softmax(-1) @ v
            first = block.norm_attention(x_TD + block.attention.out(mixed))
            inner = torch.nn.functional.leaky_relu(block.ffn[0](first))
            expected = block.norm_ffn(first + block.ffn[2](inner))
            torch.testing.assert_close(of_pair[mask_T], expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("switch", [{"transformer": False}, {"time": False}], ids=str)
def test_each_switch_changes_the_computation(
    switch: dict[str, bool], sizes: Sizes, pairs: Pairs
) -> None:
    base, changed = built(SMALL, sizes), built(replace(SMALL, **switch), sizes)
    changed.load_state_dict(base.state_dict(), strict=False)  # the same where both have them
    with torch.no_grad():
        assert (changed(pairs) - base(pairs)).abs().max() > 1e-4


def test_query_and_title_count(sizes: Sizes, pairs: Pairs) -> None:
    plain = logits(SMALL, sizes, pairs)
    query = replace(pairs.user, text_B=(pairs.user.text_B + 1) % len(pairs.user.texts.words_XN))
    words_MN = pairs.targets.title_words()
    title = replace(pairs.targets, title_words=lambda: words_MN.flip(0))
    for other in (replace(pairs, user=query), replace(pairs, targets=title)):
        assert (logits(SMALL, sizes, other) - plain).abs().max() > 1e-4


def test_a_user_without_history_has_finite_odds_and_gradients(
    sizes: Sizes, make_examples: MakeExamples, catalogue: Catalogue
) -> None:
    empty = make_examples([toy.Basket(user="new", at_ms=toy.T0, taken=(("milk", "i0"),), clicks=0)])
    model = built(SMALL, sizes)
    odds = model(pairs_of(empty, catalogue, line_P=np.zeros(2, int), item_P=np.array([1, 2])))
    odds.sum().backward()
    assert odds.isfinite().all()
    for parameter in model.parameters():
        if parameter.grad is not None:
            gradient = parameter.grad
            values = gradient.coalesce().values() if gradient.is_sparse else gradient
            assert values.isfinite().all()


def test_dropout_acts_in_training_only(sizes: Sizes, pairs: Pairs) -> None:
    model = built(SMALL, sizes)
    with torch.no_grad():
        assert torch.equal(model(pairs), model(pairs))
        model.train()
        assert not torch.equal(model(pairs), model(pairs))


@pytest.mark.parametrize("wrong", [{"heads": 3}, {"events": 0}], ids=str)
def test_a_configuration_that_cannot_be_built_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"divisible|events"):
        replace(SMALL, **wrong)
