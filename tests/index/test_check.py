"""The check itself: does it see a wrong index? Over an index of our own that can be made wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.index import check
from jobs.index.build import request_vectors
from pagoda.ann import Hits
from pagoda.bundle import Bundle
from pagoda.index import Collection
from pagoda.index_report import IndexReport
from pagoda.models.towers import Config
from tests.index.homes import quiet
from tests.training import toy
from tests.training.test_last_item import LAST_ITEM

ITEMS = toy.items(600).sort_by("item_key")
VECTORS = np.random.default_rng(0).normal(size=(600, 8)).astype(np.float32)
COLLECTION = Collection(
    name="draft_items_x", id=1, rows=600, index_type="FLAT", fingerprint="", loaded=True
)


class Shelf:
    """Searches exactly, or wrongly in one way; reads our own expressions by a lookup of masks."""

    def __init__(self, *, forgets: float = 0.0, ignores_filters: bool = False) -> None:
        self._forgets = forgets
        self._ignores = ignores_filters
        self._masks = {check.expression(probe.filters): probe.mask for probe in check.probes(ITEMS)}

    def search(
        self, _name: str, vectors_BD: check.Floats, *, k: int, expression: str = "", **_: object
    ) -> list[Hits]:
        mask = np.ones(600, bool) if self._ignores else self._masks[expression]
        scores = np.where(mask, VECTORS @ vectors_BD[0], -np.inf)
        best = np.argsort(-scores)[: min(k, int(mask.sum()))]
        kept = best[: max(1, round(len(best) * (1 - self._forgets)))]
        return [Hits(keys=ITEMS["item_key"].to_numpy()[kept], scores=scores[kept])]


def _checked(shelf: Shelf) -> IndexReport:
    queries = np.random.default_rng(1).normal(size=(4, 8)).astype(np.float32)
    return check.check(
        shelf,  # type: ignore[arg-type]
        COLLECTION,
        bundle="x",
        live_name="items_x",
        items=ITEMS,
        vectors_ND=VECTORS,
        queries_QD=queries,
        min_recall=0.95,
        progress=quiet,
    )


def test_an_exact_index_passes_with_full_recall() -> None:
    report = _checked(Shelf())
    assert report.passed
    assert report.worst_recall == 1.0
    assert report.collection == "items_x"


def test_an_index_that_forgets_results_fails() -> None:
    report = _checked(Shelf(forgets=0.2))
    assert not report.passed
    assert report.worst_recall < 0.9


def test_an_index_that_ignores_filters_fails_by_violations() -> None:
    report = _checked(Shelf(ignores_filters=True))
    assert not report.passed
    assert sum(case.violations for case in report.cases) > 0


def test_probes_reach_every_selectivity_that_the_catalogue_has() -> None:
    shares = [probe.mask.mean() for probe in check.probes(ITEMS)]
    for wanted in (1.0, 0.5, 0.1, 0.01):
        assert any(wanted / 2 <= share <= wanted * 1.25 for share in shares), wanted


def test_probes_of_a_catalogue_with_nothing_but_ids_search_without_filters() -> None:
    bare = pa.table(
        {
            name: ITEMS[name]
            if name in ("item_key", "item_id")
            else pa.nulls(600, ITEMS.schema.field(name).type)
            for name in ITEMS.column_names
        }
    )
    assert [check.expression(probe.filters) for probe in check.probes(bare)] == [""]


@given(st.integers(0, 10_000), st.integers(1, 300), st.integers(0, 100))
def test_recall_is_the_share_of_the_exact_best_found(seed: int, allowed: int, found: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.permutation(600).astype(np.float32)
    mask = np.zeros(600, bool)
    mask[rng.choice(600, allowed, replace=False)] = True
    rows = rng.choice(np.flatnonzero(mask), min(found, allowed), replace=False)
    best = sorted(np.flatnonzero(mask), key=lambda row: -scores[row])[: check.K]
    expected = len(set(best) & set(rows)) / len(best)
    assert check._recall(scores, mask, rows) == pytest.approx(expected)


def test_of_items_that_tie_any_is_as_good() -> None:
    scores = np.zeros(600, np.float32)
    mask = np.ones(600, bool)
    assert check._recall(scores, mask, np.arange(500, 600)) == 1.0


@pytest.mark.parametrize("config", [toy.SMALL, LAST_ITEM], ids=["words", "last item"])
def test_requests_to_check_with_differ_also_without_queries(tmp_path: Path, config: Config) -> None:
    bundle = Bundle.load(toy.save(tmp_path, config=config))
    vectors = request_vectors(bundle)
    assert len(np.unique(vectors.round(6), axis=0)) > 20
