"""Embedding schemes: who shares which rows, and that all else is as with a row for each."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pagoda.bundle import MANIFEST, Bundle, Request
from pagoda.models.catalogue import ATTRIBUTES, Catalogue
from pagoda.models.inputs import UserBatch, item_batch
from pagoda.models.tables import Hashed, Schemes, Sizes, Table
from pagoda.models.towers import Config
from tests.training import toy
from tests.training.small import EACH, YOUTUBE_DNN, built
from training.data.batches import Examples
from training.loop import train
from training.loop_config import LoopConfig

KINDS = ("item", *ATTRIBUTES)
MOST = 2**31 - 1
HALF = Schemes(
    item=Hashed(rows=30, functions=2), leaf=Hashed(rows=3), brand=Hashed(rows=2, functions=3)
)
SHORT = LoopConfig(requests_per_batch=12, epochs=2)
schemes = st.builds(Hashed, rows=st.integers(1, 10**6), functions=st.integers(1, 4))
numbers = st.lists(st.integers(0, MOST), min_size=1, max_size=30)


def naive(scheme: Hashed, number: int) -> list[int]:
    """The rows of a number, in Python's own integers. Part of every bundle: it never changes."""
    hashes = [number - 1]
    for function in range(1, scheme.functions):
        bits = (function << 32) + number
        bits = (bits ^ bits >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        bits = (bits ^ bits >> 27) * 0x94D049BB133111EB % 2**64
        hashes.append((bits ^ bits >> 31) % 2**63)
    return [1 + each % scheme.rows if number else 0 for each in hashes]


@given(scheme=schemes, of=numbers)
def test_a_number_has_the_rows_that_the_hash_names(scheme: Hashed, of: list[int]) -> None:
    expected = [naive(scheme, number) for number in of]
    for dtype in (torch.int32, torch.int64):  # attributes' numbers have 32 bits
        assert scheme.rows_of(torch.tensor(of, dtype=dtype)).tolist() == expected


@given(scheme=st.builds(Hashed, rows=st.integers(1, 20), functions=st.integers(1, 4)), of=numbers)
def test_it_is_their_sum_and_the_gradient_reaches_them_and_no_other(
    scheme: Hashed, of: list[int]
) -> None:
    table = Table(max(of) + 1, 3, scheme=scheme)
    assert len(table.weight) == 1 + scheme.rows
    found = table(torch.tensor(of))
    rows = [naive(scheme, number) for number in of]
    expected = torch.stack([table.weight[each].sum(0) for each in rows])
    torch.testing.assert_close(found, expected)
    for same in np.unique(of):
        equal = found[torch.tensor(of) == int(same)]
        assert torch.equal(equal, equal[:1].expand_as(equal))
    found.sum().backward()
    assert table.weight.grad is not None
    assert table.weight.grad.is_sparse
    taught = Counter(row for each in rows for row in each if row)
    gradient = table.weight.grad.to_dense()
    assert gradient[:, 0].tolist() == [taught[row] for row in range(1 + scheme.rows)]


def test_two_functions_tell_apart_what_one_does_not() -> None:
    """Of a thousand numbers, drawn rows of 100 by 100 would leave 952 apart."""
    of = torch.arange(1, 1_001)
    for number in (1, 2, 3):
        row = Hashed(rows=100, functions=4).rows_of(of)[:, number]
        assert len(row.unique()) == 100
        assert 930 < len(torch.stack([(of - 1) % 100, row], -1).unique(dim=0)) < 975


@EACH
def test_as_many_rows_as_numbers_are_the_full_table(
    config: Config, sizes: Sizes, batch: UserBatch, catalogue: Catalogue
) -> None:
    count = {kind: getattr(sizes, kind) for kind in KINDS}
    full = Schemes(**{kind: Hashed(rows=each - 1) for kind, each in count.items() if each > 1})
    assert full.hashed == ["item", "leaf", "first", "brand"]  # the toy shop has no shops
    plain, hashed = built(config, sizes), built(config, replace(sizes, schemes=full))
    items = item_batch(np.arange(len(catalogue) + 1), catalogue)
    with torch.no_grad():
        assert torch.equal(plain.encode_user(batch), hashed.encode_user(batch))
        assert torch.equal(plain.encode_item(items), hashed.encode_item(items))


def test_they_are_trained_as_the_full_table(
    sizes: Sizes, examples: Examples, catalogue: Catalogue
) -> None:
    hashed = replace(sizes, schemes=Schemes(item=Hashed(rows=sizes.item - 1)))
    models = [built(YOUTUBE_DNN, each) for each in (sizes, hashed)]
    plain, other = (train(each, examples, catalogue, SHORT) for each in models)
    assert plain == other
    plain_weights, weights = (each.state_dict() for each in models)
    assert all(torch.equal(weights[name], each) for name, each in plain_weights.items())


def test_shared_rows_are_trained_and_row_0_is_not(
    sizes: Sizes, examples: Examples, catalogue: Catalogue
) -> None:
    model = built(YOUTUBE_DNN, replace(sizes, schemes=HALF))
    losses = train(model, examples, catalogue, replace(SHORT, epochs=10))
    assert np.mean(losses[-4:]) < 0.7 * np.mean(losses[:4])
    rows = {each.kind: each.weight for each in model.modules() if isinstance(each, Table)}
    assert [len(rows[kind]) - 1 for kind in ("item", "leaf", "brand")] == [30, 3, 2]
    assert len(rows["first"]) == sizes.first
    for weight in rows.values():
        assert weight[0].eq(0).all()


def test_a_bundle_records_its_schemes(tmp_path: Path) -> None:
    bundle = Bundle.load(toy.save(tmp_path, schemes=HALF))
    assert bundle.manifest.model.sizes["schemes"] == asdict(HALF)
    assert bundle.manifest.model.sizes["item"] == 61
    tables = {each.kind: each for each in bundle.model.modules() if isinstance(each, Table)}
    assert tables["item"].scheme == HALF.item
    vectors = bundle.encode_items(bundle.items)
    np.testing.assert_allclose(vectors, bundle.item_vectors, atol=1e-6)


def test_a_bundle_of_before_there_were_any_has_a_row_for_each(tmp_path: Path) -> None:
    path = toy.save(tmp_path)
    request = Request(query="milk", at_ms=toy.T0, rows=toy.feature_rows("u1", toy.T0))
    vector = Bundle.load(path).embed([request])
    manifest = json.loads((path / MANIFEST).read_text())
    del manifest["model"]["sizes"]["schemes"]
    (path / MANIFEST).write_text(json.dumps(manifest))
    again = Bundle.load(path)
    assert not Sizes.read(again.manifest.model.sizes).schemes.hashed
    np.testing.assert_array_equal(again.embed([request]), vector)


@pytest.mark.parametrize("wrong", [{"rows": 0}, {"rows": 5, "functions": 0}])
def test_a_scheme_without_rows_or_functions_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="rows >= 1"):
        Hashed(**wrong)
