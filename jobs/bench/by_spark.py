"""Histories of user-days by the production job: `history.read`, then `user_day.build`."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import numpy as np

from jobs.batch import history, user_day
from pagoda import dataset, features, spark
from pagoda.contest import measured
from pagoda.settings import Settings
from pagoda.windows import DAY_MS

_EPOCH = date(1970, 1, 1)


def write(settings: Settings, days: list[date], to: Path) -> None:
    """Write the rows of these days as Parquet."""
    midnights = np.array([(day - _EPOCH).days * DAY_MS for day in days])
    clicks = dataset.load(settings).click_actions
    with spark.session(settings, "bench features") as session, measured():
        events = history.read(session, settings, click_actions=clicks, first=days[0], last=days[-1])
        rows = user_day.build(events, days=midnights, spec=features.CANDIDATES)
        rows.write.parquet(to.as_uri())
