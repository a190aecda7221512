"""The harness's world: a private home with points armed in it, and a data set of its own."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Self

from jobs import world as private
from jobs.world import remove as remove
from pagoda import dataset, faults
from pagoda.settings import load

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
class World(private.World):
    """The private home and what runs in it."""

    @property
    def faults(self) -> Path:
        """Where points of `pagoda.faults` are armed."""
        return _faults(self.home)

    def up(self, names: Collection[str], *, config: str = "", rewind_s: float = 0) -> Self:
        """Have exactly these servers running; returns the world with their addresses.

        Args:
            rewind_s: of the consumers, see `settings.Stream`.
        """
        return super().up(names, config=config or _SETTINGS.format(rewind_s=rewind_s))


@contextmanager
def world(home: Path, *, jars: Path) -> Iterator[World]:
    """The harness's world in that folder; see `jobs.world.world`."""
    with private.world(home, jars=jars, environment={faults.FOLDER: str(_faults(home))}):
        _faults(home).mkdir(exist_ok=True)
        for armed in _faults(home).iterdir():
            armed.unlink()
        (home / "settings.toml").write_text(_SETTINGS.format(rewind_s=0))
        _save_dataset(home)
        yield World(home=home, settings=load(home=home))


def _faults(home: Path) -> Path:
    return home / "faults"


def _save_dataset(home: Path) -> None:
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
