"""`pagoda bench online`: one user's features for a search, beside Feast and a bare Redis HMGET.

All views of a user (`sequences_stats_v1`), one user a call, a warm client on loopback:

    HMGET        the bytes of the user's hash, undecoded: what no reader can be cheaper than
    OnlineReader the rows as `serving` reads them, TTL applied
    ... and cut  the same, and the windows that the tower gets, cut from both sequence views
    Feast        `get_online_features(...).to_dict()`, the service looked up before

Before anything is timed, all of them must say the same of every user. Rows are made up, written by
Feast itself, in a private PAGODA_HOME with a Redis of its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Any

import numpy as np
import pandas as pd
import psutil
import pyarrow as pa
import typer

from jobs.world import World, passing_world
from pagoda import features, online_layout, store
from pagoda.bench import interleaved, median, report
from pagoda.console import run
from pagoda.errors import CheckFailed
from pagoda.features import CANDIDATES, SEQUENCES_STATS_V1, USER_INTRADAY, View
from pagoda.ids import key_of
from pagoda.models.behaviour import windows_of
from pagoda.online import OnlineReader, connect
from pagoda.online_layout import Keys, StampedRow
from pagoda.schemas import INT64S, TEXTS
from pagoda.settings import load
from pagoda.watch import Cost
from pagoda.windows import DAY_MS

SERVICE = SEQUENCES_STATS_V1
_INTRADAY_SHARE = 3  # the stream's row holds a third of what the daily one does
_BARE, _READ, _CUT, _FEAST = "HMGET", "OnlineReader", "OnlineReader and cut", "Feast"

app = typer.Typer(add_completion=False)
Call = Callable[[int], object]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """How many users have rows, and how often each contestant reads one of them a round.

    Attributes:
        full: how long lists are, as a share of the longest they can be.
    """

    users: int
    full: float
    calls: int
    rounds: int
    seed: int


@app.command()
def main(
    users: Annotated[int, typer.Option(min=1, help="How many users have rows.")] = 500,
    full: Annotated[
        float, typer.Option(min=0, max=1, help="Length of lists; 1: the longest there are.")
    ] = 1.0,
    calls: Annotated[int, typer.Option(min=1, help="Reads of each contestant a round.")] = 2_000,
    rounds: Annotated[int, typer.Option(min=1, help="How often each has its turn.")] = 5,
    seed: Annotated[int, typer.Option(help="The same seed makes the same rows.")] = 0,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the private home.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on stdout.")] = False,
) -> None:
    """Read one user's features: Pagoda, Feast, a bare HMGET. Rows are made up."""
    settings = load()
    asked = Asked(users=users, full=full, calls=calls, rounds=rounds, seed=seed)
    with passing_world(settings, keep=keep) as private:
        rows, facts = bench(private.up(["redis"], config=""), asked)
    report(settings, "online", rows, facts=facts, as_json=as_json)


def bench(private: World, asked: Asked) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The rows of the table, and what is to be known about them."""
    began = time.monotonic()
    store.apply(private.settings)
    applied_s = time.monotonic() - began
    feast = store.open_store(private.settings, offline=False)
    keys = [key_of("user", f"bench-u{number}") for number in range(asked.users)]
    dice, now_ms = np.random.default_rng(asked.seed), time.time_ns() // 1_000_000
    for view in SERVICE.views:
        feast.write_to_online_store(
            view.name, _frame(features.view(view.name), keys, dice, now_ms, asked.full)
        )

    contestants = _contestants(private, feast)
    elements = _equal(contestants, keys)
    start_s = {name: _timed(partial(call, keys[0])) for name, call in contestants.items()}
    drawn = dice.choice(np.array(keys), asked.calls).tolist()
    calls_s: dict[str, list[float]] = {name: [] for name in contestants}
    costs = interleaved(
        {name: partial(_measure, call, drawn, calls_s[name]) for name, call in contestants.items()},
        rounds=asked.rounds,
    )
    cpu_ms = {name: median(each).cpu_seconds / asked.calls * 1000 for name, each in costs.items()}
    rows = [
        {
            "reader": name,
            "CPU ms a call": round(cpu_ms[name], 4),
            "x HMGET": round(cpu_ms[name] / cpu_ms[_BARE], 2),
            "x less than Feast": round(cpu_ms[_FEAST] / cpu_ms[name], 2),
            "p50 ms": round(float(np.percentile(calls_s[name], 50)) * 1000, 3),
            "p99 ms": round(float(np.percentile(calls_s[name], 99)) * 1000, 3),
            "first call ms": round(start_s[name] * 1000, 1),
        }
        for name in contestants
    ]
    return rows, {**_facts(asked, elements), "feast apply s": round(applied_s, 1)}


def _contestants(private: World, feast: Any) -> dict[str, Call]:
    """What each reader does with a user's key, from the request to values (the bare one: bytes)."""
    settings = private.settings
    reader, redis = OnlineReader(settings, SERVICE), connect(settings)
    keys = Keys("user_key")
    fields = [field for view in SERVICE.views for field in online_layout.fields(view)]
    service = feast.get_feature_service(SERVICE.name)

    def bare(key: int) -> object:
        return redis.hmget(keys.of(key), fields)  # type: ignore[arg-type]

    def read(key: int) -> dict[str, Any]:
        return reader.read(key, _now_ms())

    def cut(key: int) -> object:
        now_ms = _now_ms()
        return windows_of(reader.read(key, now_ms), at_ms=now_ms, spec=CANDIDATES)

    def theirs(key: int) -> dict[str, Any]:
        answer = feast.get_online_features(
            features=service, entity_rows=[{"user_key": key}], full_feature_names=True
        )
        said: dict[str, Any] = answer.to_dict()
        return said

    return {_BARE: bare, _READ: read, _CUT: cut, _FEAST: theirs}


def _equal(contestants: Mapping[str, Any], keys: list[int]) -> int:
    """Values that were compared, list elements each. Raises: CheckFailed where readers differ."""
    elements = 0
    for key in keys:
        bare = iter(contestants[_BARE](key))
        ours, theirs = contestants[_READ](key), contestants[_FEAST](key)
        for view in SERVICE.views:
            held = [next(bare) for _ in online_layout.fields(view)]
            (decoded,) = online_layout.decode([(view, held)])
            assert isinstance(decoded, StampedRow)
            read, bytes_ = online_layout.plain(ours[view.name]), online_layout.plain(decoded.values)
            for column in view.columns:
                value = read[column]
                said = (value, theirs[f"{view.name}__{column}"][0], bytes_[column])
                if not said[0] == said[1] == said[2]:
                    raise CheckFailed(
                        "readers differ",
                        where=f"{view.name}.{column}, user {key}",
                        expected=f"{said[0]} as OnlineReader says",
                        found=f"Feast {said[1]}, HMGET {said[2]}",
                    )
                elements += len(value) if isinstance(value, list) else 1
    return elements


def _measure(call: Call, keys: list[int], calls_s: list[float]) -> Cost:
    """Read these users one after the other; each call's seconds go to `calls_s`.

    Not `Watch`: it looks at the process from a thread of this very process.
    """
    cpu_s, began = time.process_time(), time.perf_counter()
    at = began
    for key in keys:
        call(key)
        before, at = at, time.perf_counter()
        calls_s.append(at - before)
    return Cost(
        seconds=at - began,
        cpu_seconds=time.process_time() - cpu_s,
        peak_mb=psutil.Process().memory_info().rss / 1e6,
    )


def _timed(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


# Rows --------------------------------------------------------------------------------------------


def _frame(
    view: View, keys: list[int], dice: np.random.Generator, now_ms: int, full: float
) -> pd.DataFrame:
    """A row of each user, as Feast takes it."""
    now = datetime.fromtimestamp(now_ms / 1000, UTC)
    columns: dict[str, Any] = {
        column: [_value(view, column, kind, dice, now_ms, full) for _ in keys]
        for column, kind in view.columns.items()
    }
    return pd.DataFrame({view.entity: keys, **columns, "event_timestamp": now, "created": now})


def _value(
    view: View,
    column: str,
    kind: pa.DataType,
    dice: np.random.Generator,
    now_ms: int,
    full: float,
) -> Any:
    if kind not in (INT64S, TEXTS):
        return float(dice.integers(1, 100)) if kind == pa.float64() else int(dice.integers(1, 100))
    first_day, last_day, longest = _extent(view, column)
    length = round(longest * full)
    if column.endswith("_ts"):
        ages_ms = dice.integers(last_day * DAY_MS + 1, first_day * DAY_MS, length)
        return sorted((now_ms - ages_ms).tolist())
    if kind == TEXTS:
        return [f"words of query {number}" for number in dice.integers(1_000, size=length)]
    return dice.integers(2**63 - 1, size=length).tolist()


def _extent(view: View, column: str) -> tuple[int, int, int]:
    """How many days back a full list reaches, how many it begins, and how long it is."""
    recent, spec = CANDIDATES.recent_days, CANDIDATES
    if column.startswith("long_"):
        return recent + spec.long_term_days, recent + 1, spec.long_term
    length = spec.clicks if column.startswith("click") else spec.queries
    if view.name == USER_INTRADAY.name:
        return spec.stream_days - 1, 0, length // _INTRADAY_SHARE
    return recent, 1, length


def _facts(asked: Asked, elements: int) -> dict[str, Any]:
    return {
        **asdict(asked),
        "rows": "made up; the stream's lists are a third as long as the daily ones",
        "service": f"{SERVICE.name}: {', '.join(view.name for view in SERVICE.views)}",
        "cut": "windows_of at the moment of the call, as serving does before the tower",
        "compared": f"{elements} values of {asked.users} users, equal",
        "goals": "OnlineReader: at most 3 x HMGET, at least 5 x less CPU than Feast",
    }


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


if __name__ == "__main__":
    run(app)
