from __future__ import annotations

import dataclasses
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from pagoda.bundle import as_json
from pagoda.models import towers
from pagoda.models.catalogue import Catalogue
from pagoda.models.inputs import Padded, UserBatch, user_batch
from pagoda.models.mgdspr import QUERY_ROWS, Mgdspr, MgdsprConfig
from pagoda.models.parts import ClsFusion, SelfAttention, attend, unit_mean
from pagoda.models.tables import Sizes, Table
from pagoda.models.towers import Config
from tests.training import toy
from tests.training.conftest import MakeExamples
from tests.training.small import (
    DSSM,
    EACH,
    MGDSPR,
    MGDSPR_REPEATS,
    SASREC,
    YOUTUBE_DNN,
    YOUTUBE_TWO_TOWER,
    ZAM,
    built,
    vectors,
    whole,
)
from training.data.batches import Examples


@EACH
def test_a_line_alone_has_the_vector_it_has_in_a_batch(
    config: Config, sizes: Sizes, examples: Examples, catalogue: Catalogue, batch: UserBatch
) -> None:
    """Other lines decide on padding, on blocks and on which items are shared."""
    together = vectors(config, sizes, batch)
    for line in (0, 5, 17, examples.lines - 1):
        alone = user_batch(
            examples.behaviour.take(examples.request_B[[line]]),
            catalogue,
            examples.texts,
            request_B=np.array([0]),
            text_B=examples.text_B[[line]],
        )
        torch.testing.assert_close(
            vectors(config, sizes, alone)[0], together[line], atol=1e-5, rtol=1e-4
        )


@EACH
def test_more_padding_changes_nothing(config: Config, sizes: Sizes, batch: UserBatch) -> None:
    def wider(sequence: Padded) -> Padded:
        pad = torch.nn.functional.pad
        return Padded(at_UT=pad(sequence.at_UT, (0, 7)), mask_UT=pad(sequence.mask_UT, (0, 7)))

    padded = replace(
        batch,
        real_time=wider(batch.real_time),
        short_term=wider(batch.short_term),
        queries=wider(batch.queries),
    )
    torch.testing.assert_close(
        vectors(config, sizes, padded), vectors(config, sizes, batch), atol=1e-5, rtol=1e-4
    )


def test_order_in_the_real_time_sequence_changes_the_result(sizes: Sizes, batch: UserBatch) -> None:
    full = batch.real_time.mask_UT.all(1)
    assert full.any()
    flipped = batch.real_time.at_UT.clone()
    flipped[full] = flipped[full].flip(1)
    turned = replace(batch, real_time=replace(batch.real_time, at_UT=flipped))
    change = (vectors(MGDSPR, sizes, turned) - vectors(MGDSPR, sizes, batch)).abs().amax(1)
    of_full = full[batch.request_B]
    assert (change[of_full] > 1e-5).all()
    assert change[~of_full].eq(0).all()


@pytest.mark.parametrize("zero_vector", [True, False])
def test_attention_to_nothing_is_exactly_zero(zero_vector: bool) -> None:
    query, memory = torch.randn(3, 6, 8), torch.randn(3, 5, 8)
    mask = torch.tensor([[True] * 5, [True, False, False, False, False], [False] * 5])
    found = attend(query, memory, mask, zero_vector=zero_vector)
    assert found[2].eq(0).all()
    assert found[:2].ne(0).all()
    if zero_vector:  # a memory of one vector is taken whole unless there is nothing to prefer
        share = torch.sigmoid(query[1] @ memory[1, 0])
        torch.testing.assert_close(found[1], share[:, None] * memory[1, 0])
    else:
        torch.testing.assert_close(found[1], memory[1, 0].expand(6, 8))


@EACH
def test_a_user_without_history_has_a_finite_vector_and_gradients(
    config: Config, sizes: Sizes, make_examples: MakeExamples, catalogue: Catalogue
) -> None:
    empty = make_examples([toy.Basket(user="new", at_ms=toy.T0, taken=(("milk", "i0"),), clicks=0)])
    batch = whole(empty, catalogue)
    model = built(config, sizes)
    user_BD = model.encode_user(batch)
    user_BD.sum().backward()  # type: ignore[no-untyped-call]
    assert user_BD.isfinite().all()
    for parameter in model.parameters():
        if parameter.grad is not None:
            values = (
                parameter.grad.coalesce().values() if parameter.grad.is_sparse else parameter.grad
            )
            assert values.isfinite().all()


def test_a_user_without_history_attends_to_nothing(
    sizes: Sizes, make_examples: MakeExamples, catalogue: Catalogue
) -> None:
    empty = make_examples([toy.Basket(user="new", at_ms=toy.T0, taken=(("milk", "i0"),), clicks=0)])
    model = built(MGDSPR, sizes)
    assert isinstance(model, Mgdspr)
    tokens: list[Tensor] = []
    model.fusion.register_forward_hook(lambda _module, inputs, _out: tokens.append(inputs[0]))
    with torch.no_grad():
        model.encode_user(whole(empty, catalogue))
    assert tokens[0].shape == (1, 24, 16)
    assert tokens[0][:, 6:].eq(0).all()
    assert tokens[0][:, QUERY_ROWS.index("his_seq")].eq(0).all()
    assert tokens[0][:, QUERY_ROWS.index("gram_2")].eq(0).all()  # one word, no pair
    assert tokens[0][:, QUERY_ROWS.index("seg")].ne(0).any()


def test_the_mix_is_the_sum_of_the_other_rows(sizes: Sizes, batch: UserBatch) -> None:
    model = built(MGDSPR, sizes)
    assert isinstance(model, Mgdspr)
    with torch.no_grad():
        q_mgs = model.query(model.item_tower.tables, batch)
    torch.testing.assert_close(q_mgs[:, 5], q_mgs[:, :5].sum(1))


SWITCHES: list[tuple[Config, dict[str, object]]] = [
    (MGDSPR, {"query": "last_item"}),
    (MGDSPR, {"item_side": False}),
    (MGDSPR, {"mgs": False}),
    (MGDSPR, {"fusion": "others"}),
    (MGDSPR, {"fusion": "concat"}),
    (MGDSPR, {"fusion": "mean"}),
    (MGDSPR, {"stats": True}),
    (MGDSPR, {"title": "lstm"}),
    (MGDSPR, {"title": "transformer"}),
    (MGDSPR, {"word_layers": 2}),
    (MGDSPR, {"zero_vector": False}),
    (MGDSPR, {"mask_empty_actions": False}),
    (MGDSPR, {"scaled_attention": True}),
    (MGDSPR, {"causal": True}),
    *((MGDSPR, {"drop_rows": (row,)}) for row in QUERY_ROWS),
    (MGDSPR_REPEATS, {"code_gain": 1.0}),
    (YOUTUBE_TWO_TOWER, {"item_side": False}),
    (YOUTUBE_TWO_TOWER, {"unit_length": False}),
    (YOUTUBE_DNN, {"item_side": False}),
    (YOUTUBE_DNN, {"unit_length": True}),
    (DSSM, {"history": True}),
    (ZAM, {"zero": False}),
    (ZAM, {"recent": False}),
    (SASREC, {"causal": False}),
    (SASREC, {"item_side": True}),
]


@pytest.mark.parametrize(("plain", "switch"), SWITCHES, ids=str)
def test_each_switch_changes_the_computation(
    plain: Config, switch: dict[str, object], sizes: Sizes, batch: UserBatch
) -> None:
    config = dataclasses.replace(plain, **switch)  # type: ignore[arg-type]
    base, changed = built(plain, sizes), built(config, sizes)
    changed.load_state_dict(
        base.state_dict(), strict=False
    )  # the same weights where both have them
    with torch.no_grad():
        of_users = changed.encode_user(batch) - base.encode_user(batch)
        of_items = changed.encode_item(batch.items) - base.encode_item(batch.items)
    assert max(of_users.abs().max(), of_items.abs().max()) > 1e-4


def test_words_beyond_the_first_so_many_are_not_read(sizes: Sizes, batch: UserBatch) -> None:
    one, more = (built(replace(MGDSPR, max_words=each), sizes) for each in (1, 32))
    words_XN = batch.texts.words_XN[:, :1]
    two_XN = torch.cat([words_XN, words_XN.roll(1, 0)], 1)
    short, long = (
        replace(batch, texts=replace(batch.texts, words_XN=w)) for w in (words_XN, two_XN)
    )
    with torch.no_grad():
        assert torch.equal(one.encode_user(long), one.encode_user(short))
        assert not torch.equal(more.encode_user(long), more.encode_user(short))


def test_the_transformer_over_words_is_as_wide_inside_as_asked_for(sizes: Sizes) -> None:
    for ffn in (2, 4):
        (inner,) = {
            name: each.shape
            for name, each in built(replace(MGDSPR, ffn=ffn), sizes).named_parameters()
            if name.endswith("layers.0.ffn.0.weight")
        }.values()
        assert inner == (ffn * 16, 16)


@pytest.mark.parametrize("share", ["dropout", "embedding_dropout"])
@pytest.mark.parametrize("query", ["text", "last_item"])
def test_each_dropout_acts_in_training_only(
    query: str, share: str, sizes: Sizes, batch: UserBatch
) -> None:
    none = replace(MGDSPR, query=query, dropout=0.0)  # type: ignore[arg-type]
    model, plain = built(replace(none, **{share: 0.5}), sizes), built(none, sizes).train()
    with torch.no_grad():
        assert torch.equal(model.encode_user(batch), plain.encode_user(batch))
        model.train()
        assert not torch.equal(model.encode_user(batch), model.encode_user(batch))


def test_dropout_of_items_reaches_the_last_item_and_each_sequence(
    sizes: Sizes, batch: UserBatch
) -> None:
    model = built(replace(MGDSPR, query="last_item", dropout=0.0, embedding_dropout=0.5), sizes)
    model.train()
    seen: list[list[Tensor]] = [[], [], []]
    for part, inputs in zip((model.fusion, model.real_time, model.short_term), seen, strict=True):
        part.register_forward_pre_hook(lambda _module, given, kept=inputs: kept.append(given[0]))
    with torch.no_grad():
        for _ in range(2):
            model.encode_user(batch)
    last_items = [tokens[:, 0] for tokens in seen[0]]
    for inputs in (last_items, seen[1], seen[2]):
        first, again = inputs[: len(inputs) // 2], inputs[len(inputs) // 2 :]
        assert any(not torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_short_sequences_are_not_padded_to_long_ones(
    sizes: Sizes, make_examples: MakeExamples, catalogue: Catalogue
) -> None:
    """That this changes no vector, lines alone and in a batch hold above."""
    clicks = {"a": 3, "b": 40, "c": 0, "d": 8, "e": 9, "f": 33}
    batch = whole(
        make_examples(
            [
                toy.Basket(user=user, at_ms=toy.T0, taken=(("milk", "i0"),), clicks=count)
                for user, count in clicks.items()
            ]
        ),
        catalogue,
    )
    model = built(MGDSPR, sizes)
    shapes: set[tuple[int, ...]] = set()
    model.real_time.register_forward_pre_hook(lambda _module, given: shapes.add(given[1].shape))
    with torch.no_grad():
        model.encode_user(batch)
    assert shapes == {(2, 8), (1, 9), (2, 40)}


def test_cls_fusion_equals_plain_self_attention_at_the_first_position() -> None:
    torch.manual_seed(0)
    fusion, plain = ClsFusion(16, 4, scaled=False), SelfAttention(16, 4, scaled=False)
    with torch.no_grad():
        plain.query_key_value.weight.copy_(
            torch.cat([fusion.query.weight, fusion.key.weight, fusion.value.weight])
        )
        plain.query_key_value.bias.copy_(
            torch.cat([fusion.query.bias, torch.randn(16), fusion.value.bias])
        )
        plain.out.load_state_dict(fusion.out.state_dict())
        tokens = torch.randn(5, 7, 16)
        x = torch.cat([fusion.cls.expand(5, 1, 16), tokens], 1)
        expected = plain(x, torch.ones(5, 8, dtype=torch.bool))[:, 0]
        torch.testing.assert_close(fusion(tokens), expected)


@EACH
def test_weights_come_back_as_they_were_saved(
    config: Config, sizes: Sizes, batch: UserBatch, tmp_path: Path
) -> None:
    model = built(config, sizes)
    towers.save(model, tmp_path / "weights")
    fields = json.loads(json.dumps(as_json(config)))
    again = towers.load(towers.kind_of(config), fields, as_json(sizes), tmp_path / "weights")
    with torch.no_grad():
        torch.testing.assert_close(again.encode_user(batch), model.encode_user(batch))
        torch.testing.assert_close(again.encode_item(batch.items), model.encode_item(batch.items))


@pytest.mark.parametrize(
    "wrong",
    [
        {"width": 10, "heads": 8},
        {"drop_rows": ("nothing",)},
        {"drop_rows": QUERY_ROWS},
        {"ffn": 0},
        {"max_words": 0},
    ],
)
def test_a_configuration_that_cannot_be_built_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"divisible|drop_rows|at least 1"):
        MgdsprConfig(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("field", ["code_width", "code_norm", "code_gain"])
def test_codes_of_no_length_are_refused(field: str) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        dataclasses.replace(MGDSPR_REPEATS, **{field: 0})


@pytest.mark.parametrize("rows", [9, 400], ids=["few rows", "many"])
def test_the_mean_of_units_is_that_of_each_texts_rows(rows: int) -> None:
    dice = np.random.default_rng(0)
    number_XN = torch.from_numpy(dice.integers(1, rows, (6, 5)))
    number_XN[0], number_XN[1, 2:], number_XN[2] = 0, 0, number_XN[2, 0]
    tables = [Table(rows, 3) for _ in range(2)]
    tables[1].load_state_dict(tables[0].state_dict())
    pull_XD = torch.from_numpy(dice.normal(size=(6, 3))).float()
    found = unit_mean(tables[0], number_XN)
    (found * pull_XD).sum().backward()
    expected = torch.stack(
        [
            tables[1](text[text > 0]).mean(0) if (text > 0).any() else torch.zeros(3)
            for text in number_XN
        ]
    )
    (expected * pull_XD).sum().backward()
    torch.testing.assert_close(found, expected)
    gradients = [each.weight.grad for each in tables]
    torch.testing.assert_close(*[each.to_dense() for each in gradients if each is not None])
