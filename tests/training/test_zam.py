from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from torch import Tensor

from pagoda.models.catalogue import Catalogue
from pagoda.models.inputs import UserBatch, item_batch, user_batch
from pagoda.models.tables import Sizes
from pagoda.models.zam import Zam, ZamConfig
from tests.training import toy
from tests.training.conftest import MakeExamples
from tests.training.small import MGDSPR, ZAM, built, whole
from training.data.batches import Examples
from training.evaluation import zero_share
from training.evaluation.trial import Trial

AEM = replace(ZAM, zero=False)


def zam(config: ZamConfig, sizes: Sizes) -> Zam:
    model = built(config, sizes)
    assert isinstance(model, Zam)
    return model


@pytest.mark.parametrize("config", [ZAM, AEM], ids=["zam", "aem"])
@torch.no_grad()
def test_a_line_has_the_vector_that_the_equations_give(
    config: ZamConfig, sizes: Sizes, examples: Examples, catalogue: Catalogue
) -> None:
    model = zam(config, sizes)
    found = model.encode_user(whole(examples, catalogue))
    for line in (0, 7, 20, examples.lines - 1):
        behaviour = examples.behaviour.take(examples.request_B[[line]])
        history = [
            model.item.weight[number]
            for ragged in (behaviour.long_term["buy"], behaviour.short_term, behaviour.real_time)
            for number in ragged.values
        ]
        words = examples.texts.words[examples.text_B[line]]
        q = torch.tanh(model.query(model.word.weight[words].mean(0)))
        rows = torch.tanh(model.probe(q)).view(config.rows, -1)
        expected = q + attended(history, [model.row_weight @ (rows @ i) for i in history], config)
        torch.testing.assert_close(found[line], expected, atol=1e-5, rtol=1e-4)


def attended(history: list[Tensor], scores: list[Tensor], config: ZamConfig) -> Tensor:
    """`sum_i exp f(q,i) i / (exp 0 + sum_j exp f(q,j))`, without exp 0 for AEM."""
    below = sum(score.exp() for score in scores) + (1.0 if config.zero else 0.0)
    return sum(
        (score.exp() / below * i for score, i in zip(scores, history, strict=True)),
        start=torch.zeros(config.width),
    )


@torch.no_grad()
def test_zero_takes_a_share_of_the_attention_and_all_of_it_without_history(
    sizes: Sizes, batch: UserBatch, make_examples: MakeExamples, catalogue: Catalogue
) -> None:
    share = zam(ZAM, sizes).zero_share(batch)
    assert share.min() > 0
    some = share < 1 - 1e-6
    assert some.any()
    torch.testing.assert_close(
        zam(AEM, sizes).zero_share(batch)[some], torch.zeros(int(some.sum())), atol=1e-5, rtol=0
    )
    new = make_examples([toy.Basket(user="new", at_ms=toy.T0, taken=(("milk", "i0"),), clicks=0)])
    alone = user_batch(
        new.behaviour, catalogue, new.texts, request_B=new.request_B, text_B=new.text_B
    )
    for config in (ZAM, AEM):
        assert zam(config, sizes).zero_share(alone).item() == 1


@pytest.mark.parametrize("recent", [True, False])
def test_the_zeros_share_is_told_by_whether_the_history_has_the_leaf(
    recent: bool, sizes: Sizes, examples: Examples, catalogue: Catalogue
) -> None:
    model = zam(replace(ZAM, recent=recent), sizes)
    none = pl.DataFrame(schema={"user_key": pl.Int64, "item_key": pl.Int64, "t_ms": pl.Int64})
    trial = Trial(examples=examples, catalogue=catalogue, history=none, starts_ms=toy.T0)
    with torch.no_grad():
        share_B = model.zero_share(whole(examples, catalogue)).numpy()
    leaf = catalogue.attributes["leaf"]
    expected: dict[str, list[int]] = {zero_share.RELATED: [], zero_share.FOREIGN: []}
    for line in range(examples.lines):
        behaviour = examples.behaviour.take(examples.request_B[[line]])
        read = [behaviour.long_term["buy"]]
        read += [behaviour.short_term, behaviour.real_time] if recent else []
        leaves = {leaf[number] for ragged in read for number in ragged.values}
        if leaves and (wanted := leaf[examples.item_B[line]]):
            there = wanted in leaves
            expected[zero_share.RELATED if there else zero_share.FOREIGN].append(line)
    found = zero_share.by_history(trial, model)
    assert {rows: lines.tolist() for rows, (lines, _) in found.items()} == expected
    assert all(expected.values())
    for lines, shares in found.values():
        np.testing.assert_allclose(shares, share_B[lines], atol=1e-5)
    assert zero_share.by_history(trial, zam(AEM, sizes)) == {}
    assert zero_share.by_history(trial, built(MGDSPR, sizes)) == {}


def test_the_words_loss_is_of_taken_items_and_no_own_word_is_a_negative(
    sizes: Sizes, catalogue: Catalogue
) -> None:
    model = zam(ZAM, sizes)
    two = item_batch(np.array([3, 9]), catalogue)
    alike_MN = two.title_words()[[0, 0]]
    alike = replace(two, title_words=lambda: alike_MN)
    dice = torch.Generator().manual_seed(0)
    loss = model.own_loss(alike, torch.tensor([1, 1, 1]), dice)
    words = alike_MN[1][alike_MN[1] > 0]
    score = model.word(words) @ model.item.weight[9]
    torch.testing.assert_close(loss, -torch.nn.functional.logsigmoid(score).sum())
    loss.backward()  # type: ignore[no-untyped-call]
    gradient = model.item.weight.grad
    assert gradient is not None
    gradient = gradient.to_dense()
    assert gradient[9].ne(0).any()
    assert gradient[3].eq(0).all()


def test_words_are_drawn_by_the_dice_alone(sizes: Sizes, batch: UserBatch) -> None:
    model = zam(ZAM, sizes)
    taken = torch.arange(1, 9)

    def loss(seed: int) -> float:
        return model.own_loss(batch.items, taken, torch.Generator().manual_seed(seed)).item()

    assert loss(1) == loss(1)
    assert loss(1) != loss(2)
    none = zam(replace(ZAM, drawn_words=0), sizes)
    assert none.own_loss(batch.items, taken, torch.Generator()).item() == 0
