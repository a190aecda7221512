"""robots: the days on which users did what no person does, and by which rule.

    lake.events, lake.searches -> robots: user_key, day, rule, value, limit

Rules are data: what is measured of a user's UTC day, and the setting that it may not exceed. Such
user-days stay in the lake and are left out of features and of training lines, from everything that
is known of that day: so a robot's rows may change when its day ends or late events come, and
nobody else's do. An event that was sent twice counts once.

Buys count as events, not as moments: a basket of two hundred lines is one act, whether its lines
share a time or were written one after the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as sf

from jobs.batch import history
from pagoda import dataset, lake
from pagoda.schemas import EVENTS, ROBOTS, SEARCHES
from pagoda.settings import Robots, Settings


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A user-day breaks it if `value` exceeds the setting `robots.<name>`.

    Attributes:
        value: SQL over a user-day's measures and the settings in braces; null breaks nothing.
    """

    name: str
    value: str


RULES = (
    Rule(name="events_per_day", value="events"),
    Rule(name="events_per_item", value="events_of_one_item"),
    Rule(name="acts_per_hour", value="acts_of_one_hour"),
    Rule(name="quick_acts", value="quick_acts"),
    Rule(
        name="clicked_share",
        value="CASE WHEN clicked_items >= {clicked_items} THEN clicked_items / shown_items END",
    ),
)

# One shuffle, by user: all that follows groups by the user and something else.
_MEASURED = """
WITH did AS (
  SELECT DISTINCT * FROM (
    SELECT /*+ REPARTITION(user_key) */ user_key, CAST(ts AS DATE) AS day, unix_millis(ts) AS ms,
      event_key, item_key, action
    FROM {events}
  )
),
moments AS (
  SELECT user_key, day, ms FROM did WHERE action IN ('click', 'collect', 'cart')
  UNION
  SELECT /*+ REPARTITION(user_key) */ user_key, CAST(ts AS DATE), unix_millis(ts) FROM {searches}
),
paced AS (
  SELECT user_key, day, ms DIV 3600000 AS hour,
    ms - lag(ms) OVER (PARTITION BY user_key, day ORDER BY ms) < {quick_ms} AS quick
  FROM moments
),
hours AS (
  SELECT user_key, day, count(*) AS acts, count_if(quick) AS quick
  FROM paced GROUP BY user_key, day, hour
),
acts AS (
  SELECT user_key, day, max(acts) AS acts_of_one_hour, sum(quick) AS quick_acts
  FROM hours GROUP BY user_key, day
),
items AS (
  SELECT user_key, day, count_if(action <> 'impression') AS events,
    count_if(action = 'impression') > 0 AS shown, count_if(action = 'click') > 0 AS clicked
  FROM did GROUP BY user_key, day, item_key
),
events AS (
  SELECT user_key, day, sum(events) AS events, max(events) AS events_of_one_item,
    count_if(shown) AS shown_items, count_if(shown AND clicked) AS clicked_items
  FROM items GROUP BY user_key, day
)
SELECT * FROM events FULL OUTER JOIN acts USING (user_key, day)
"""


def build(events: DataFrame, searches: DataFrame, limits: Robots) -> DataFrame:
    """The rows of `robots` for the days of these events and searches, which must be whole days."""
    measured = events.sparkSession.sql(
        _MEASURED, events=events, searches=searches, quick_ms=limits.quick_ms
    )
    settings = limits.model_dump()
    verdicts = sf.array(
        *(
            sf.struct(
                sf.lit(rule.name).alias("rule"),
                sf.expr(rule.value.format(**settings)).cast("double").alias("value"),
                sf.lit(settings[rule.name]).cast("double").alias("limit"),
            )
            for rule in RULES
        )
    )
    return measured.select("user_key", "day", sf.inline(verdicts)).where("value > limit")


def judge(spark: SparkSession, settings: Settings, *, first: date, last: date) -> None:
    """Judge the UTC days `first` to `last` anew, in one commit.

    Times that were made up to keep an order say nothing about pace: nobody is a robot then.
    """
    events, searches = (
        history.days(spark.table(lake.spark_name(settings, table)), first, last)
        for table in (EVENTS, SEARCHES)
    )
    verdicts = build(events, searches, settings.robots)
    if dataset.load(settings).times == "order":
        verdicts = verdicts.limit(0)
    table = lake.spark_name(settings, ROBOTS)
    judged = sf.col("day").between(sf.lit(first), sf.lit(last))
    verdicts.select(*ROBOTS.schema.names).writeTo(table).overwrite(judged)


def user_days(spark: SparkSession, settings: Settings, *, first: date, last: date) -> int:
    """How many user-days are a robot's."""
    verdicts = spark.table(lake.spark_name(settings, ROBOTS))
    judged = verdicts.where(sf.col("day").between(sf.lit(first), sf.lit(last)))
    return judged.select("user_key", "day").distinct().count()


def by_rule(spark: SparkSession, settings: Settings, *, first: date, last: date) -> dict[str, int]:
    """How many user-days break each rule; one may break several."""
    verdicts = spark.table(lake.spark_name(settings, ROBOTS))
    judged = verdicts.where(sf.col("day").between(sf.lit(first), sf.lit(last)))
    counts = {row["rule"]: row["count"] for row in judged.groupBy("rule").count().collect()}
    return {rule.name: counts.get(rule.name, 0) for rule in RULES}
