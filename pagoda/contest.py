"""Contestants of a bench: in processes of their own, in a home of the bench's own, held equal.

Each run of a contestant is a process that starts, says what it needed to start, does its work
under `pagoda.watch` and ends, so that nobody's memory, cache or warm code counts for another. The
home is a PAGODA_HOME that the bench makes: the user's lake is neither read nor written.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import orjson

from pagoda import lake, private_home
from pagoda.errors import CheckFailed, MachineError
from pagoda.schemas import Table
from pagoda.settings import PROJECT_ROOT, Settings
from pagoda.watch import SAID, Cost

MEMORY_LIMIT = "6GB"  # of DuckDB
_MAKER = "a bench"


def require_peers() -> None:
    """Raises: MachineError if the peers are not installed."""
    if find_spec("duckdb") is None:
        raise MachineError(
            "DuckDB is not installed, a peer of this bench",
            next_step="Install Pagoda with its extra `dev`, or run `make setup`.",
        )


@contextmanager
def own_home(settings: Settings, *, keep: Path | None, need_gb: float) -> Iterator[Settings]:
    """A home for a bench, with the jars of `settings`; deleted at the end.

    Args:
        keep: this folder instead, which stays: what a run has prepared there, the next one finds.
        need_gb: what the bench will write at most, 10^9 bytes.
    Raises: MachineError if the disk has less, InputError if `keep` is somebody else's folder.
    """
    home = (keep or Path(tempfile.mkdtemp(prefix="bench-", dir=settings.scratch))).absolute()
    private_home.make(home, maker=_MAKER, jars=settings.jars, option="--keep")
    try:
        if (free := shutil.disk_usage(home).free / 1e9) < need_gb:
            raise MachineError(
                "too little disk for this bench",
                where=str(home),
                expected=f"{need_gb:.1f} GB free",
                found=f"{free:.1f} GB",
                next_step="Ask for smaller sizes, or name a folder elsewhere with --keep.",
            )
        with private_home.entered(home, _spark_as(settings)) as own:
            yield own
    finally:
        if keep is None:
            private_home.remove(home, maker=_MAKER)


def run_alone(
    settings: Settings, module: str, *arguments: str, python: Path | str = sys.executable
) -> tuple[Cost, dict[str, Any]]:
    """`python -m MODULE ARGUMENTS` on that home, to its end.

    Args:
        python: another environment's, in which the module can be imported.

    Returns: what `measured` took there, and what it said beside.
    Raises: CheckFailed with the end of its log if it fails.
    """
    log = settings.logs / f"{module}.log"
    with log.open("ab") as errors:
        done = subprocess.run(
            [python, "-m", module, *arguments],
            cwd=PROJECT_ROOT,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    said = [line for line in done.stdout.splitlines() if line.startswith(SAID)]
    if done.returncode or not said:
        raise CheckFailed(
            f"{module} {' '.join(arguments)} failed",
            where=str(log),
            found=log.read_text()[-2_000:],
        )
    answer = orjson.loads(said[-1].removeprefix(SAID))
    return Cost(**answer.pop("cost")), answer


def files(settings: Settings, table: Table) -> list[str]:
    """What peers read: the table's data files, of a lake that has no delete files beside them."""
    tasks = list(lake.open_table(settings, table).scan().plan_files())
    assert not any(task.delete_files for task in tasks)
    return [task.file.file_path.removeprefix("file://") for task in tasks]


def duckdb_config(settings: Settings) -> dict[str, str | bool | int | float | list[str]]:
    """All cores, and beyond `MEMORY_LIMIT` the disk."""
    return {
        "threads": len(os.sched_getaffinity(0)),
        "memory_limit": MEMORY_LIMIT,
        "temp_directory": str(settings.scratch / "duckdb"),
    }


def require_equal(folders: Mapping[str, Path], columns: Sequence[str], keys: Sequence[str]) -> None:
    """Every contestant's rows are those of the first; see `differences`.

    Raises: CheckFailed naming rows in which contestants differ.
    """
    (first, rows), *others = folders.items()
    for name, folder in others:
        if found := differences(rows, folder, columns, keys):
            raise CheckFailed(f"rows of {first} and {name} differ", problems=found)


def differences(one: Path, other: Path, columns: Sequence[str], keys: Sequence[str]) -> list[str]:
    """Rows in which two folders of Parquet differ; the first few, in words.

    Rows are compared by a hash of 64 bits over all columns, those of one key in the order of their
    hashes: memory holds a number a row, not the rows.

    Args:
        columns: SQL for what is compared; `keys`: the names of those that say which row it is.
    """
    import duckdb

    named = ", ".join(keys)
    side = f"""
      SELECT {named}, hash, row_number() OVER (PARTITION BY {named} ORDER BY hash) AS nth
      FROM (SELECT {named}, hash({", ".join(columns)}) AS hash FROM read_parquet(?))
    """  # noqa: S608
    with duckdb.connect(config={"threads": len(os.sched_getaffinity(0))}) as connection:
        found = connection.execute(
            f"""
            WITH one AS ({side}), other AS ({side})
            SELECT {named},
              CASE WHEN one.hash IS NULL THEN 'only in the second'
                   WHEN other.hash IS NULL THEN 'only in the first'
                   ELSE 'other values' END
            FROM one FULL JOIN other USING ({named}, nth)
            WHERE one.hash IS DISTINCT FROM other.hash
            ORDER BY ALL LIMIT 5
            """,  # noqa: S608
            [f"{one}/*.parquet", f"{other}/*.parquet"],
        ).fetchall()
    return [", ".join(map(str, row)) for row in found]


def _spark_as(settings: Settings) -> dict[str, str]:
    return {
        f"PAGODA_SPARK__{name.upper()}": value
        if isinstance(value, str)
        else orjson.dumps(value).decode()
        for name, value in settings.spark.model_dump().items()
    }
