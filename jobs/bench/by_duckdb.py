"""Histories of user-days by DuckDB: arrays a user, counts a day, slices; one SQL script.

Says of every row what `jobs.batch.user_day` says, for events that were known when they happened:
so it writes no late versions, which production's job does.
"""

from __future__ import annotations

from datetime import date
from pathlib import Path

import duckdb

from jobs.bench.inputs import robot_days
from pagoda import dataset, features
from pagoda.contest import MEMORY_LIMIT, duckdb_config, files
from pagoda.schemas import EVENTS, SEARCHES
from pagoda.settings import Settings
from pagoda.watch import measured
from pagoda.windows import LONG_TERM_ACTIONS, WindowSpec

_KINDS = (*LONG_TERM_ACTIONS, "query")

_HISTORY = """
CREATE TABLE history AS
WITH events AS (
  SELECT event_key AS key, ts, min(ingested_at) AS ingested,
    arg_min(user_key, ingested_at) AS user_key, arg_min(action, ingested_at) AS action,
    arg_min(item_key, ingested_at) AS item
  FROM read_parquet($events)
  WHERE action IN ('buy', 'collect') OR action IN (SELECT unnest($clicks))
  GROUP BY event_key, ts
), searches AS (
  SELECT search_key AS key, ts, min(ingested_at) AS ingested,
    arg_min(user_key, ingested_at) AS user_key, arg_min(query, ingested_at) AS text
  FROM read_parquet($searches)
  GROUP BY search_key, ts
), happened AS (
  SELECT *, action IN (SELECT unnest($clicks)) AS is_click, action = 'buy' AS is_buy,
    action = 'collect' AS is_collect, false AS is_query, NULL AS text
  FROM events
  UNION ALL BY NAME
  SELECT *, NULL AS item, false AS is_click, false AS is_buy, false AS is_collect, true AS is_query
  FROM searches
)
SELECT user_key, CAST(ts AS DATE) AS day, epoch_ms(ts) AS ts, epoch_ms(ingested) AS ingested, key,
  item, text, is_click, is_buy, is_collect, is_query
FROM happened
ANTI JOIN robots ON happened.user_key = robots.user_key AND CAST(happened.ts AS DATE) = robots.day
"""


def write(settings: Settings, days: list[date], to: Path) -> None:
    """Write the rows of these days as Parquet."""
    robots = robot_days(settings).to_arrow()
    given = {
        "events": files(settings, EVENTS),
        "searches": files(settings, SEARCHES),
        "clicks": list(dataset.load(settings).click_actions),
    }
    config = {**duckdb_config(settings), "preserve_insertion_order": False}
    to.mkdir()
    with duckdb.connect(config=config) as connection, measured(memory_limit=MEMORY_LIMIT):
        connection.execute("SET TimeZone = 'UTC'")
        connection.register("robots", robots)
        connection.execute(_HISTORY, given)
        connection.execute(_lists())
        connection.execute(_ranges(features.CANDIDATES), {"days": days})
        connection.execute(
            f"COPY ({_rows(features.CANDIDATES)}) TO '{to}'"
            " (FORMAT parquet, COMPRESSION snappy, PER_THREAD_OUTPUT)"
        )


def _lists() -> str:
    """Each user's events of each kind as arrays, oldest first."""
    gathered = ", ".join(
        f"list({{ts: ts, event: key, value: {'text' if kind == 'query' else 'item'}, "
        f"ingested: ingested}} ORDER BY ts, key) FILTER (is_{kind}) AS {kind}"
        for kind in _KINDS
    )
    columns = ", ".join(
        f"coalesce([x.{part} FOR x IN {kind}], []) AS {kind}_{part}"
        for kind in _KINDS
        for part in ("ts", "event", "value", "ingested")
    )
    return f"""
      CREATE TABLE lists AS
      SELECT user_key, {columns} FROM (SELECT user_key, {gathered} FROM history GROUP BY user_key)
    """


def _ranges(spec: WindowSpec) -> str:
    """Where a user-day's windows begin and end in these arrays; n(kind) is what lies before."""
    counted = ", ".join(f"count(*) FILTER (is_{kind}) AS {kind}" for kind in _KINDS)
    before = ", ".join(
        f"coalesce(sum({kind}) OVER (PARTITION BY user_key ORDER BY day "
        f"ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0)::BIGINT AS {kind}"
        for kind in _KINDS
    )

    def ago(kind: str, back: int) -> str:
        return f"lag({kind}, {back}, 0) OVER (PARTITION BY user_key ORDER BY day)"

    recent, long = spec.recent_days, spec.recent_days + spec.long_term_days
    bounds = [
        bound
        for kind, limit in (("click", spec.clicks), ("query", spec.queries))
        for bound in (
            f"{kind} AS {kind}_stop",
            f"greatest({ago(kind, recent)}, {kind} - {limit}) AS {kind}_start",
        )
    ]
    for kind in LONG_TERM_ACTIONS:
        for late in range(spec.stream_days):
            stop = ago(kind, recent - late)
            bounds += [
                f"{stop} AS {kind}_stop_{late}",
                f"greatest({ago(kind, long - late)}, {stop} - {spec.long_term}) "
                f"AS {kind}_start_{late}",
            ]
    return f"""
      CREATE TABLE ranges AS
      WITH counts AS (SELECT user_key, day, {counted} FROM history GROUP BY user_key, day),
      spine AS (SELECT user_key, day FROM lists, (SELECT unnest($days) AS day)),
      before AS (SELECT user_key, day, {before} FROM spine LEFT JOIN counts USING (user_key, day))
      SELECT user_key, day, {", ".join(bounds)} FROM before
    """


def _rows(spec: WindowSpec) -> str:
    def recent(kind: str, part: str) -> str:
        return f"{kind}_{part}[{kind}_start + 1 : {kind}_stop]"

    def long_term(kind: str, part: str) -> str:
        last = spec.stream_days - 1
        whole = " AND ".join(f"{kind}_start_{n} <= {kind}_stop_{n - 1}" for n in range(1, last + 1))
        pieces = [f"{kind}_{part}[{kind}_start_0 + 1 : {kind}_stop_0]"] + [
            f"{kind}_{part}[greatest({kind}_start_{n}, {kind}_stop_{n - 1}) + 1 : {kind}_stop_{n}]"
            for n in range(1, last + 1)
        ]
        return (
            f"CASE WHEN {whole} THEN {kind}_{part}[{kind}_start_0 + 1 : {kind}_stop_{last}] "
            f"ELSE {' || '.join(pieces)} END"
        )

    columns = [
        *(f"{recent('click', part)} AS click_{name}" for part, name in _parts("items")),
        *(f"{recent('query', part)} AS query_{name}" for part, name in _parts("texts")),
        *(
            f"{long_term(kind, part)} AS long_{kind}_{name}"
            for kind in LONG_TERM_ACTIONS
            for part, name in _parts("items")
        ),
    ]
    newest = ", ".join(
        f"list_max({taken})"
        for taken in (
            recent("click", "ingested"),
            recent("query", "ingested"),
            *(long_term(kind, "ingested") for kind in LONG_TERM_ACTIONS),
        )
    )
    return f"""
      SELECT user_key, day::TIMESTAMP AS event_timestamp,
        make_timestamp(created_ms * 1000) AS created,
        day, * EXCLUDE (user_key, day, created_ms)
      FROM (
        SELECT user_key, day, greatest({newest}) AS created_ms, {", ".join(columns)}
        FROM ranges JOIN lists USING (user_key)
      )
      WHERE created_ms IS NOT NULL
    """


def _parts(values: str) -> tuple[tuple[str, str], ...]:
    return ("ts", "ts"), ("event", "events"), ("value", values)
