"""Which actions count as clicks: the data set says, also one imported while a job runs."""

from __future__ import annotations

import structlog

from pagoda import dataset
from pagoda.errors import NothingToDo
from pagoda.settings import Settings

log = structlog.get_logger(__name__)


class ClickActions:
    """Which actions count as clicks: the data set says, also one imported while we run."""

    def __init__(self, settings: Settings) -> None:
        """Without a data set only `click` counts."""
        self._settings = settings
        self._stamp: float | None = None
        self.current: frozenset[str] = frozenset({"click"})
        self.refresh()

    def __str__(self) -> str:
        """What records are read as: see `source.LastWords`."""
        return " ".join(sorted(self.current))

    def refresh(self) -> bool:
        """Read the record again if it changed; True if the actions did."""
        path = dataset.path(self._settings)
        stamp = path.stat().st_mtime if path.exists() else None
        if stamp == self._stamp:
            return False
        self._stamp = stamp
        try:
            found = frozenset(dataset.load(self._settings).click_actions)
        except NothingToDo:
            found = frozenset({"click"})
        changed, self.current = found != self.current, found
        log.info("click_actions", actions=sorted(found))
        return changed
