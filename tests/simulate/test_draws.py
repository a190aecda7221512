"""Chance as a function: uniform, independent between purposes, the same whoever else is asked."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from jobs.simulate.draws import integers, keys, uniform, within

N = 200_000


def test_draws_are_uniform() -> None:
    counts = np.bincount(integers(keys(3, np.arange(N)), "anything", 100), minlength=100)
    chi_squared = ((counts - N / 100) ** 2 / (N / 100)).sum()
    assert 50 < chi_squared < 160  # 99 degrees of freedom: far in both tails


def test_neighbours_purposes_and_seeds_are_independent() -> None:
    key = keys(3, np.arange(N))
    one = uniform(key, "one")
    others = {
        "of the next user": np.roll(one, 1),
        "for another purpose": uniform(key, "another"),
        "of another seed": uniform(keys(4, np.arange(N)), "one"),
        "within": uniform(within(key, np.array(0)), "one"),
    }
    for what, other in others.items():
        assert abs(np.corrcoef(one, other)[0, 1]) < 5 / np.sqrt(N), what


@given(
    users=st.lists(st.integers(0, 2**31), min_size=1, max_size=20),
    seed=st.integers(0, 2**40),
    day=st.integers(0, 9_999),
)
def test_a_draw_does_not_depend_on_who_else_is_drawn_for(
    users: list[int], seed: int, day: int
) -> None:
    together = uniform(keys(seed, np.array(users), np.array(day)), "what")
    alone = [uniform(keys(seed, np.array([each]), np.array(day)), "what")[0] for each in users]
    assert together.tolist() == alone
