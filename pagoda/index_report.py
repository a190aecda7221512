"""What the check of an index found, kept as `index.json` beside the bundle's own files."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from pagoda import whole
from pagoda.settings import Settings

FILE = "index.json"


class Case(BaseModel):
    """Searches under one filter, judged beside exact search.

    Attributes:
        share: of the catalogue's items that satisfy the filter.
        recall: mean share of the exact top k that was found (min(k, matches) of them).
        violations: results that do not satisfy the filter.
        p50_ms, p98_ms: of one search from the checking process, queries in turn.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    filter: str
    share: float
    matches: int
    recall: float
    violations: int
    p50_ms: float
    p98_ms: float


class IndexReport(BaseModel):
    """One check of one collection."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bundle: str
    collection: str
    checked_at: datetime
    rows: int
    index_type: str
    index_params: dict[str, int]
    k: int
    queries: int
    min_recall: float
    passed: bool
    cases: tuple[Case, ...]

    @property
    def worst_recall(self) -> float:
        """The lowest recall of any case."""
        return min(case.recall for case in self.cases)


def path(settings: Settings, bundle: str) -> Path:
    """Where the report of a bundle's index lies."""
    return settings.bundles / bundle / FILE


def save(settings: Settings, report: IndexReport) -> None:
    """Write it whole or not at all."""
    whole.write(path(settings, report.bundle), report.model_dump_json(indent=2))


def load(settings: Settings, bundle: str) -> IndexReport | None:
    """The newest report of a bundle's index, or None if it was never checked."""
    try:
        return IndexReport.model_validate_json(path(settings, bundle).read_text())
    except FileNotFoundError:
        return None
