"""item_profile: the catalogue row of an item, valid from its `updated_at` on."""

from __future__ import annotations

from pyspark.sql import DataFrame
from pyspark.sql import functions as sf

from pagoda.features import ITEM_PROFILE


def build(items: DataFrame) -> DataFrame:
    """One row for every row of the catalogue; its day is the day of its update."""
    return items.select(
        "item_key",
        sf.col("updated_at").alias("event_timestamp"),
        sf.col("updated_at").alias("created"),
        sf.to_date("updated_at").alias("day"),
        *ITEM_PROFILE.columns,
    )
