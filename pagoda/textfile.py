"""Metrics of work that ends: a file for Prometheus in `$PAGODA_HOME/run/metrics`.

A batch job has no port to be asked at. Each writes `<name>.prom` whole or not at all; serving's
`/metrics` shows them all, and a node exporter may read the folder instead
(`--collector.textfile.directory`). Metric names begin with what is unique to their file: a name
that stood in two files would be no valid exposition.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from pagoda.settings import Settings

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

_SAMPLE = re.compile(r"^([a-zA-Z_:][^ {]*(?:\{.*\})?) (\S+)$")


def folder(settings: Settings) -> Path:
    """Where the files lie."""
    return settings.run / "metrics"


def write(settings: Settings, name: str, registry: CollectorRegistry) -> None:
    """Put the registry's metrics in place of the file's."""
    from prometheus_client import write_to_textfile

    folder(settings).mkdir(exist_ok=True)
    write_to_textfile(str(folder(settings) / f"{name}.prom"), registry)


def texts(settings: Settings) -> bytes:
    """All files behind each other, as Prometheus reads them."""
    return b"".join(file.read_bytes() for file in sorted(folder(settings).glob("*.prom")))


def values(settings: Settings, name: str, *, since: float) -> dict[str, float]:
    """Sample (name and labels as written) to value, of a file no older than `since`; else empty.

    Airflow's environment, which has no Prometheus client, reads a check's result by this.
    """
    file = folder(settings) / f"{name}.prom"
    if not file.exists() or file.stat().st_mtime < since:
        return {}
    found = (_SAMPLE.match(line) for line in file.read_text().splitlines())
    return {sample[1]: float(sample[2]) for sample in found if sample}
