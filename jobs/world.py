"""A private home (`pagoda.private_home`) with servers and jobs of its own running in it."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from pagoda import private_home, servers
from pagoda.console import people
from pagoda.errors import CheckFailed
from pagoda.servers import SERVERS
from pagoda.servers.program import PYTHON
from pagoda.settings import PROJECT_ROOT, Settings, load

_MAKER = "this command"


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
    private_home.make(home, maker=_MAKER, jars=jars, option="--home")
    with private_home.entered(home, environment) as settings:
        made = World(home=home, settings=settings)
        try:
            yield made
        finally:
            made.down()


def remove(home: Path) -> None:
    """Delete a world's folder, if it is one."""
    private_home.remove(home, maker=_MAKER)


@contextmanager
def passing_world(settings: Settings, *, keep: bool) -> Iterator[World]:
    """A world in a new folder, which is deleted at the end; with `keep` it is named instead."""
    home = Path(tempfile.mkdtemp(prefix="pagoda-bench-"))
    try:
        with world(home, jars=settings.jars) as made:
            yield made
    finally:
        if keep:
            people.print(f"left behind: {home}", highlight=False)
        else:
            remove(home)
