"""Quantiles and drift against their definitions."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.quality.distribution import Distribution, psi
from tests.oracles import drift as oracle

values = st.lists(st.none() | st.integers(0, 12).map(float) | st.floats(-3, 30), max_size=60)


@given(values)
def test_rates_and_quantiles_are_those_of_the_list(found: list[float | None]) -> None:
    distribution = Distribution.of(found)
    assert distribution.total == len(found)
    filled = [value for value in found if value is not None]
    for percent in (5, 25, 50, 95, 100):
        expected = oracle.quantile(filled, percent) if filled else None
        assert distribution.quantile(percent / 100) == expected
    if found:
        assert distribution.null_rate == found.count(None) / len(found)
        assert distribution.share(0) == found.count(0) / len(found)


@given(values, values, st.booleans())
def test_drift_is_the_index_over_the_references_deciles(
    reference: list[float | None], current: list[float | None], kinds: bool
) -> None:
    found = psi(Distribution.of(reference), Distribution.of(current), kinds=kinds)
    if not reference or not current:
        assert found is None
        return
    assert found is not None
    assert math.isclose(found, oracle.psi(reference, current, kinds=kinds), abs_tol=1e-12)
    assert found >= 0


@given(values.filter(bool))
def test_nothing_has_drifted_from_itself(found: list[float | None]) -> None:
    assert psi(Distribution.of(found), Distribution.of(found)) == pytest.approx(0)


def test_another_population_is_far_beyond_the_usual_limit() -> None:
    week = Distribution.of([float(n % 50) for n in range(1000)])
    longer = Distribution.of([float(n % 50 + 30) for n in range(1000)])
    halved = Distribution.of([None if n % 2 else float(n % 50) for n in range(1000)])
    assert (psi(week, longer) or 0) > 1
    assert (psi(week, halved) or 0) > 1
