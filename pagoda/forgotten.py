"""Who is forgotten: `$PAGODA_HOME/forgotten.json`, keys and moments, no ids.

    {user key: epoch milliseconds; what the user did before is never taken in again}

`pagoda forget` writes it. Whoever takes behaviour in reads it first, inside `consulted`: Kafka
keeps records for days and a file can be imported again, and neither may bring a user back. What a
user does afterwards counts: somebody who comes back begins anew.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import orjson
import pyarrow as pa
from filelock import FileLock

from pagoda import whole
from pagoda.errors import Conflict
from pagoda.ids import key_of
from pagoda.messages import FUTURE_TOLERANCE_MS
from pagoda.settings import Settings

# A user id as JSON has it, also in a record that was cut off, and any word of a line.
_JSON_ID = re.compile(rb'"user_id"\s*:\s*("(?:[^"\\]|\\.)*")')
_WORD = re.compile(rb"[^\s\"',;|\t{}\[\]:]+")


@dataclass(frozen=True, kw_only=True)
class Forgotten:
    """User key to the moment, epoch milliseconds, before which nothing is taken in."""

    until_ms: Mapping[int, int]

    def __bool__(self) -> bool:
        return bool(self.until_ms)

    def covers(self, user_key: int, ts_ms: int) -> bool:
        """Whether what that user did at that time is forgotten."""
        return ts_ms < self.until_ms.get(user_key, 0)

    def without(self, rows: pa.Table, time: str) -> pa.Table:
        """The rows that are not forgotten, by `user_key` (if there is one) and that timestamp."""
        if not self or not len(rows) or "user_key" not in rows.column_names:
            return rows
        keys = rows["user_key"].to_numpy()
        known = np.fromiter(self.until_ms, np.int64)
        kept = np.ones(len(rows), dtype=bool)
        for at in np.flatnonzero(np.isin(keys, known)).tolist():
            moment = rows[time][at].as_py()
            kept[at] = not self.covers(int(keys[at]), round(moment.timestamp() * 1000))
        return rows.filter(pa.array(kept))

    def names(self, raw: bytes) -> bool:
        """Whether bytes that could not be read name a user who was ever forgotten.

        Only hashes are known here, so every word and every JSON `user_id` is hashed and compared.
        """
        if not self:
            return False
        words = {word.decode(errors="replace") for word in _WORD.findall(raw)}
        for quoted in _JSON_ID.findall(raw):
            try:
                words.add(orjson.loads(quoted))
            except orjson.JSONDecodeError:
                continue
        return any(key_of("user", word) in self.until_ms for word in words)


NOBODY = Forgotten(until_ms={})


def path(settings: Settings) -> Path:
    """Where the list lies."""
    return settings.home / "forgotten.json"


@contextmanager
def consulted(settings: Settings) -> Iterator[Forgotten]:
    """The list, for as long as it takes to write down what it lets through.

    `add` returns when everybody who works by an older list has left this block.
    """
    with _current(path(settings)) as file:
        yield _read(file)


def add(settings: Settings, user_key: int, *, now_ms: int) -> None:
    """Forget what that user did up to now, and wait until nobody writes by an older list.

    Events may lie some minutes ahead of the clock (`messages.FUTURE_TOLERANCE_MS`): they count
    as before.
    """
    target = path(settings)
    before = target.with_suffix(".before")  # the list that others may still hold
    with FileLock(settings.run / "forgotten.lock"):
        if before.exists():  # a run that was killed while it waited
            _wait_for_readers(before)
        with _current(target) as file:
            known = _read(file).until_ms
        until = {**known, user_key: now_ms + FUTURE_TOLERANCE_MS}
        os.link(target, before)
        content = orjson.dumps({str(key): until[key] for key in sorted(until)})
        whole.write(target, content, durable=True)
        _wait_for_readers(before)


@contextmanager
def copying(settings: Settings) -> Iterator[None]:
    """Held by who copies behaviour out of the lake into files of its own: training, evaluation."""
    with _copies_lock(settings).open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        yield


@contextmanager
def nobody_copies(settings: Settings) -> Iterator[None]:
    """Keep `copying` out. Raises: Conflict if somebody is at it."""
    with _copies_lock(settings).open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Conflict(
                "a training or an evaluation is under way",
                where=str(settings.scratch),
                next_step="Wait for its end, or stop it.",
            ) from None
        yield


def _copies_lock(settings: Settings) -> Path:
    return settings.run / "copies.lock"


@contextmanager
def _current(target: Path) -> Iterator[BinaryIO]:
    """The file of that name, open and share-locked; made empty if there is none."""
    while True:
        with os.fdopen(os.open(target, os.O_RDONLY | os.O_CREAT, 0o644), "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            if os.fstat(file.fileno()).st_ino == target.stat().st_ino:
                yield file
                return
        # Replaced between opening and locking.


def _read(file: BinaryIO) -> Forgotten:
    said = orjson.loads(file.read() or b"{}")
    return Forgotten(until_ms={int(key): int(until) for key, until in said.items()})


def _wait_for_readers(superseded: Path) -> None:
    with superseded.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
    superseded.unlink()
