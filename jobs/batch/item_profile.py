"""item_profile: the catalogue row of an item, valid from its `updated_at` on."""

from __future__ import annotations

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as sf

from pagoda import lake
from pagoda.features import ITEM_PROFILE
from pagoda.schemas import ITEMS
from pagoda.settings import Settings


def build(items: DataFrame) -> DataFrame:
    """One row for every row of the catalogue; its day is the day of its update."""
    return items.select(
        "item_key",
        sf.col("updated_at").alias("event_timestamp"),
        sf.col("updated_at").alias("created"),
        sf.to_date("updated_at").alias("day"),
        *ITEM_PROFILE.columns,
    )


def write(session: SparkSession, settings: Settings) -> int:
    """Add profiles that are new or corrected; earlier ones stay, so that they can be read as of
    an earlier moment.

    Returns: how many rows were added or corrected.
    """
    name = lake.spark_name(settings, ITEM_PROFILE.table)
    there = session.table(name)
    items = session.table(lake.spark_name(settings, ITEMS))
    profiles = build(items).withColumn("definition", sf.lit(ITEM_PROFILE.definition))
    known = there.limit(0).unionByName(profiles, allowMissingColumns=True)
    changed = known.subtract(there).localCheckpoint()
    count = changed.count()
    if count:
        changed.createOrReplaceTempView("changed_profiles")
        session.sql(
            f"""
            MERGE INTO {name} old USING changed_profiles new
            ON old.item_key = new.item_key AND old.event_timestamp = new.event_timestamp
            WHEN MATCHED THEN UPDATE SET *
            WHEN NOT MATCHED THEN INSERT *
            """
        )
        session.catalog.dropTempView("changed_profiles")
    return count
