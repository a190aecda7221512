"""Law 4 for what was served: the sampled requests beside Feast's history of the same moments.

    lake.served -> cut the rows that were read -> compare with the training row of (user, t)

A training row holds what was known strictly before t. The row that serving read holds what had
*arrived online* by then, which is the same under conditions that the lake can tell:

    in_flight         no record of the user was taken by Kafka within some seconds of t: such a one
                      may or may not have been online yet
    late              none came after the stream's days and after the batch row's day had begun
    not_materialised  none lies where neither the stream nor the batch row of that time reaches:
                      imported since the row's day began, or there was no row
    imported_since    the data set was not imported anew since t: an import says of its history
                      that it was known when it happened, and events that it does not hold are gone
    no_times          the sample tells which batch row was read (older versions did not)

A request for which one of them does not hold is counted under that word and not compared; all
others must be equal, element by element.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Any

import orjson
import polars as pl

from jobs.checks import known
from jobs.checks.known import time_of
from jobs.checks.offline_side import late_for
from jobs.checks.online_side import Observation, observation
from jobs.checks.parity import TIMEOUT_S, Report, compare
from jobs.checks.positions import Positions
from pagoda import dataset, lake, topics
from pagoda.errors import NothingToDo
from pagoda.features import CANDIDATES, USER_DAY, USER_INTRADAY
from pagoda.schemas import SERVED
from pagoda.settings import Settings
from pagoda.windows import DAY_MS, WindowSpec

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_NOT_SAID = -1  # the batch row's day, in a sample that did not keep it
_MIDNIGHT = pl.col("t_ms") // DAY_MS * DAY_MS


def sample(settings: Settings, *, first: date, last: date, limit: int) -> pl.DataFrame:
    """Up to `limit` requests of these UTC days, chosen by hash: the same each time.

    Columns: search_id, user_key, t_ms, features. Raises: NothingToDo if there are none.
    """
    served = lake.scan(settings, SERVED).filter(
        (pl.col("t") >= _midnight(first)) & (pl.col("t") < _midnight(last + timedelta(days=1)))
    )
    chosen = (
        served.select("search_id", pl.col("search_id").hash(seed=0).alias("lot"))
        .bottom_k(limit, by="lot")
        .collect(engine="streaming")
    )
    if chosen.is_empty():
        raise NothingToDo(
            "no request was sampled",
            where=f"lake table {SERVED.name}, {first} to {last}",
            next_step="Search as a user, and see `serving.served_sample`; samples reach the lake "
            "within `serving.served_flush_s`.",
        )
    return (
        served.filter(pl.col("search_id").is_in(chosen["search_id"].to_list()))
        .select("search_id", "user_key", pl.col("t").dt.epoch("ms").alias("t_ms"), "features")
        .collect(engine="streaming")
        .sort("t_ms", "search_id")
    )


def check(
    session: Callable[[], SparkSession],
    settings: Settings,
    requests: pl.DataFrame,
    *,
    in_flight_s: float,
    say: Callable[[str], None],
) -> Report:
    """Compare what `sample` gave.

    Args:
        session: asked for a Spark session when there is something to compare.
        in_flight_s: how long a record may take from Kafka to the online store, and how far the
            clocks of serving and Kafka may differ.
    Raises: CheckFailed if landing does not catch up, DependencyDown if a server is away.
    """
    started = time.monotonic()
    spec = CANDIDATES
    clicks = dataset.load(settings).click_actions
    say("waiting until landing has reached the topics' ends")
    with topics.admin(settings) as admin:
        positions = Positions(settings, admin)
        positions.wait_landed(positions.ends(), TIMEOUT_S)
    seen = [_seen(row, spec) for row in requests.iter_rows(named=True)]
    reasons = incomparable(settings, seen, in_flight_s=in_flight_s, spec=spec, click_actions=clicks)
    skipped: dict[str, list[str]] = {}
    comparable = []
    for each in seen:
        reason = reasons.get(str(each.request))
        if reason is None:
            comparable.append(each)
        else:
            skipped.setdefault(reason, []).append(str(each.request))
    if not comparable:
        return Report(
            name="served",
            compared=0,
            elements=0,
            skipped=skipped,
            seconds=round(time.monotonic() - started, 1),
        )
    return compare(
        session(),
        settings,
        comparable,
        name="served",
        skipped=skipped,
        click_actions=clicks,
        spec=spec,
        say=say,
        started=started,
    )


def incomparable(
    settings: Settings,
    seen: Sequence[Observation],
    *,
    in_flight_s: float,
    spec: WindowSpec,
    click_actions: Collection[str],
) -> dict[str, str]:
    """Search id to why the request cannot be compared, for those that cannot."""
    reach_ms = (spec.recent_days + spec.long_term_days) * DAY_MS
    records = known.records(
        settings,
        {each.user_key for each in seen},
        from_ms=min(each.t_ms for each in seen) - DAY_MS - reach_ms,
        actions={*click_actions, "buy", "collect"},
    )
    requests = pl.DataFrame(
        [(each.request, each.user_key, each.t_ms, each.day_from_ms or 0) for each in seen],
        schema={"search_id": pl.String, "user_key": pl.Int64, "t_ms": pl.Int64, "day_ms": pl.Int64},
        orient="row",
    )
    kept_ms = spec.batch_delay_days * DAY_MS
    imported_ms = dataset.path(settings).stat().st_mtime * 1000
    # What neither the stream nor the batch row could bring online; day_ms is 0 without a row.
    uncovered = (pl.col("ts") >= pl.col("day_ms")) & (
        ~pl.col("streamed") | ((pl.col("day_ms") == 0) & (pl.col("ts") < _MIDNIGHT - kept_ms))
    )
    conditions = {
        "in_flight": pl.col("streamed")
        & ((pl.col("ingested") - pl.col("t_ms")).abs() <= in_flight_s * 1000),
        "late": late_for("day_ms", spec) & (pl.col("ingested") < pl.col("t_ms")),
        "not_materialised": uncovered,
        "imported_since": ~pl.col("streamed") & (pl.col("t_ms") < imported_ms),
    }
    broken = (
        requests.join(records, on="user_key")
        .filter((pl.col("ts") < pl.col("t_ms")) & (pl.col("ts") >= _MIDNIGHT - reach_ms))
        .group_by("search_id")
        .agg(condition.any().alias(name) for name, condition in conditions.items())
    )
    reasons = {str(each.request): "no_times" for each in seen if each.day_from_ms == _NOT_SAID}
    here = set(records.select("user_key", "key").iter_rows())
    for each in seen:
        if each.t_ms < imported_ms and any((each.user_key, key) not in here for key in _held(each)):
            reasons.setdefault(str(each.request), "imported_since")
    for row in broken.iter_rows(named=True):
        for name in conditions:
            if row[name]:
                reasons.setdefault(row["search_id"], name)
    return reasons


def _held(seen: Observation) -> Iterator[int]:
    """The key of every event and search that the request saw."""
    if windows := seen.windows:
        sequences = (windows.real_time, windows.short_term, windows.queries)
        for sequence in (*sequences, *windows.long_term.values()):
            yield from sequence.event.tolist()


def _seen(row: dict[str, Any], spec: WindowSpec) -> Observation:
    rows = orjson.loads(row["features"])
    day = rows.get(USER_DAY.name)
    return observation(
        row["user_key"],
        row["t_ms"],
        {name: rows.get(name) for name in (USER_DAY.name, USER_INTRADAY.name)},
        day_from_ms=day.get("valid_from_ms", _NOT_SAID) if day else None,
        spec=spec,
        request=row["search_id"],
    )


def _midnight(day: date) -> datetime:
    return time_of((day - date(1970, 1, 1)).days * DAY_MS)
