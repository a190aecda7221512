"""A PAGODA_HOME of the harness's own: nobody else's servers are ever killed.

It lies beside the journal. What the user's environment says of servers does not count here, and a
folder that the harness did not make is refused.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pagoda import dataset, faults, servers
from pagoda.errors import CheckFailed, InputError
from pagoda.servers import SERVERS
from pagoda.servers.program import PYTHON
from pagoda.settings import PROJECT_ROOT, Settings, load

_MARK = "made-by-check-kill"
_KEPT = ("PAGODA_SPARK", "PAGODA_DEBUG")  # of the environment; servers are the harness's own
_SETTINGS = """\
[kafka]
partitions = 4
[stream]
metrics_port = 0
consumers = 2
rewind_s = {rewind_s}
session_s = 6
landing_trigger_s = 1
[spark]
master = "local[2]"
driver_memory = "1g"
shuffle_partitions = 2
conf = {{ "spark.driver.extraJavaOptions" = "-XX:TieredStopAtLevel=1" }}
# A task that died with the scheduler is found and tried again within a minute, not five.
[airflow.options]
SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT = "30"
SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL = "5"
SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL = "10"
"""


@dataclass(frozen=True, kw_only=True)
class World:
    """The private home and what runs in it."""

    home: Path
    settings: Settings

    @property
    def faults(self) -> Path:
        """Where points of `pagoda.faults` are armed."""
        return self.home / "faults"

    def up(self, names: Collection[str], *, rewind_s: float = 0) -> World:
        """Have exactly these servers running; returns the world with their addresses.

        Args:
            rewind_s: of the consumers, see `settings.Stream`.
        """
        _configure(self.home, rewind_s)
        running = {each.name for each in servers.status(self.settings) if each.pids}
        for name in [each.name for each in reversed(SERVERS) if each.name in running - set(names)]:
            servers.down(self.settings, [name])
        return World(home=self.home, settings=servers.up(load(home=self.home), names))

    def down(self) -> None:
        """Stop everything."""
        servers.down(self.settings)

    def start_job(self, *arguments: str) -> subprocess.Popen[bytes]:
        """`python -m ARGUMENTS` on this home, in a process group of its own."""
        with (self.settings.logs / f"{arguments[0]}.log").open("ab") as log:
            return subprocess.Popen(
                [PYTHON, "-m", *arguments],
                cwd=PROJECT_ROOT,
                env={**os.environ, "PAGODA_HOME": str(self.home)},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def run_job(self, *arguments: str) -> None:
        """The same to its end. Raises: CheckFailed with the log's end if it fails."""
        job = self.start_job(*arguments)
        if job.wait():
            log = self.settings.logs / f"{arguments[0]}.log"
            raise CheckFailed(
                f"{' '.join(arguments)} failed", where=str(log), found=log.read_text()[-1500:]
            )


@contextmanager
def world(home: Path, *, jars: Path) -> Iterator[World]:
    """The world in that folder, made if it is not there; its servers end with the block.

    Args:
        jars: a folder of jars that were fetched already.
    Raises: InputError if the folder is somebody else's.
    """
    _make(home, jars)
    before = dict(os.environ)
    for name in list(os.environ):
        if name.startswith("PAGODA_") and not name.startswith(_KEPT):
            del os.environ[name]
    os.environ[faults.FOLDER] = str(home / "faults")
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
            "this folder was not made by `pagoda check kill`: its servers are not killed",
            where=str(home),
            next_step="Name a folder that is empty or does not exist with --home.",
        )
    home.mkdir(parents=True, exist_ok=True)
    (home / _MARK).touch()
    (home / "faults").mkdir(exist_ok=True)
    for armed in (home / "faults").iterdir():
        armed.unlink()
    _configure(home, rewind_s=0)
    if not (home / "jars").exists():
        (home / "jars").symlink_to(jars.resolve())
    today = datetime.now(UTC).date()
    dataset.save(
        load(home=home),
        dataset.Dataset(
            name="made up by check kill",
            first_day=today - timedelta(days=4),
            last_day=today,
            validation_from=today,
            test_from=today,
            query_protocol="made up",
            fingerprint="kill",
        ),
    )


def _configure(home: Path, rewind_s: float) -> None:
    (home / "settings.toml").write_text(_SETTINGS.format(rewind_s=rewind_s))
