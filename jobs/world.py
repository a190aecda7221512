"""A PAGODA_HOME of a check's or a bench's own: the user's servers and data are never touched.

What the user's environment says of servers does not count in it, and a folder that was not made
here is refused.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from pagoda import servers
from pagoda.errors import CheckFailed, InputError
from pagoda.servers import SERVERS
from pagoda.servers.program import PYTHON
from pagoda.settings import PROJECT_ROOT, Settings, load

_MARK = "made-by-pagoda-for-itself"
_KEPT = ("PAGODA_SPARK", "PAGODA_DEBUG")  # of the environment; servers are the world's own


@dataclass(frozen=True, kw_only=True)
class World:
    """The private home and what runs in it."""

    home: Path
    settings: Settings

    def up(self, names: Collection[str], *, config: str) -> Self:
        """Have exactly these servers running; returns the world with their addresses.

        Args:
            config: what `settings.toml` says from now on.
        """
        (self.home / "settings.toml").write_text(config)
        running = {each.name for each in servers.status(self.settings) if each.pids}
        for name in [each.name for each in reversed(SERVERS) if each.name in running - set(names)]:
            servers.down(self.settings, [name])
        return replace(self, settings=servers.up(load(home=self.home), names))

    def down(self) -> None:
        """Stop everything."""
        servers.down(self.settings)

    def start_job(
        self, *arguments: str, environment: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """`python -m ARGUMENTS` on this home, in a process group of its own."""
        with self.log(arguments[0]).open("ab") as log:
            return subprocess.Popen(
                [PYTHON, "-m", *arguments],
                cwd=PROJECT_ROOT,
                env={**os.environ, **(environment or {}), "PAGODA_HOME": str(self.home)},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def run_job(self, *arguments: str) -> None:
        """The same to its end. Raises: CheckFailed with the log's end if it fails."""
        job = self.start_job(*arguments)
        if job.wait():
            log = self.log(arguments[0])
            raise CheckFailed(
                f"{' '.join(arguments)} failed", where=str(log), found=log.read_text()[-1500:]
            )

    def log(self, module: str) -> Path:
        """What a job says."""
        return self.settings.logs / f"{module}.log"


@contextmanager
def world(
    home: Path, *, jars: Path, environment: Mapping[str, str] | None = None
) -> Iterator[World]:
    """The world in that folder, made if it is not there; its servers end with the block.

    Args:
        jars: a folder of jars that were fetched already.
        environment: what its jobs and servers are told beside.
    Raises: InputError if the folder is somebody else's.
    """
    _make(home, jars)
    before = dict(os.environ)
    for name in list(os.environ):
        if name.startswith("PAGODA_") and not name.startswith(_KEPT):
            del os.environ[name]
    os.environ.update(environment or {})
    os.environ["PAGODA_HOME"] = str(home)
    made = World(home=home, settings=load(home=home))
    try:
        yield made
    finally:
        try:
            made.down()
        finally:
            os.environ.clear()
            os.environ.update(before)


def remove(home: Path) -> None:
    """Delete a world's folder, if it is one."""
    if (home / _MARK).exists():
        shutil.rmtree(home)


def _make(home: Path, jars: Path) -> None:
    if home.exists() and any(home.iterdir()) and not (home / _MARK).exists():
        raise InputError(
            "this folder was not made by this command: its servers are not touched",
            where=str(home),
            next_step="Name a folder that is empty or does not exist with --home.",
        )
    home.mkdir(parents=True, exist_ok=True)
    (home / _MARK).touch()
    if not (home / "jars").exists():
        (home / "jars").symlink_to(jars.resolve())
