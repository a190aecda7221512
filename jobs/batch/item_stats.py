"""item_stats: counts of what users did with an item over the days before D.

In SQL, because a popular item's history has no bound: every step is one sort or aggregation that
Spark can spill to disk. Versions are as in `jobs.batch.rows`: what was known before D goes into
the base version, and each later moment at which more became known makes one more.
"""

from __future__ import annotations

from datetime import date

from pyspark.sql import DataFrame

from jobs.batch.history import BUY, CLICK

_SQL = """
WITH counted AS (
  SELECT /*+ REPARTITION(item_key) */ item_key, user_key, ingested,
    CAST(timestamp_millis(ts) AS DATE) AS happened,
    role & {click} > 0 AS click,
    role & {buy} > 0 AS buy
  FROM {history}
  WHERE role & {click_or_buy} > 0
    AND timestamp_millis(ts) >= date_sub(DATE {first}, 30) AND timestamp_millis(ts) < DATE {last}
),
seen AS (  -- an event once for every day whose row holds it
  SELECT *, unix_millis(CAST(day AS TIMESTAMP)) AS midnight, day <= date_add(happened, 7) AS week
  FROM counted
  LATERAL VIEW explode(sequence(
    greatest(date_add(happened, 1), DATE {first}),
    least(date_add(happened, 30), DATE {last})
  )) AS day
),
by_user AS (
  SELECT item_key, day, user_key,
    greatest(ingested, midnight - 1) AS known,  -- all that was known before the day: one version
    count_if(click AND week) AS clicks_7d,
    count_if(click) AS clicks_30d,
    count_if(buy AND week) AS buys_7d,
    count_if(buy) AS buys_30d,
    max(ingested) AS created
  FROM seen GROUP BY item_key, day, user_key, known
),
numbered AS (
  SELECT *, row_number() OVER (PARTITION BY item_key, day, user_key ORDER BY known) AS nth
  FROM by_user
),
steps AS (
  SELECT item_key, day, known, sum(clicks_7d) AS clicks_7d, sum(clicks_30d) AS clicks_30d,
    sum(buys_7d) AS buys_7d, sum(buys_30d) AS buys_30d, count_if(nth = 1) AS users_30d,
    max(created) AS created
  FROM numbered GROUP BY item_key, day, known
)
SELECT item_key,
  CAST(day AS TIMESTAMP) AS event_timestamp,
  timestamp_millis(max(created) OVER so_far) AS created,
  day,
  sum(clicks_7d) OVER so_far AS clicks_7d,
  sum(clicks_30d) OVER so_far AS clicks_30d,
  sum(buys_7d) OVER so_far AS buys_7d,
  sum(buys_30d) OVER so_far AS buys_30d,
  sum(users_30d) OVER so_far AS users_30d
FROM steps
WINDOW so_far AS (
  PARTITION BY item_key, day ORDER BY known ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
)
"""


def build(history: DataFrame, *, first: date, last: date) -> DataFrame:
    """The rows of the UTC days `first` to `last` from `history.read`'s events, which must reach
    back 30 days before the first.
    """
    return history.sparkSession.sql(
        _SQL,
        history=history,
        first=first.isoformat(),
        last=last.isoformat(),
        click=CLICK,
        buy=BUY,
        click_or_buy=CLICK | BUY,
    )
