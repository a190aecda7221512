from __future__ import annotations

import random

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tests.oracles import metrics as oracle
from training.evaluation.intervals import DRAWS, draws, intervals, means

# (user, gain) of each line; two users at least.
LINES = st.lists(
    st.tuples(st.integers(0, 4), st.sampled_from((0.0, 0.25, 1.0))), min_size=2, max_size=15
).filter(lambda lines: len({user for user, _ in lines}) > 1)


def test_every_draw_is_of_as_many_users_as_there_are() -> None:
    times_RU = np.concatenate(list(draws(7, seed=1)))
    assert times_RU.shape == (DRAWS, 7)
    assert (times_RU.sum(1) == 7).all()
    # With replacement: a user is left out of a draw with chance (6/7)^7 = .34.
    assert abs((times_RU == 0).mean() - (6 / 7) ** 7) < 0.02


def test_draws_do_not_depend_on_how_many_fit_into_memory() -> None:
    at_once, by_three = (np.concatenate(list(draws(7, seed=1, most=most))) for most in (10**6, 21))
    np.testing.assert_array_equal(at_once, by_three)
    assert (at_once != np.concatenate(list(draws(7, seed=2)))).any()


@given(LINES)
def test_an_interval_is_the_middle_of_the_means_over_drawn_users(
    lines: list[tuple[int, float]],
) -> None:
    user_B, gain_B = (np.array(each) for each in zip(*lines, strict=True))
    users = np.unique(user_B).tolist()
    times_RU = np.concatenate(list(draws(len(users), seed=3)))[:40]
    expected = [
        oracle.mean_of_drawn(gain_B.tolist(), user_B.tolist(), dict(zip(users, times, strict=True)))
        for times in times_RU.astype(int).tolist()
    ]
    lines_U = np.array([(user_B == user).sum() for user in users])
    gain_UC = np.array([[gain_B[user_B == user].sum()] for user in users])
    found = means(times_RU, gain_UC, lines_U)[:, 0]
    np.testing.assert_allclose(found, expected)
    every = means(np.concatenate(list(draws(len(users), seed=3))), gain_UC, lines_U)[:, 0].tolist()
    ends = intervals(gain_B[:, None], user_B, seed=3)
    assert ends is not None
    np.testing.assert_allclose(
        ends, [[oracle.quantile(every, 0.025), oracle.quantile(every, 0.975)]]
    )


@given(LINES, st.randoms(use_true_random=False))
def test_the_order_of_lines_does_not_matter(
    lines: list[tuple[int, float]], dice: random.Random
) -> None:
    assert_same(lines, dice.sample(lines, len(lines)))


@given(LINES, st.integers(2, 4))
def test_lines_said_twice_make_no_interval_narrower(
    lines: list[tuple[int, float]], times: int
) -> None:
    assert_same(lines, lines * times)


def assert_same(one: list[tuple[int, float]], other: list[tuple[int, float]]) -> None:
    found = []
    for lines in (one, other):
        user_B, gain_B = (np.array(each) for each in zip(*lines, strict=True))
        found.append(intervals(gain_B[:, None], user_B))
    assert found[0] is not None
    assert found[1] is not None
    np.testing.assert_allclose(found[0], found[1])


def test_columns_are_drawn_together() -> None:
    """Another column beside it changes nothing, and a sum of columns is drawn as their sum."""
    dice = np.random.default_rng(0)
    gain_BC, user_B = dice.random((60, 2)), dice.integers(9, size=60)
    alone, both = intervals(gain_BC[:, :1], user_B), intervals(gain_BC, user_B)
    assert alone is not None
    assert both is not None
    np.testing.assert_allclose(alone[0], both[0])
    shifted = intervals(1 - gain_BC, user_B)
    assert shifted is not None
    np.testing.assert_allclose(shifted, 1 - both[:, ::-1])


def test_one_user_has_no_interval() -> None:
    assert intervals(np.array([[0.0], [1.0]]), np.array([5, 5])) is None
    assert intervals(np.empty((0, 1)), np.empty(0, int)) is None


def test_the_interval_holds_the_truth_in_95_of_100_weeks() -> None:
    """60 users of ten lines, each user all hits or all misses: lines alone would say .04."""
    dice = np.random.default_rng(0)
    user_B = np.repeat(np.arange(60), 10)
    weeks = 300
    gain_BC = np.repeat(dice.random((60, weeks)) < 0.3, 10, axis=0).astype(float)
    ends_C2 = intervals(gain_BC, user_B)
    assert ends_C2 is not None
    held = ((ends_C2[:, 0] <= 0.3) & (ends_C2[:, 1] >= 0.3)).mean()
    assert 0.91 <= held <= 0.98
    by_line = intervals(gain_BC, np.arange(len(user_B)))
    assert by_line is not None
    assert ((by_line[:, 0] <= 0.3) & (by_line[:, 1] >= 0.3)).mean() < 0.6
