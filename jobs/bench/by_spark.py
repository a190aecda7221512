"""Histories of user-days by the production job: `history.read`, then `user_day.build`."""

from __future__ import annotations

from contextlib import nullcontext
from datetime import date
from pathlib import Path

import numpy as np
from pyspark.sql import SparkSession

from jobs.batch import history, user_day
from pagoda import dataset, features, spark
from pagoda.settings import Settings
from pagoda.watch import measured


def write(
    settings: Settings, days: list[date], to: Path, *, session: SparkSession | None = None
) -> None:
    """Write the rows of these days as Parquet; in a session of its own unless one is given."""
    midnights = np.array([history.midnight_ms(day) for day in days])
    clicks = dataset.load(settings).click_actions
    given = nullcontext(session) if session else spark.session(settings, "bench features")
    with given as used, measured():
        events = history.read(used, settings, click_actions=clicks, first=days[0], last=days[-1])
        rows = user_day.build(events, days=midnights, spec=features.CANDIDATES)
        rows.write.parquet(to.as_uri())
