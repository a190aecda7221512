from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from pagoda import ranker as rankers
from pagoda.bundle import Bundle, as_json
from pagoda.errors import BundleRefused, CheckFailed
from pagoda.models.bst import Bst, BstConfig
from pagoda.models.catalogue import Catalogue
from pagoda.models.tables import Sizes
from pagoda.ranker import Record
from pagoda.settings import Settings
from tests.training import toy
from tests.training.conftest import MakeExamples
from tests.training.test_bst import SMALL
from training import ranker
from training.data.batches import Examples
from training.evaluate import judge_bundle
from training.evaluation.funnel import ROWS, Funnel
from training.optimisers import AdagradConfig
from training.ranker import RankerConfig, drawn_pairs, pairs_of, train, train_ranker

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

POOL = 60
CONFIG = RankerConfig(model=SMALL, lines_per_batch=16)


def built(config: BstConfig, sizes: Sizes) -> Bst:
    torch.manual_seed(3)
    return config.build(sizes)


@given(
    first=st.integers(0, 90),
    count=st.integers(1, 20),
    others=st.integers(1, 6),
    seed=st.integers(0, 1000),
)
def test_a_line_is_told_from_what_was_shown_in_vain_then_from_the_pool(
    examples: Examples, first: int, count: int, others: int, seed: int
) -> None:
    """Each line comes once with its own item, with no item of its request, and with no more
    others than asked for; what was shown comes first, as far as it goes, and each once."""
    lines = np.arange(first, min(first + count, examples.lines))[::-1]
    line_P, item_P, taken_P = drawn_pairs(examples, lines, pool=POOL, others=others, seed=(seed,))
    assert list(zip(line_P[taken_P], item_P[taken_P], strict=True)) == [
        (line, examples.item_B[line]) for line in lines
    ]
    for line in lines:
        request = examples.request_B[line]
        of_request = set(examples.item_B[examples.request_B == request].tolist())
        drawn = item_P[(line_P == line) & ~taken_P].tolist()
        shown = examples.impressed[request].tolist()
        assert len(drawn) <= others
        assert not of_request & set(drawn)
        assert set(drawn) <= set(range(1, POOL + 1))
        wanted = min(others, len(shown))
        assert len(set(drawn[:wanted])) == wanted
        assert set(drawn[:wanted]) <= set(shown)


def test_what_is_drawn_is_spread_over_the_pool_and_over_what_was_shown(
    examples: Examples,
) -> None:
    lines = np.arange(examples.lines)
    times = np.zeros(POOL + 1)
    shown_times = np.zeros(POOL + 1)
    showing = int(np.flatnonzero(examples.impressed.lengths >= 5)[0])
    of_showing = np.flatnonzero(examples.request_B == showing)[:1]
    for seed in range(200):
        line_P, item_P, taken_P = drawn_pairs(examples, lines, pool=POOL, others=1, seed=(seed,))
        bare = examples.impressed.lengths[examples.request_B[line_P]] == 0
        np.add.at(times, item_P[bare & ~taken_P], 1)
        _, item_P, taken_P = drawn_pairs(examples, of_showing, pool=POOL, others=1, seed=(seed,))
        np.add.at(shown_times, item_P[~taken_P], 1)
    assert times[0] == 0
    assert times[1:].min() > 0.5 * times[1:].mean()
    assert times[1:].max() < 1.5 * times[1:].mean()
    shown = examples.impressed[showing]
    assert shown_times.sum() == shown_times[shown].sum() == 200
    assert shown_times[shown].min() > 0.4 * 200 / len(shown)


def test_eight_examples_are_learned_by_heart(
    sizes: Sizes, make_examples: MakeExamples, catalogue: Catalogue
) -> None:
    shelves = ["milk", "tea", "bread", "apples", "soap", "cheese", "green tea", "black bread"]
    eight = make_examples(
        [
            toy.Basket(user=f"u{n}", at_ms=toy.T0 + n, taken=((shelf, f"i{n + 20}"),))
            for n, shelf in enumerate(shelves)
        ]
    )
    quick = replace(CONFIG, epochs=80, optimiser=AdagradConfig())
    losses = train(built(replace(SMALL, dropout=0.0), sizes), eight, catalogue, quick)
    assert losses[0] > 0.5
    assert np.mean(losses[-10:]) < losses[0] / 10  # others are drawn anew every time


def test_the_same_seed_gives_the_same_losses_and_another_gives_others(
    sizes: Sizes, examples: Examples, catalogue: Catalogue
) -> None:
    first, again, other = (
        train(built(SMALL, sizes), examples, catalogue, replace(CONFIG, seed=seed))
        for seed in (0, 0, 1)
    )
    assert first == again
    assert first != other
    assert len(first) == -(-examples.lines // CONFIG.lines_per_batch)


def test_a_loss_that_is_not_finite_stops_before_the_step_and_names_the_lines(
    sizes: Sizes, examples: Examples, catalogue: Catalogue
) -> None:
    model = built(SMALL, sizes)
    with torch.no_grad():
        model.head[0].bias[:] = torch.nan
    before = model.item.weight.clone()
    with pytest.raises(CheckFailed, match=r"epoch 0, lines from 0.*loss is nan"):
        train(model, examples, catalogue, CONFIG)
    assert torch.equal(model.item.weight, before)


def test_padding_rows_are_never_trained(
    sizes: Sizes, examples: Examples, catalogue: Catalogue
) -> None:
    model = built(SMALL, sizes)
    train(model, examples, catalogue, CONFIG)
    for module in model.modules():
        if isinstance(module, torch.nn.Embedding):
            assert module.weight[0].eq(0).all()
            assert module.weight[1:].ne(0).all()


def test_scores_are_the_models_odds_in_whatever_passes(
    sizes: Sizes, examples: Examples, catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = built(SMALL, sizes).eval()
    items = np.array([9, 3, 60, 1, 17, 4, 5])
    pairs = pairs_of(examples, catalogue, line_P=np.full(len(items), 5), item_P=items)
    with torch.no_grad():
        expected = model(pairs).numpy()
    for size in (1024, 3):
        monkeypatch.setattr(ranker, "_PAIRS_PER_PASS", size)
        found = ranker.scores(model, examples, catalogue, line=5, items=items)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    assert not len(ranker.scores(model, examples, catalogue, line=5, items=items[:0]))


def saved(folder: Path, *, seed: int = 0) -> tuple[Bundle, Bst]:
    """A bundle that has a pre-ranker."""
    bundle = Bundle.load(toy.save(folder, f"toy{seed}", seed=seed))
    model = built(SMALL, Sizes.read(bundle.manifest.model.sizes)).eval()
    record = Record(
        fingerprint=bundle.manifest.fingerprint, config=dict(as_json(CONFIG)), counts={"steps": 1}
    )
    rankers.save(bundle, model, record)
    return bundle, model


def test_a_pre_ranker_comes_back_as_it_was_saved_and_its_bundle_is_whole(tmp_path: Path) -> None:
    bundle, model = saved(tmp_path)
    again = rankers.load(Bundle.load(bundle.path))
    assert again is not None
    assert again[0].config == SMALL
    assert not again[0].training
    expected = model.state_dict()
    assert all(torch.equal(each, expected[name]) for name, each in again[0].state_dict().items())
    assert again[1].counts == {"steps": 1}
    other = built(SMALL, Sizes.read(bundle.manifest.model.sizes))
    with torch.no_grad():
        other.item.weight[1] += 1
    rankers.save(bundle, other, again[1])
    anew = rankers.load(bundle)
    assert anew is not None
    assert torch.equal(anew[0].item.weight, other.item.weight)
    assert {each.name for each in bundle.path.iterdir() if each.is_dir()} == {rankers.FOLDER}


def test_a_bundle_without_one_has_none(tmp_path: Path) -> None:
    assert rankers.load(Bundle.load(toy.save(tmp_path))) is None


@pytest.mark.parametrize("file", [rankers.WEIGHTS, rankers.RECORD])
@pytest.mark.parametrize("content", [b"{}", None], ids=["altered", "gone"])
def test_one_that_is_not_whole_is_refused(tmp_path: Path, file: str, content: bytes | None) -> None:
    bundle, _ = saved(tmp_path)
    path = rankers.folder_of(bundle) / file
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BundleRefused, match=r"cannot be used.*pagoda ranker --force"):
        rankers.load(bundle)


def test_one_of_other_towers_or_of_another_form_is_refused(tmp_path: Path) -> None:
    (mine, model), (other, _) = saved(tmp_path), saved(tmp_path, seed=1)
    shutil.rmtree(rankers.folder_of(mine))
    rankers.folder_of(other).rename(rankers.folder_of(mine))
    with pytest.raises(BundleRefused, match="of the towers toy-1-60"):
        rankers.load(mine)
    wider = replace(CONFIG, model=replace(SMALL, hidden=(25, 16)))
    record = Record(fingerprint=mine.manifest.fingerprint, config=dict(as_json(wider)), counts={})
    rankers.save(mine, model, record)
    with pytest.raises(BundleRefused, match="size mismatch"):
        rankers.load(mine)


def test_a_bundle_that_has_one_is_left_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PAGODA_HOME", str(tmp_path))
    bundle, _ = saved(tmp_path / "bundles")
    files = {each: each.stat().st_mtime_ns for each in rankers.folder_of(bundle).iterdir()}
    result = CliRunner().invoke(ranker.app, [bundle.name, "--json"])
    assert result.exit_code == 0, result.output
    told = {"bundle": "toy0", "trained": False, "counts": {"steps": 1}}
    assert json.loads(result.stdout) == told
    assert "already trained: toy0" in CliRunner().invoke(ranker.app, []).stderr
    assert {each: each.stat().st_mtime_ns for each in files} == files


@pytest.mark.spark
def test_a_pre_ranker_is_trained_on_the_rows_of_its_towers_and_judges_what_they_find(
    built: Settings, trained: Path, spark: SparkSession
) -> None:
    bundle = Bundle.load(trained)
    record, fresh = train_ranker(built, bundle, CONFIG, session=spark)
    assert fresh
    assert record.counts["lines"] == bundle.manifest.counts["train_lines"]
    assert train_ranker(built, bundle, CONFIG, session=spark) == (rankers.load(bundle)[1], False)  # type: ignore[index]
    there = rankers.load(bundle)
    assert there is not None
    funnel = Funnel(min_relevant=10, pre_ranker=there[0], k=20, ranked=3)
    judged = judge_bundle(built, bundle, funnel=funnel, session=spark)
    usual = [each for each in judged if each.rows != ROWS]
    assert usual == bundle.manifest.metrics
    through = {each.method: each for each in judged if each.rows == ROWS}
    assert set(through) == {each.method for each in usual}
    for each in through.values():
        assert each.count == bundle.manifest.counts["judged_lines"]
        assert 0 <= each.values["num_rank@3"] <= each.values["num_prank@20"] <= 20
