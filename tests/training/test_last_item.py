"""Without queries the item clicked last stands in for the query."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from pagoda.bundle import Bundle, Request
from pagoda.ids import key_of
from pagoda.models.alpha_dnn import AlphaDnn
from pagoda.models.catalogue import Catalogue
from pagoda.models.inputs import UserBatch, item_batch, user_batch
from pagoda.models.last_item import last_clicked
from pagoda.models.mgdspr import Mgdspr, MgdsprConfig
from pagoda.models.tables import Sizes
from pagoda.models.towers import Config
from pagoda.models.youtube_dnn import YoutubeDnn
from pagoda.models.youtube_two_tower import YoutubeTwoTower
from pagoda.models.zam import Zam
from pagoda.text import Tokenizer
from tests.training import toy
from tests.training.conftest import MakeExamples
from tests.training.small import SMALL, built, whole
from training.data.batches import Examples
from training.loop import train
from training.loop_config import LoopConfig

LAST_ITEM = MgdsprConfig(width=16, attribute_width=8, heads=2, query="last_item")


@pytest.fixture
def model(catalogue: Catalogue, tokenizer: Tokenizer) -> Mgdspr:
    made = built(LAST_ITEM, Sizes.of(catalogue, tokenizer))
    assert isinstance(made, Mgdspr)
    return made


def tokens_of(model: Mgdspr, batch: UserBatch) -> Tensor:
    """What the fusion is given, [B, tokens, D]."""
    seen: list[Tensor] = []
    hook = model.fusion.register_forward_hook(lambda _module, inputs, _out: seen.append(inputs[0]))
    with torch.no_grad():
        model.encode_user(batch)
    hook.remove()
    return seen[0]


def test_the_last_click_is_the_newest_recent_one_else_the_newest_long_term_one(
    examples: Examples, catalogue: Catalogue
) -> None:
    batch = whole(examples, catalogue)
    behaviour = examples.behaviour
    expected = []
    for request in range(examples.requests):
        recent, older = behaviour.real_time[request], behaviour.long_term["click"][request]
        expected.append(int(recent[-1]) if len(recent) else int(older[-1]) if len(older) else 0)
    assert last_clicked(batch).item_M.tolist() == expected
    # Without recent clicks the long-term ones decide, for whoever has any.
    nobody = replace(batch.real_time, mask_UT=torch.zeros_like(batch.real_time.mask_UT))
    older = [behaviour.long_term["click"][request] for request in range(examples.requests)]
    assert last_clicked(replace(batch, real_time=nobody)).item_M.tolist() == [
        int(each[-1]) if len(each) else 0 for each in older
    ]
    assert {len(each) > 0 for each in older} == {True, False}


def test_its_vector_is_the_only_query_row(
    model: Mgdspr, examples: Examples, catalogue: Catalogue
) -> None:
    batch = whole(examples, catalogue)
    tokens = tokens_of(model, batch)
    assert tokens.shape == (examples.lines, 1 * 4, 16)  # CLS is the fusion's own
    last = last_clicked(batch).item_M[batch.request_B].numpy()
    with torch.no_grad():
        vectors = model.encode_item(item_batch(last, catalogue))
    torch.testing.assert_close(tokens[:, 0], vectors)


def test_what_the_query_says_changes_nothing(
    model: Mgdspr, examples: Examples, catalogue: Catalogue
) -> None:
    batch = whole(examples, catalogue)
    others = user_batch(
        examples.behaviour,
        catalogue,
        examples.texts,
        request_B=examples.request_B,
        text_B=np.roll(examples.text_B, 1),
    )
    with torch.no_grad():
        torch.testing.assert_close(model.encode_user(batch), model.encode_user(others))


def test_another_last_click_is_another_vector(
    model: Mgdspr, examples: Examples, catalogue: Catalogue
) -> None:
    batch = whole(examples, catalogue)
    full = batch.real_time.mask_UT[:, 1]
    swapped = batch.real_time.at_UT.clone()
    length = batch.real_time.mask_UT.sum(1)
    for request in full.nonzero().flatten().tolist():
        last = int(length[request]) - 1
        swapped[request, [0, last]] = swapped[request, [last, 0]]
    other = replace(batch, real_time=replace(batch.real_time, at_UT=swapped))
    changed = (tokens_of(model, other)[:, 0] != tokens_of(model, batch)[:, 0]).any(1)
    moved = (swapped != batch.real_time.at_UT).any(1)
    assert moved.any()
    assert torch.equal(changed, moved[batch.request_B])


def test_a_user_without_any_click_has_a_finite_vector_of_nothing(
    model: Mgdspr, make_examples: MakeExamples, catalogue: Catalogue
) -> None:
    new = make_examples([toy.Basket(user="new", at_ms=toy.T0, taken=(("", "i0"),), clicks=0)])
    batch = whole(new, catalogue)
    assert tokens_of(model, batch).eq(0).all()
    user_BD = model.encode_user(batch)
    user_BD.sum().backward()  # type: ignore[no-untyped-call]
    assert user_BD.isfinite().all()


def test_it_learns_which_item_follows_which(
    model: Mgdspr, make_examples: MakeExamples, catalogue: Catalogue
) -> None:
    """Eight users, each with another last click: eight lines are learnt by heart."""
    lines = make_examples(
        [
            toy.Basket(user=f"u{n}", at_ms=toy.T0 + n, taken=(("", f"i{n}"),), clicks=6)
            for n in range(8)
        ]
    )
    losses = train(model, lines, catalogue, LoopConfig(epochs=80, log_q="off"))
    assert losses[-1] < 0.1 < losses[0]


def test_a_bundle_answers_an_empty_query_by_the_last_click(tmp_path: Path) -> None:
    bundle = Bundle.load(toy.save(tmp_path, config=LAST_ITEM))
    rows = toy.feature_rows("u1", toy.T0)
    asked = [Request(query=query, at_ms=toy.T0, rows=rows) for query in ("", "milk")]
    empty, words = bundle.embed(asked)
    np.testing.assert_array_equal(empty, words)
    intraday = {
        "click_ts": [toy.T0 - 1],
        "click_events": [7],
        "click_items": [key_of("item", "i3")],
    }
    clicked = Request(query="", at_ms=toy.T0, rows={**rows, "user_intraday": intraday})
    assert not np.allclose(bundle.embed([clicked])[0], empty)


# The other towers ---------------------------------------------------------------------------

OTHERS = {name: SMALL[name] for name in ("alpha_dnn", "youtube_two_tower", "youtube_dnn", "zam")}
EACH_OTHER = pytest.mark.parametrize("config", OTHERS.values(), ids=OTHERS)


@EACH_OTHER
@torch.no_grad()
def test_without_a_query_the_last_click_stands_where_the_words_would(
    config: Config, sizes: Sizes, make_examples: MakeExamples, catalogue: Catalogue
) -> None:
    """As if the query had one word, whose row is the item's and which has no letters."""
    taken = (("", "i0"), ("milk", "i1"))
    made = make_examples([toy.Basket(user="u", at_ms=toy.T0, taken=taken, clicks=12)])
    batch = whole(made, catalogue)
    model = built(config, sizes)
    if isinstance(model, Zam):
        embed, word = model.encode_item, model.word
    else:
        assert isinstance(model, AlphaDnn | YoutubeDnn | YoutubeTwoTower)
        items = model.items if isinstance(model, YoutubeTwoTower) else model.item_tower
        embed, word = items.embed, items.tables.word
        items.tables.trigram.weight.zero_()
    empty, milk = model.encode_user(batch)
    assert not torch.allclose(empty, milk, atol=1e-3)
    (number,) = made.texts.words[made.text_B[1]]
    word.weight[int(number)] = embed(last_clicked(batch))[0]
    empty, milk = model.encode_user(batch)
    torch.testing.assert_close(empty, milk, atol=1e-5, rtol=1e-4)


@EACH_OTHER
@torch.no_grad()
def test_lines_beside_it_that_have_a_query_stay_as_they_are(
    config: Config, sizes: Sizes, make_examples: MakeExamples, catalogue: Catalogue
) -> None:
    baskets = [
        toy.Basket(user=f"u{n}", at_ms=toy.T0 + n, taken=((query, "i0"),), clicks=clicks)
        for n, (query, clicks) in enumerate((("milk", 12), ("", 3), ("", 0), ("tea", 0)))
    ]
    model = built(config, sizes)
    together = model.encode_user(whole(make_examples(baskets), catalogue))
    for line, basket in enumerate(baskets):
        alone = model.encode_user(whole(make_examples([basket]), catalogue))
        torch.testing.assert_close(alone[0], together[line], atol=1e-5, rtol=1e-4)
