"""A PAGODA_HOME of a check's or a bench's own: the user's servers and data are never touched.

What the user's environment says of servers does not count in it, and a folder that was not made
here is refused.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from pagoda.errors import InputError
from pagoda.settings import Settings, load

_KEPT = ("PAGODA_SPARK", "PAGODA_DEBUG")  # of the environment; servers are the home's own


def make(home: Path, *, maker: str, jars: Path, option: str) -> None:
    """Make that folder a private home, if it is not one yet.

    Args:
        maker: who makes it; what another has made is somebody else's too.
        jars: a folder of jars that were fetched already.
        option: by which the user names the folder.
    Raises: InputError if the folder is somebody else's.
    """
    if home.exists() and any(home.iterdir()) and not _mark(home, maker).exists():
        raise InputError(
            f"this folder was not made by {maker}: it is left alone",
            where=str(home),
            next_step=f"Name a folder that is empty or does not exist with {option}.",
        )
    home.mkdir(parents=True, exist_ok=True)
    _mark(home, maker).touch()
    if not (home / "jars").exists():
        (home / "jars").symlink_to(jars.resolve())


@contextmanager
def entered(home: Path, environment: Mapping[str, str] | None = None) -> Iterator[Settings]:
    """Within the block this process, and all that it starts, lives in that home; its settings.

    Args:
        environment: what all of them are told beside.
    """
    before, inside = dict(os.environ), environment_of(home, environment)
    _set(inside)
    try:
        yield load(home=home)
    finally:
        _set(before)


def environment_of(home: Path, environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a process that lives in that home: this one's, without its Pagoda.

    Args:
        environment: what the process is told beside.
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("PAGODA_") or name.startswith(_KEPT)
    }
    return {**kept, **(environment or {}), "PAGODA_HOME": str(home)}


def _set(environment: Mapping[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environment)


def remove(home: Path, *, maker: str) -> None:
    """Delete that folder, if this maker has made it."""
    if _mark(home, maker).exists():
        shutil.rmtree(home)


def _mark(home: Path, maker: str) -> Path:
    return home / f"made-by-{maker.replace(' ', '-')}"
