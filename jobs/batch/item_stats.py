"""item_stats: an item's statistics over the days before D, as `pagoda.features` declares them.

In SQL, because a popular item's history has no bound: every step is one sort or aggregation that
Spark can spill to disk. Versions are as in `jobs.batch.rows`: what was known before D goes into
the base version, and each later moment at which more became known makes one more.

A new statistic of an aggregation that is here is a line there; a new aggregation is an entry here.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from string import Template

from pyspark.sql import DataFrame

from jobs.batch.history import role_of
from pagoda.features import ITEM_STATS, View
from pagoda.statistics import Aggregation, Statistic

_SQL = """
WITH counted AS (
  SELECT /*+ REPARTITION(item_key) */ item_key, user_key, ingested, role,
    CAST(timestamp_millis(ts) AS DATE) AS happened
  FROM {history}
  WHERE role & {counted} > 0
    AND timestamp_millis(ts) >= date_sub(DATE {first}, {span_days})
    AND timestamp_millis(ts) < DATE {last}
),
seen AS (  -- an event once for every day whose row holds it
  SELECT *, unix_millis(CAST(day AS TIMESTAMP)) AS midnight, datediff(day, happened) AS days_ago
  FROM counted
  LATERAL VIEW explode(sequence(
    greatest(date_add(happened, 1), DATE {first}),
    least(date_add(happened, {span_days}), DATE {last})
  )) AS day
),
by_user AS (
  SELECT item_key, day, user_key,
    greatest(ingested, midnight - 1) AS known,  -- all that was known before the day: one version
    max(ingested) AS created,
    $events
  FROM seen GROUP BY item_key, day, user_key, known
),
numbered AS (
  SELECT *, $firsts FROM by_user
),
steps AS (
  SELECT item_key, day, known, max(created) AS created,
    $steps
  FROM numbered GROUP BY item_key, day, known
)
SELECT item_key,
  CAST(day AS TIMESTAMP) AS event_timestamp,
  timestamp_millis(max(created) OVER so_far) AS created,
  day,
  $columns
FROM steps
WINDOW so_far AS (
  PARTITION BY item_key, day ORDER BY known ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
)
"""
# What a version adds to a statistic, from each user's events of it (`events_of_<name>`) and the
# version in which the user had the first (`first_of_<name>`).
AGGREGATIONS: Mapping[Aggregation, str] = {
    "count": "sum(events_of_{name})",
    "distinct_users": "count_if(known = first_of_{name})",
}


def build(history: DataFrame, *, first: date, last: date, view: View = ITEM_STATS) -> DataFrame:
    """The rows of the UTC days `first` to `last` from `history.read`'s events, which must reach
    back as far as the longest statistic.
    """
    return history.sparkSession.sql(
        _sql(view.statistics),
        history=history,
        first=first.isoformat(),
        last=last.isoformat(),
        counted=role_of(view.kinds),
        span_days=view.reach_days,
    )


def _sql(statistics: Mapping[str, Statistic]) -> str:
    parts = {
        "events": [
            f"count_if(role & {role_of(each.of)} > 0 AND days_ago <= {each.days})"
            f" AS events_of_{name}"
            for name, each in statistics.items()
        ],
        "firsts": [
            f"min(IF(events_of_{name} > 0, known, NULL))"
            f" OVER (PARTITION BY item_key, day, user_key) AS first_of_{name}"
            for name in statistics
        ],
        "steps": [
            f"{AGGREGATIONS[each.aggregation].format(name=name)} AS {name}"
            for name, each in statistics.items()
        ],
        "columns": [f"sum({name}) OVER so_far AS {name}" for name in statistics],
    }
    return Template(_SQL).substitute({part: ",\n    ".join(sql) for part, sql in parts.items()})
