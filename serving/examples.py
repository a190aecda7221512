"""A few recently active users for the search page, from the lake's events."""

from __future__ import annotations

import threading
import time
from collections import Counter
from datetime import UTC, datetime, timedelta

import numpy as np
import structlog

from pagoda.lake import open_table
from pagoda.schemas import EVENTS
from pagoda.settings import Settings
from pagoda.windows import WindowSpec
from serving.schemas import ExampleUser

log = structlog.get_logger()
_FRESH_S = 300
_SAMPLE_ROWS = 50_000


class ExampleUsers:
    """Looks them up at most every five minutes; without a lake there are none."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._users: list[ExampleUser] = []
        self._stale_at = 0.0

    def get(self) -> list[ExampleUser]:
        """Users from the most to the least active in the windows' recent days."""
        if self._settings.serving.example_users == 0:
            return []
        with self._lock:
            if time.monotonic() >= self._stale_at:
                self._stale_at = time.monotonic() + _FRESH_S
                try:
                    self._users = _active_users(self._settings)
                except Exception as error:  # a page without suggestions still searches
                    log.warning("no_example_users", reason=repr(error))
            return self._users


def _active_users(settings: Settings) -> list[ExampleUser]:
    since = datetime.now(UTC) - timedelta(days=WindowSpec().recent_days)
    users = (
        open_table(settings, EVENTS)
        .scan(
            row_filter=f"ts >= '{since.isoformat()}'",
            selected_fields=("user_id",),
            limit=_SAMPLE_ROWS,
        )
        .to_arrow()["user_id"]
        .to_pylist()
    )
    # Ties by name: the same page for the same lake.
    ranked = sorted(Counter(users).items(), key=lambda each: (-each[1], each[0]))
    count = min(settings.serving.example_users, len(ranked))
    evenly = np.linspace(0, len(ranked) - 1, count).round().astype(int)
    return [ExampleUser(user_id=ranked[at][0], events=ranked[at][1]) for at in evenly]
