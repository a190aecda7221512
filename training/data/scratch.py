"""Folders for what a training has fetched and encoded, so that a stopped one goes on with it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from pagoda.errors import Conflict
from pagoda.settings import Settings


@contextmanager
def held(settings: Settings, name: str, *, wait: bool = False) -> Iterator[Path]:
    """The folder of that name, for this process alone; what it holds stays.

    Two processes in one would map files that the other writes anew.

    Args:
        wait: until no other is in it.
    Raises: Conflict if another is in it and is not waited for.
    """
    folder = settings.scratch / name
    lock = FileLock(settings.scratch / f"{name}.lock")
    try:
        lock.acquire(timeout=-1 if wait else 0)
    except Timeout as error:
        raise Conflict(
            "another process trains on the same rows",
            where=str(folder),
            next_step="Wait for it, then ask again: what it has finished is not done twice.",
        ) from error
    try:
        yield folder
    finally:
        lock.release()
