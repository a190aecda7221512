"""95 % intervals of means over lines: the bootstrap by users.

Lines of a basket are alike, and so are a user's baskets: drawn one by one, lines would make the
interval too narrow. So whole users are drawn, with replacement, as many as there are, and the
interval holds the middle 95 % of the means that come of it (the cluster bootstrap's percentiles).

Shape legend: B lines, C columns to average, U users, R draws.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

DRAWS = 1_000
_ENDS = (0.025, 0.975)
_USERS_AT_ONCE = 1_000_000  # drawn at a time: some 30 MB

Floats = npt.NDArray[np.float64]


def intervals(gain_BC: Floats, user_B: npt.NDArray[np.integer], *, seed: int = 0) -> Floats | None:
    """The interval of each column's mean, [C, 2]; None for fewer than two users.

    The order of lines does not matter, and the same seed gives the same draws.
    """
    order_B = np.argsort(user_B, kind="stable")
    users, starts_U, lines_U = np.unique(user_B[order_B], return_index=True, return_counts=True)
    if len(users) < 2:
        return None
    gain_UC = np.add.reduceat(gain_BC[order_B], starts_U, axis=0)
    mean_RC = np.concatenate(
        [means(times_RU, gain_UC, lines_U) for times_RU in draws(len(users), seed=seed)]
    )
    ends: Floats = np.quantile(mean_RC, _ENDS, axis=0).T
    return ends


def draws(users: int, *, seed: int, most: int = _USERS_AT_ONCE) -> Iterator[Floats]:
    """How often each user is drawn, [R', U] at a time."""
    dice = np.random.default_rng(seed)
    step = max(most // users, 1)
    for start in range(0, DRAWS, step):
        rows = min(step, DRAWS - start)
        drawn_RU = dice.integers(users, size=(rows, users)) + users * np.arange(rows)[:, None]
        times = np.bincount(drawn_RU.reshape(-1), minlength=rows * users)
        yield times.reshape(rows, users).astype(np.float64)


def means(times_RU: Floats, gain_UC: Floats, lines_U: npt.NDArray[np.integer]) -> Floats:
    """The columns' means over the drawn users' lines, [R, C]."""
    mean_RC: Floats = (times_RU @ gain_UC) / (times_RU @ lines_U)[:, None]
    return mean_RC
