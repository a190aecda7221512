"""Going on from a bundle: what is known stays as it was, whatever came, left or moved."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch import Tensor
from typer.testing import CliRunner

from pagoda import dataset as datasets
from pagoda import registry
from pagoda import settings as settings_module
from pagoda.bundle import MANIFEST, WEIGHTS, Bundle, Request, read_manifest
from pagoda.dataset import Dataset
from pagoda.errors import InputError, NothingToDo
from pagoda.features import SEQUENCES_V1
from pagoda.models.base import TwoTowers
from pagoda.models.catalogue import ATTRIBUTES, Catalogue
from pagoda.models.tables import Hashed, Schemes, Sizes
from pagoda.models.towers import Config, kind_of
from pagoda.models.zam import ZamConfig
from pagoda.settings import Settings
from pagoda.windows import WindowSpec
from tests.training import toy
from tests.training.small import EACH, SMALL
from training import train as training
from training.data.batches import Examples
from training.data.lines import Span, Week
from training.frequency import FrequencyConfig
from training.inputs import plan
from training.loop import train
from training.loop_config import LoopConfig
from training.negatives import Negatives
from training.parents import going_on, inherit
from training.recipes import RECIPES, Recipe, TokenizerConfig, recipe
from training.vectors import encode_items

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

TOY = Recipe(
    name="toy",
    model=toy.SMALL,
    service=SEQUENCES_V1.name,
    train_days=14,
    windows=WindowSpec(),
    tokenizer=TokenizerConfig(segmentation="characters", buckets=50),
)
YESTERDAY = Dataset(
    name="toy",
    first_day=date(2026, 9, 1),
    last_day=date(2026, 10, 12),
    validation_from=date(2026, 9, 29),
    test_from=date(2026, 10, 6),
    query_protocol="made up (synthetic)",
    fingerprint="yesterday",
)
HASHED = Schemes(item=Hashed(rows=20), brand=Hashed(rows=2, functions=2))
# What a manifest says of it.
OF_YESTERDAY = {"dataset": YESTERDAY.model_dump(mode="json"), "recipe_config": {"week": "test"}}


def later(days: int) -> Dataset:
    """The data set that many days later."""
    moved = {
        name: getattr(YESTERDAY, name) + timedelta(days=days)
        for name in ("last_day", "validation_from", "test_from")
    }
    return YESTERDAY.model_copy(update=moved | {"fingerprint": f"{days} days later"})


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bundle]:
    """A bundle of each kind, as it would be of yesterday."""
    folder = tmp_path_factory.mktemp("parents")
    made = {kind: Bundle.load(toy.save(folder, kind, config=each)) for kind, each in SMALL.items()}
    for bundle in made.values():
        bundle.manifest = bundle.manifest.model_copy(update=OF_YESTERDAY)
    return made


@pytest.fixture(scope="module")
def parent(saved: dict[str, Bundle]) -> Bundle:
    return saved["mgdspr"]


def child_of(parent: Bundle, config: Config, items: pa.Table) -> tuple[TwoTowers, Catalogue]:
    """A model over these items before its first step."""
    catalogue = Catalogue.build(items, parent.tokenizer)
    torch.manual_seed(7)
    model = config.build(Sizes.of(catalogue, parent.tokenizer)).eval()
    inherit(model, catalogue, parent)
    return model, catalogue


def named_rows(model: TwoTowers, catalogue: Catalogue) -> dict[tuple[str, str | None], Tensor]:
    """Every weight by its tensor and what it stands for: an item's id, a value, or the whole."""
    rows: dict[tuple[str, str | None], Tensor] = {}
    for name, weight in model.state_dict().items():
        above, table = ["", "", *name.split(".")][-3:-1]
        if (above, table) in (("", "item"), ("tables", "item"), ("owned", "code")):
            numbers, values = range(1, len(catalogue) + 1), catalogue.table["item_id"]
        elif above == "attributes":
            numbers = catalogue.table[f"{table}_number"].to_pylist()
            values = catalogue.table[ATTRIBUTES[table]]
        else:
            rows[name, "whole"] = weight
            continue
        of_values = zip(numbers, values.to_pylist(), strict=True)
        rows |= {(name, value): weight[number] for number, value in of_values if value is not None}
        rows[name, None] = weight[0]
    return rows


@st.composite
def catalogues(draw: st.DrawFn) -> pa.Table:
    """Some of the parent's 60 items and of 20 others in any order, some with another brand."""
    numbers = draw(st.lists(st.integers(0, 79), min_size=1, max_size=80, unique=True))
    items = toy.items(80).take(numbers)
    brands = st.sampled_from([*toy.BRANDS, "new", "newer", None])
    moved = draw(st.dictionaries(st.sampled_from(range(len(numbers))), brands, max_size=9))
    kept = items["brand"].to_pylist()
    column = [moved.get(row, brand) for row, brand in enumerate(kept)]
    return items.set_column(items.schema.get_field_index("brand"), "brand", pa.array(column))


@EACH
@hypothesis_settings(deadline=None, max_examples=25)
@given(items=catalogues())
def test_what_is_known_is_the_parents_and_what_is_new_has_a_row(
    config: Config, saved: dict[str, Bundle], items: pa.Table
) -> None:
    parent = saved[kind_of(config)]
    model, catalogue = child_of(parent, config, items)
    theirs = named_rows(parent.model, parent.catalogue)
    ours = named_rows(model, catalogue)
    assert {name for name, _ in ours} == {name for name, _ in theirs}
    taken = {row.flatten()[0].item() for row in theirs.values()}
    for key, row in ours.items():
        if key in theirs:
            assert torch.equal(row, theirs[key]), key
        else:
            assert row.abs().min() > 0, key
            assert row[0].item() not in taken, key


@EACH
@hypothesis_settings(deadline=None, max_examples=15)
@given(items=catalogues())
def test_without_a_step_items_that_did_not_change_keep_their_vectors(
    config: Config, saved: dict[str, Bundle], items: pa.Table
) -> None:
    parent = saved[kind_of(config)]
    model, catalogue = child_of(parent, config, items)
    vectors = encode_items(model, catalogue)
    described = ("item_key", "title", "brand", "leaf_category", "first_category", "shop")

    def rows(of: Catalogue) -> list[tuple[Any, ...]]:
        return list(zip(*(of.table[column].to_pylist() for column in described), strict=True))

    known = dict(zip(rows(parent.catalogue), parent.item_vectors, strict=True))
    for row, vector in zip(rows(catalogue), vectors, strict=True):
        if row in known:
            np.testing.assert_allclose(vector, known[row], atol=1e-6)
        else:
            assert np.isfinite(vector).all()
            assert vector.any()


@EACH
def test_without_a_step_users_keep_their_vectors_while_the_catalogue_grows(
    config: Config, saved: dict[str, Bundle]
) -> None:
    parent = saved[kind_of(config)]
    model, catalogue = child_of(parent, config, toy.items(80))
    assert catalogue.numbers(parent.catalogue.keys).tolist() != list(range(1, 61))
    child = Bundle(
        path=parent.path,
        manifest=parent.manifest,
        model=model,
        tokenizer=parent.tokenizer,
        catalogue=catalogue,
        item_vectors=encode_items(model, catalogue),
    )
    requests = [
        Request(query=query, at_ms=toy.T0, rows=toy.feature_rows(user, toy.T0))
        for user, query in (("u1", "milk"), ("u2", "green tea"), ("u3", ""))
    ]
    np.testing.assert_allclose(child.embed(requests), parent.embed(requests), atol=1e-6)


def test_training_goes_on_from_the_parents_weights_and_gives_the_same_again(
    parent: Bundle, examples: Examples
) -> None:
    """Words of `examples` have another tokenizer's numbers, fewer than the parent has rows for."""

    def trained() -> tuple[list[float], dict[str, Tensor]]:
        model, catalogue = child_of(parent, toy.SMALL, toy.items())
        losses = train(model, examples, catalogue, LoopConfig(requests_per_batch=12))
        return losses, model.state_dict()

    losses, weights = trained()
    again, same = trained()
    assert losses == again
    assert all(torch.equal(weights[name], each) for name, each in same.items())
    before = parent.model.state_dict()
    assert any(not torch.equal(weights[name], each) for name, each in before.items())


@pytest.mark.parametrize(
    ("week", "days", "first"),
    [
        ("test", 1, date(2026, 10, 6)),  # the day that has come
        ("test", 5, date(2026, 10, 6)),  # a run was missed, or four
        ("test", 30, date(2026, 10, 22)),  # farther back than the plan's fourteen days
        ("validation", 0, date(2026, 9, 29)),  # a parent of the validation week
    ],
)
def test_it_is_trained_on_the_plans_days_since_the_parents_last(
    parent: Bundle, monkeypatch: pytest.MonkeyPatch, week: Week, days: int, first: date
) -> None:
    of_week = parent.manifest.model_copy(update={"recipe_config": {"week": week}})
    monkeypatch.setattr(parent, "manifest", of_week)
    whole = plan(TOY, later(days), "test")
    found = going_on(whole, later(days), parent)
    assert found.train == Span(first=first, end=later(days).test_from)
    assert found.judged == whole.judged
    assert found.parent is parent


def test_a_warm_up_is_the_parents_alone(parent: Bundle) -> None:
    negatives = Negatives(memory=2, memory_after=50)
    cold = replace(TOY, loop=LoopConfig(negatives=negatives, frequency=FrequencyConfig()))
    found = going_on(plan(cold, later(1), "test"), later(1), parent)
    assert found.recipe == replace(cold, loop=cold.loop.going_on)
    assert found.recipe.loop.negatives == replace(negatives, memory_after=0, mined_from=0)
    assert found.recipe.loop.frequency == FrequencyConfig(begins="counted")
    plain = going_on(plan(TOY, later(1), "test"), later(1), parent)
    assert plain.recipe.loop.frequency is None


@pytest.mark.parametrize("days", [0, -1])
def test_a_parent_of_the_same_or_a_later_day_is_refused(parent: Bundle, days: int) -> None:
    with pytest.raises(InputError, match="trained to 2026-10-05"):
        going_on(plan(TOY, later(days), "test"), later(days), parent)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda r, d: (replace(r, model=replace(r.model, heads=4)), d), "model's configuration"),
        (lambda r, d: (replace(r, model=ZamConfig(width=16)), d), "model: expected zam, found mg"),
        (lambda r, d: (replace(r, windows=WindowSpec(queries=10)), d), "windows"),
        (lambda r, d: (replace(r, service="sequences_stats_v1"), d), "feature service"),
        (lambda r, d: (replace(r, schemes=HASHED), d), "embedding schemes"),
        (lambda r, d: (replace(r, tokenizer=TokenizerConfig(buckets=50)), d), "segmentation"),
        (
            lambda r, d: (r, d.model_copy(update={"name": "other"})),
            "data set's name: expected other, found toy",
        ),
        (lambda r, d: (r, d.model_copy(update={"shift_days": 7})), "data set's shift_days"),
        (lambda r, d: (r, d.model_copy(update={"split": "leave_last_out"})), "data set's split"),
        (lambda r, d: (r, d.model_copy(update={"split": "leave_last_out"})), "each user's last"),
    ],
)
def test_a_parent_that_does_not_fit_is_refused_with_what_differs(
    parent: Bundle,
    change: Callable[[Recipe, Dataset], tuple[Recipe, Dataset]],
    named: str,
) -> None:
    other, dataset = change(TOY, later(1))
    with pytest.raises(InputError, match="cannot go on from this bundle") as refused:
        going_on(plan(other, dataset, "test"), dataset, parent)
    assert any(problem.startswith(named) for problem in refused.value.problems)


def test_a_parent_whose_items_share_rows_by_their_numbers_is_refused(tmp_path: Path) -> None:
    parent = Bundle.load(toy.save(tmp_path, schemes=HASHED))
    parent.manifest = parent.manifest.model_copy(update=OF_YESTERDAY)
    with pytest.raises(InputError) as refused:
        going_on(plan(replace(TOY, schemes=HASHED), later(1), "test"), later(1), parent)
    (problem,) = refused.value.problems
    assert problem.startswith("hashed embeddings (item, brand)")


def test_all_that_differs_is_named_at_once(parent: Bundle) -> None:
    other = replace(TOY, windows=WindowSpec(queries=10), tokenizer=TokenizerConfig(buckets=60))
    with pytest.raises(InputError) as refused:
        going_on(plan(other, later(1), "test"), later(1), parent)
    assert [each.split(":")[0] for each in refused.value.problems] == [
        "windows",
        "segmentation",
        "buckets",
    ]


def test_the_command_says_which_days_it_would_go_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PAGODA_HOME", str(tmp_path))
    monkeypatch.setitem(RECIPES, "toy", lambda: TOY)
    shop = settings_module.load()
    datasets.save(shop, later(1))
    path = toy.bundle(shop)
    manifest = read_manifest(path).model_copy(update=OF_YESTERDAY)
    (path / MANIFEST).write_text(manifest.model_dump_json())
    result = CliRunner().invoke(training.app, ["toy", "--from", "toy", "--plan", "--json"])
    assert result.exit_code == 0
    planned = json.loads(result.stdout)
    assert planned["parent"] == "toy"
    assert (planned["trained_from"], planned["trained_to"]) == ("2026-10-06", "2026-10-06")
    assert planned["features_from"] == "2026-10-06"
    refused = CliRunner().invoke(training.app, ["toy", "--from", "gone", "--plan"])
    assert isinstance(refused.exception, InputError)
    assert "no bundle 'gone'" in str(refused.exception)
    from_live = ["toy", "--from", "live", "--plan", "--json"]
    assert isinstance(CliRunner().invoke(training.app, from_live).exception, NothingToDo)
    registry.promote(shop, "toy")
    assert json.loads(CliRunner().invoke(training.app, from_live).stdout) == planned


@pytest.mark.spark
def test_a_bundle_names_its_parent_and_comes_again_from_it(
    built: Settings, spark: SparkSession
) -> None:
    dataset = datasets.load(built)
    week = replace(recipe("smoke"), train_days=7)
    path, _ = training.train_recipe(built, plan(week, dataset, "validation"), session=spark)
    parent = Bundle.load(path)
    whole = plan(week, dataset, "test")
    chosen = going_on(whole, dataset, parent)
    found, fresh = training.train_recipe(built, chosen, session=spark)
    assert fresh
    child = read_manifest(found)
    assert child.parent == parent.name
    assert Bundle.load(found).tokenizer == parent.tokenizer
    assert training.train_recipe(built, chosen, session=spark) == (found, False)
    forced, _ = training.train_recipe(built, chosen, force=True, session=spark)
    assert read_manifest(forced).files[WEIGHTS] == child.files[WEIGHTS]
    anew, fresh = training.train_recipe(built, whole, session=spark)
    assert fresh
    assert read_manifest(anew).parent is None
