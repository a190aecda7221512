"""Recipes changed from the command line: typed, by name, all mistakes at once."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pagoda.errors import InputError
from pagoda.models.mgdspr import MgdsprConfig
from pagoda.models.tables import Hashed
from pagoda.models.zam import ZamConfig
from training.losses import Mix
from training.negatives import Negatives
from training.optimisers import AdamConfig
from training.overrides import overridden
from training.recipes import cbns, demo, zam


def test_settings_of_parts_are_changed_and_all_else_stays() -> None:
    aem = overridden(zam(), ["model.zero=false", "loop.epochs=2"])
    assert aem == replace(zam(), model=ZamConfig(zero=False), loop=replace(zam().loop, epochs=2))
    assert overridden(cbns(), ["loop.negatives.memory=16"]).loop.negatives == Negatives(
        memory=16, memory_after=280
    )
    assert overridden(
        demo(), ['model.drop_rows=["mix"]', "model.fusion=concat"]
    ).model == MgdsprConfig(drop_rows=("mix",), fusion="concat")
    assert overridden(zam(), []) == zam()


def test_parts_are_named_by_their_class_and_left_out_by_null() -> None:
    changed = overridden(
        demo(),
        [
            "loop.mix.low=0",
            "schemes.item.rows=500",
            "schemes.item.functions=2",
            "loop.optimiser=AdamConfig",
            "loop.optimiser.dense_lr=1e-2",
            "loop.finish=null",
        ],
    )
    assert changed.loop.mix == Mix(low=0.0)
    assert changed.schemes.item == Hashed(rows=500, functions=2)
    assert changed.loop.optimiser == AdamConfig(dense_lr=0.01)
    assert changed.loop.finish is None
    assert overridden(demo(), ["loop.mix=Mix"]).loop.mix == Mix()
    own = overridden(zam(), ['loop.negatives={"batch": false, "each": 16}'])
    assert own.loop.negatives == Negatives(batch=False, each=16)
    assert overridden(demo(), ["model=ZamConfig"]).model == ZamConfig()


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("model.zerro=false", "no setting 'zerro'; there are width, rows, zero"),
        ("model.rows=many", "valid integer"),
        ("model.rows=1.5", "valid integer"),
        ("model.rows=0", "rows >= 1"),
        ("loop.precision=fp64", "'fp32' or 'bf16'"),
        ("loop.mix.lov=0", "no setting 'lov'; there are low, high"),
        ("schemes.item.functions=2", "rows"),
        ('loop.mix={"lov": 1}', "no setting 'lov'"),
        ('loop={"negatives": {"unifrom": 4096}}', "no setting 'unifrom'"),
        ('loop.finish={"optimiser": {"lr": 1}}', "one of AdagradConfig, AdamConfig"),
        ("loop.optimiser.clip_norm=0", "clip_norm must be positive"),
        ("loop.optimiser.dense_lr=NaN", "rates must not be negative"),
        ("loop.optimiser.initial_accumulator=-1", "initial_accumulator"),
        ('loop.rewards={"buy": -1}', "must not be negative"),
        ("loop.temperature=-1", "must be positive"),
        ("loop.seed=-1", "seed"),
        ("tokenizer.buckets=0", "buckets"),
        ("train_days=1000000", "a century"),
        ("loop.mix=1", "one of Mix"),
        ("loop.finish.optimiser.dense_lr=1", "give finish=Finish first"),
        ("loop.epochs.more=1", "it has no settings"),
        ("service", "it has no value"),
        ("name=mine", "no setting 'name'"),
    ],
)
def test_what_does_not_fit_is_told(setting: str, said: str) -> None:
    with pytest.raises(InputError) as told:
        overridden(zam(), [setting])
    assert said in str(told.value)
    assert setting in str(told.value)


def test_all_mistakes_are_told_at_once() -> None:
    with pytest.raises(InputError) as told:
        overridden(zam(), ["model.zerro=false", "model.zero=false", "loop.epochs=0"])
    assert len(told.value.problems) == 2
