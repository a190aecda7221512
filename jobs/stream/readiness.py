"""`$PAGODA_HOME/run/<name>.ready`: a running job says that it works, and how far it is."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

import orjson

from pagoda import whole
from pagoda.settings import Settings

Positions = Mapping[str, Mapping[int, int]]
_REFRESH_S = 1.0


class ReadyFile:
    """Present only while the job is really consuming; refreshed at most once a second."""

    def __init__(self, settings: Settings, name: str) -> None:
        """Remove what an earlier process of that name left."""
        self._path = settings.run / f"{name}.ready"
        self._written_at = 0.0
        self._last: dict[str, Any] | None = None
        self.remove()

    def write(self, positions: Positions) -> None:
        """Say that everything before `positions` (topic, partition, offset) is done."""
        said = {topic: {str(p): at for p, at in each.items()} for topic, each in positions.items()}
        due = time.monotonic() - self._written_at >= _REFRESH_S
        if said == self._last and not due:
            return
        content = {"pid": os.getpid(), "time_ms": time.time_ns() // 1_000_000, "positions": said}
        whole.write(self._path, orjson.dumps(content))
        self._written_at, self._last = time.monotonic(), said

    def remove(self) -> None:
        """The job does not consume (any more)."""
        self._path.unlink(missing_ok=True)


def read(settings: Settings, name: str) -> dict[str, dict[int, int]] | None:
    """The positions a running job last said, or None if it is not ready."""
    try:
        said = orjson.loads((settings.run / f"{name}.ready").read_bytes())
    except FileNotFoundError:
        return None
    return {
        topic: {int(partition): offset for partition, offset in each.items()}
        for topic, each in said["positions"].items()
    }
