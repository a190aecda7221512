"""What the peers of `pagoda bench features` are told beside the lake's own files."""

from __future__ import annotations

import polars as pl

from pagoda import lake
from pagoda.schemas import ROBOTS
from pagoda.settings import Settings


def robot_days(settings: Settings) -> pl.DataFrame:
    """user_key, day: what features leave out."""
    rows = lake.scan(settings, ROBOTS).select("user_key", "day").unique()
    return rows.collect(engine="streaming")
