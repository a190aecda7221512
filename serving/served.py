"""A sample of what was served, with the feature rows as read, into the lake's table `served`.

`pagoda check parity --served` holds law 4 against it, and training can use it. Requests only put
into a bounded buffer; a thread appends it to the lake now and then. A full buffer or a lake that
refuses loses samples and counts them, it never slows or fails a search.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson
import pyarrow as pa
import structlog

from pagoda.forgotten import consulted
from pagoda.lake import open_table
from pagoda.online import StampedRow
from pagoda.online_layout import plain
from pagoda.schemas import SERVED
from pagoda.settings import Settings

log = structlog.get_logger()
_CAPACITY = 5_000


@dataclass(frozen=True, kw_only=True)
class Served:
    """One request; `rows` as the online store gave them, before the cut, None where invalid."""

    search_id: str
    user_key: int
    at_ms: int
    bundle: str
    rows: Mapping[str, StampedRow | None]

    def features(self) -> dict[str, dict[str, Any] | None]:
        """View to its columns and `valid_from_ms`: a later reader must know which batch it was."""
        return {
            view: None if row is None else {"valid_from_ms": row.valid_from_ms, **plain(row.values)}
            for view, row in self.rows.items()
        }


class ServedLog:
    """Takes samples, writes them in the background."""

    def __init__(self, settings: Settings) -> None:
        """Start the thread; the lake need not answer yet."""
        self._settings = settings
        self._share = settings.serving.served_sample
        self._buffer: list[Served] = []
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self.written = 0
        self.lost = 0
        self._thread = threading.Thread(target=self._run, name="served-log", daemon=True)
        self._thread.start()

    def offer(self, served: Served) -> None:
        """Keep it with the chance that settings give. Never blocks on the lake."""
        if random.random() >= self._share:  # noqa: S311 - a sample, no secret
            return
        with self._lock:
            if len(self._buffer) < _CAPACITY:
                self._buffer.append(served)
            else:
                self.lost += 1

    def close(self) -> None:
        """Write what is left and stop."""
        self._closing.set()
        self._thread.join(timeout=15)

    def flush(self) -> None:
        """Append the buffer to the lake."""
        with self._lock:
            batch, self._buffer = self._buffer, []
        if not batch:
            return
        try:
            with consulted(self._settings) as forgotten:
                kept = [each for each in batch if not forgotten.covers(each.user_key, each.at_ms)]
                if kept:
                    open_table(self._settings, SERVED).append(_table(kept))
            self.written += len(kept)
        except Exception as error:  # any fault of the lake costs samples, not searches
            self.lost += len(batch)
            log.error("served_not_written", samples=len(batch), reason=f"{error!r}")

    def _run(self) -> None:
        while not self._closing.wait(self._settings.serving.served_flush_s):
            self.flush()
        self.flush()


def _table(batch: list[Served]) -> pa.Table:
    return pa.Table.from_pylist(
        [
            {
                "search_id": each.search_id,
                "user_key": each.user_key,
                "t": datetime.fromtimestamp(each.at_ms / 1000, UTC),
                "bundle": each.bundle,
                "features": orjson.dumps(each.features()).decode(),
            }
            for each in batch
        ],
        schema=SERVED.schema,
    )
