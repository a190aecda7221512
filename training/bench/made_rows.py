"""Simulated feature rows and requests for `pagoda bench pit`, in a home of the bench's own.

    a seeded generator -> user_day, user_intraday, user_stats; requests: user_key, t_ms

A third of the rows each. A twentieth of them came late, as further versions of their row, so that
what was known at a moment is not simply the newest. Requests follow Zipf's law over users, with
an exponent of 0.6. Lists are about as long as those of a simulated shopper: some 70 events a
`user_day` row.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from pagoda import features, lake
from pagoda.features import View
from pagoda.schemas import INT64S, TEXTS
from pagoda.settings import Settings
from pagoda.windows import DAY_MS

SERVICE = features.SEQUENCES_STATS_V1
DAYS = 20
_FIRST = (date(2026, 9, 1) - date(1970, 1, 1)).days
_LATE = 0.05
_INTRADAY_ROWS = 1.0  # a user and day, on average
_SKEW = 0.6  # the n-th user asks in proportion to n to the power of minus this
_MEAN_LENGTH = {"click": 15, "query": 10, "long_click": 35, "long_buy": 4, "long_collect": 4}
_QUERIES = [f"words of query {number}" for number in range(1_000)]

Int64s = npt.NDArray[np.int64]


def fill(settings: Settings, *, rows: int, seed: int, days: int = DAYS) -> dict[str, int]:
    """Write about so many rows in all, once. Returns: how many each view has."""
    lake.create_all(settings)
    filled = settings.home / "filled"
    if not filled.exists():
        dice = np.random.default_rng(seed)
        users = np.sort(dice.integers(1, 2**62, max(1, rows // (len(SERVICE.views) * days))))
        for view in SERVICE.views:
            lake.overwrite(settings, view.table, view.table.schema.empty_table())
            table = lake.open_table(settings, view.table)
            for day in range(days):
                table.append(_of_day(view, users, (_FIRST + day) * DAY_MS, dice))
        filled.touch()
    return {view.name: _count(settings, view) for view in SERVICE.views}


def requests(settings: Settings, *, count: int, seed: int, days: int = DAYS) -> pl.DataFrame:
    """Distinct (user_key, t_ms), many of few users; a hundredth of users without features."""
    dice = np.random.default_rng(seed + 1)
    table = lake.scan(settings, SERVICE.views[0].table).select("user_key").unique().sort("user_key")
    users = dice.permutation(table.collect(engine="streaming")["user_key"].to_numpy())
    share = np.arange(1, len(users) + 1) ** -_SKEW
    chosen = dice.choice(users, count, p=share / share.sum())
    unknown = dice.random(count) < 0.01
    chosen[unknown] += 1
    t_ms = _FIRST * DAY_MS + dice.integers(0, (days + 2) * DAY_MS, count)
    return pl.DataFrame({"user_key": chosen, "t_ms": t_ms}).unique(maintain_order=True)


def _count(settings: Settings, view: View) -> int:
    snapshot = lake.open_table(settings, view.table).current_snapshot()
    return int(snapshot.summary["total-records"] or 0) if snapshot and snapshot.summary else 0


def _of_day(view: View, users: Int64s, midnight: int, dice: np.random.Generator) -> pa.Table:
    if view.name == features.USER_INTRADAY.name:
        user = np.sort(dice.choice(users, round(_INTRADAY_ROWS * len(users))))
        at = midnight + dice.integers(0, DAY_MS, len(user))
        _, kept = np.unique(np.stack([user, at]), axis=1, return_index=True)
        user, at, created = user[kept], at[kept], at[kept]
    else:
        user, at = users, np.full(len(users), midnight)
        created = midnight - dice.integers(1, DAY_MS, len(users))
    late = np.flatnonzero(dice.random(len(user)) < _LATE)
    user, at = np.append(user, user[late]), np.append(at, at[late])
    created = np.append(created, at[len(created) :] + dice.integers(1, 3 * DAY_MS, len(late)))
    head = {
        "user_key": pa.array(user),
        "event_timestamp": pa.array(at * 1000),
        "created": pa.array(created * 1000),
        "day": pa.array((at // DAY_MS).astype(np.int32)),
        "definition": pa.array([view.definition]).take(pa.array(np.zeros(len(user), np.int64))),
    }
    schema = view.table.schema
    columns = dict(_columns(view.whole or view, len(user), dice))
    return pa.table(
        [({**head, **columns})[name].cast(schema.field(name).type) for name in schema.names],
        schema=schema,
    )


def _columns(view: View, rows: int, dice: np.random.Generator) -> Iterator[tuple[str, pa.Array]]:
    offsets: dict[str, pa.Array] = {}
    for name, kind in view.columns.items():
        sequence = name.rpartition("_")[0]
        if kind in (INT64S, TEXTS):
            if sequence not in offsets:
                lengths = dice.poisson(_MEAN_LENGTH[sequence], rows)
                offsets[sequence] = pa.array(np.append([0], np.cumsum(lengths)).astype(np.int32))
            count = offsets[sequence][-1].as_py()
            values = (
                pa.array(_QUERIES).take(pa.array(dice.integers(0, len(_QUERIES), count)))
                if kind == TEXTS
                else pa.array(dice.integers(0, 2**62, count))
            )
            yield name, pa.ListArray.from_arrays(offsets[sequence], values)
        else:
            yield name, pa.array(dice.integers(0, 100, rows)).cast(kind)
