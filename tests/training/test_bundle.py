from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pagoda.bundle import FILES, MANIFEST, TOKENIZER, Bundle, Request
from pagoda.errors import BundleRefused
from pagoda.metric_table import table
from pagoda.models.inputs import item_batch
from pagoda.models.towers import Config
from tests.training import toy
from tests.training.small import EACH


@pytest.fixture(scope="session")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy.save(tmp_path_factory.mktemp("bundles"))


@pytest.fixture
def path(original: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(original, tmp_path / original.name))


def edit(path: Path, change: Callable[[dict[str, object]], object]) -> None:
    manifest = json.loads((path / MANIFEST).read_text())
    change(manifest)
    (path / MANIFEST).write_text(json.dumps(manifest))


def test_a_bundle_comes_back_as_it_was_saved(original: Path) -> None:
    bundle = Bundle.load(original)
    assert bundle.name == "toy"
    assert bundle.collection == "items_toy"
    assert bundle.item_vectors.shape == (60, 16)
    assert bundle.items["item_id"].to_pylist() != []
    assert [each.name for each in original.parent.iterdir()] == ["toy"]
    numbers = np.arange(1, 61)
    again = bundle.model.encode_item(item_batch(numbers, bundle.catalogue)).detach().numpy()
    np.testing.assert_allclose(again, bundle.item_vectors, atol=1e-6)


@pytest.mark.parametrize("name", FILES)
def test_an_altered_byte_in_any_file_is_refused(path: Path, name: str) -> None:
    content = bytearray((path / name).read_bytes())
    content[len(content) // 2] ^= 1
    (path / name).write_bytes(content)
    with pytest.raises(BundleRefused, match=f"{name}: altered"):
        Bundle.load(path)


def test_every_problem_is_named_at_once(path: Path) -> None:
    (path / "tokenizer.json").unlink()
    (path / "items.arrow").write_bytes(b"")
    edit(path, lambda manifest: manifest.update(name="another"))
    with pytest.raises(BundleRefused) as refused:
        Bundle.load(path)
    for part in ("tokenizer.json: No such file", "items.arrow: altered", "names 'another'"):
        assert part in str(refused.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(schema_hash="0"), "schema hash 0 at training"),
        (lambda m: m.update(feature_service="gone"), "no feature service 'gone'"),
        (lambda m: m["windows"].update(queries=21), "windows: queries 21, rows hold 20"),
        (lambda m: m.update(width=8), r"\[60, 16\], expected \[60, 8\]"),
        (lambda m: m["model"].update(kind="other"), "model kind 'other'"),
        (lambda m: m["model"]["sizes"].update(item=7), "size mismatch"),
        (lambda m: m["model"]["config"].update(fusion="mean"), "fusion"),
        (lambda m: m.update(format=2), "format"),
        (lambda m: m.pop("windows"), "windows"),
        (lambda m: m.update(surprise=1), "surprise"),
    ],
)
def test_what_does_not_fit_is_refused(
    path: Path, change: Callable[[dict[str, object]], object], message: str
) -> None:
    edit(path, change)
    with pytest.raises(BundleRefused, match=message):
        Bundle.load(path)


def test_metrics_of_before_there_were_intervals_still_load(path: Path) -> None:
    earlier = {"week": "test", "method": "demo"}
    some = earlier | {"rows": "all", "count": 9, "values": {"ndcg@10": 1}}
    none = earlier | {"rows": "non-repeats", "count": 0, "values": {}}
    edit(path, lambda manifest: manifest.update(metrics=[some, none]))
    metrics = Bundle.load(path).manifest.metrics
    assert metrics[0].intervals == {}
    shown = {"rows": "all", "lines": 9, "method": "demo"}
    assert table(metrics) == [shown | {"R@10": None, "R@100": None, "NDCG@10": "1.000"}]


def test_a_tokenizer_of_a_later_version_is_refused(path: Path) -> None:
    later = json.loads((path / TOKENIZER).read_text()) | {"segmentation": "unheard of"}
    (path / TOKENIZER).write_text(json.dumps(later))
    digest = hashlib.sha256((path / TOKENIZER).read_bytes()).hexdigest()
    edit(path, lambda manifest: manifest["files"].update({TOKENIZER: digest}))
    with pytest.raises(BundleRefused, match=r"tokenizer\.json: segmentation: Input should be"):
        Bundle.load(path)


def test_no_bundle_and_no_json_are_refused(tmp_path: Path, path: Path) -> None:
    with pytest.raises(BundleRefused, match="No such file"):
        Bundle.load(tmp_path / "nothing")
    (path / MANIFEST).write_text("{")
    with pytest.raises(BundleRefused, match="not JSON"):
        Bundle.load(path)


def test_a_name_is_never_written_over(original: Path) -> None:
    with pytest.raises(FileExistsError):
        toy.save(original.parent)


def test_embedding_is_the_same_alone_and_together_and_never_fails(original: Path) -> None:
    bundle = Bundle.load(original)
    requests = [
        Request(query="milk", at_ms=toy.T0, rows=toy.feature_rows("u1", toy.T0)),
        Request(query="milk", at_ms=toy.T0, rows={"user_day": None, "user_intraday": None}),
        Request(query="", at_ms=toy.T0, rows={}),
        Request(query="\ud800 从没见过 ☃", at_ms=toy.T0, rows=toy.feature_rows("u2", toy.T0)),
    ]
    together = bundle.embed(requests)
    assert together.shape == (4, 16)
    assert together.dtype == np.float32
    assert np.isfinite(together).all()
    alone = np.concatenate([bundle.embed([request]) for request in requests])
    np.testing.assert_allclose(alone, together, atol=1e-5)
    assert not np.allclose(together[0], together[1])
    assert bundle.embed([]).shape == (0, 16)


def test_only_what_lies_before_the_moment_counts(original: Path) -> None:
    bundle = Bundle.load(original)
    row = toy.feature_rows("u1", toy.T0)["user_day"]
    assert row is not None
    later = dict(row)
    later["click_ts"] = [*row["click_ts"], toy.T0]
    later["click_events"] = [*row["click_events"], 7]
    later["click_items"] = [*row["click_items"], row["click_items"][0]]
    base, same, moved = bundle.embed(
        [
            Request(query="milk", at_ms=toy.T0, rows={"user_day": row}),
            Request(query="milk", at_ms=toy.T0, rows={"user_day": later}),
            Request(query="milk", at_ms=toy.T0 + 1, rows={"user_day": later}),
        ]
    )
    np.testing.assert_allclose(base, same, atol=1e-6)
    assert not np.allclose(base, moved)


@EACH
def test_every_kind_of_model_is_served(config: Config, tmp_path: Path) -> None:
    bundle = Bundle.load(toy.save(tmp_path, config=config))
    requests = [
        Request(query="milk", at_ms=toy.T0, rows=toy.feature_rows("u1", toy.T0)),
        Request(query="tea", at_ms=toy.T0, rows={}),
        Request(query="", at_ms=toy.T0, rows={}),
    ]
    together = bundle.embed(requests)
    assert together.shape == (3, bundle.manifest.width)
    assert np.isfinite(together).all()
    alone = np.concatenate([bundle.embed([request]) for request in requests])
    np.testing.assert_allclose(alone, together, atol=1e-5)
    np.testing.assert_allclose(bundle.encode_items(toy.items()), bundle.item_vectors, atol=1e-6)
    new = toy.items(61).slice(60)
    assert np.isfinite(bundle.encode_items(new)).all()
