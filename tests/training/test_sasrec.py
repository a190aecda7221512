from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from pagoda.models.catalogue import Catalogue
from pagoda.models.inputs import Padded, UserBatch
from pagoda.models.sasrec import Block, Sasrec, SasrecConfig
from pagoda.models.tables import Sizes
from tests.training import toy
from tests.training.conftest import MakeExamples
from tests.training.small import SASREC, built, whole
from training.data.batches import Examples

TWO_HEADS = replace(SASREC, heads=2)
BOTH_WAYS = replace(SASREC, causal=False)
SHORT = replace(SASREC, length=3)


def sasrec(config: SasrecConfig, sizes: Sizes) -> Sasrec:
    model = built(config, sizes)
    assert isinstance(model, Sasrec)
    return model


@pytest.mark.parametrize("config", [SASREC, TWO_HEADS, BOTH_WAYS, SHORT], ids=repr)
@torch.no_grad()
def test_a_line_has_the_vector_that_the_equations_give(
    config: SasrecConfig, sizes: Sizes, examples: Examples, catalogue: Catalogue
) -> None:
    model = sasrec(config, sizes)
    found = model.encode_user(whole(examples, catalogue))
    for line in (0, 7, 20, examples.lines - 1):
        behaviour = examples.behaviour.take(examples.request_B[[line]])
        clicks = [
            int(number)
            for ragged in (behaviour.long_term["click"], behaviour.short_term, behaviour.real_time)
            for number in ragged.values
        ][-config.length :]
        x = [
            model.item.tables.item.weight[number] + model.positions[len(clicks) - 1 - place]
            for place, number in enumerate(clicks)
        ]
        for block in model.blocks:
            assert isinstance(block, Block)
            x = by_hand(block, x, config)
        torch.testing.assert_close(found[line], model.norm(x[-1]), atol=1e-4, rtol=1e-4)


def by_hand(block: Block, x: list[Tensor], config: SasrecConfig) -> list[Tensor]:
    """Position by position, head by head."""
    normed = [block.norm_attention(each) for each in x]
    parts = [block.attention.query_key_value(each).view(3, config.heads, -1) for each in normed]
    out = []
    for place, (query, _, _) in enumerate(parts):
        seen = parts[: place + 1] if config.causal else parts
        heads = []
        for head in range(config.heads):
            score = torch.stack([query[head] @ key[head] for _, key, _ in seen])
            weight = (score / query.shape[1] ** 0.5).softmax(0)
            heads.append(
                sum(w * value[head] for w, (_, _, value) in zip(weight, seen, strict=True))
            )
        mixed = x[place] + block.attention.out(torch.cat(heads))
        first, second = block.ffn[0], block.ffn[3]
        out.append(mixed + second(functional.relu(first(block.norm_ffn(mixed)))))
    return out


@torch.no_grad()
def test_an_item_is_what_it_is_in_a_sequence(sizes: Sizes, batch: UserBatch) -> None:
    model = sasrec(SASREC, sizes)
    items = model.encode_item(batch.items)
    assert torch.equal(items, model.item.tables.item.weight[batch.items.item_M])


@torch.no_grad()
def test_a_user_without_clicks_has_what_all_users_share(
    sizes: Sizes, make_examples: MakeExamples, catalogue: Catalogue
) -> None:
    new = make_examples([toy.Basket(user="new", at_ms=toy.T0, taken=(("milk", "i0"),), clicks=0)])
    model = sasrec(SASREC, sizes)
    model.norm.bias.normal_()
    assert torch.equal(model.encode_user(whole(new, catalogue)), model.norm.bias.unsqueeze(0))


@torch.no_grad()
def test_dropout_acts_in_training_only(sizes: Sizes, batch: UserBatch) -> None:
    model, plain = sasrec(replace(SASREC, dropout=0.5), sizes), sasrec(SASREC, sizes).train()
    assert torch.equal(model.encode_user(batch), plain.encode_user(batch))
    model.train()
    assert not torch.equal(model.encode_user(batch), model.encode_user(batch))


def test_the_newest_stand_on_the_left_in_their_order_wherever_padding_was() -> None:
    at = torch.tensor([[1, 2, 0, 3, 4], [0, 0, 5, 0, 0], [0, 0, 0, 0, 0]])
    rows = Padded(at_UT=at, mask_UT=at > 0)
    for most, expected in {
        2: [[3, 4], [5], []],
        3: [[2, 3, 4], [5], []],
        9: [[1, 2, 3, 4], [5], []],
    }.items():
        newest = rows.newest(most)
        length = [len(row) for row in expected]
        assert newest.mask_UT.sum(1).tolist() == length
        assert [row[:n] for row, n in zip(newest.at_UT.tolist(), length, strict=True)] == expected
        assert newest.mask_UT.int().diff(dim=1).le(0).all()


@pytest.mark.parametrize("wrong", [{"heads": 3}, {"length": 0}, {"blocks": 0}], ids=str)
def test_a_configuration_that_cannot_be_built_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"divisible|at least 1"):
        replace(SASREC, **wrong)  # type: ignore[arg-type]
