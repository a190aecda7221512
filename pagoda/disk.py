"""What PAGODA_HOME takes on the disk, beside the budget that settings give it."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pagoda.settings import Settings

ALL = "all"
_MB = 2**20


@dataclass(frozen=True, kw_only=True)
class Use:
    """A folder of PAGODA_HOME, or ALL of them together.

    Attributes:
        mb, budget_mb: in units of 2**20 bytes; no budget is None.
    """

    folder: str
    mb: int
    budget_mb: int | None = None

    @property
    def share(self) -> float | None:
        """Of the budget: 1 is all of it."""
        return None if self.budget_mb is None else self.mb / self.budget_mb


def use(settings: Settings) -> list[Use]:
    """Every folder by name, each server's data apart; last, all together."""
    folders = [path for path in settings.home.iterdir() if path.is_dir()]
    data = [path for path in (settings.home / "data").glob("*") if path.is_dir()]
    wanted = [path for path in folders if path.name != "data"] + data
    budgets = settings.disk.folders_gb
    found = []
    for path in sorted(wanted):
        name = str(path.relative_to(settings.home))
        found.append(Use(folder=name, mb=_size_mb(path), budget_mb=_in_mb(budgets.get(name))))
    total = sum(each.mb for each in found)
    return [*found, Use(folder=ALL, mb=total, budget_mb=_in_mb(settings.disk.budget_gb))]


def _in_mb(budget_gb: float | None) -> int | None:
    return None if budget_gb is None else max(round(budget_gb * 1024), 1)


def _size_mb(folder: Path) -> int:
    total = 0
    for where, _folders, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                total += os.lstat(Path(where) / name).st_blocks * 512
    return round(total / _MB)
