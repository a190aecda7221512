"""A user's own files, read as a mapping file says, as a source for the import."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import polars as pl

from jobs.imports import mapping as mappings
from jobs.imports import read, rows
from jobs.imports.mapping import Mapping, TableMapping
from jobs.imports.staged_files import MADE_UP_FROM, StagedFiles
from pagoda.errors import InputError

MAPPING_VERSION = 1  # raise it with every change of what is written


class Files(StagedFiles):
    """CSV and Parquet files under one mapping.

    Args:
        path: the mapping file; its folder is where file patterns begin.
        scratch: a folder to work in.
        now: rows later than this are in the future.
        mapping: what the file says, if there is none.
    Raises: InputError listing everything that is wrong with the mapping and the files' columns.
    """

    def __init__(
        self,
        path: Path,
        *,
        scratch: Path,
        now: datetime | None = None,
        mapping: Mapping | None = None,
    ) -> None:
        self._mapping = mapping or mappings.load(path)
        super().__init__(
            self._mapping.name,
            self._mapping.dataset,
            _find_files(self._mapping, path),
            home=path.parent,
            said=f"{MAPPING_VERSION} {self._mapping.model_dump_json()}",
            scratch=scratch,
            now=now,
        )

    def checked(self, name: str, file: Path) -> Iterator[rows.Checked]:
        """The file's rows, judged as the mapping says."""
        table = self._mapping.tables()[name]
        for batch in read.batches(file, table, shown_as=self._shown(file)):
            found = rows.check(batch, name, table, self._mapping.limits, now=self._now)
            if name == "events" and "ts" not in found.accepted.columns:  # their order says when
                timed = found.accepted.with_columns(pl.lit(MADE_UP_FROM).alias("ts"))
                found = rows.Checked(accepted=timed, rejected=found.rejected)
            yield found


def _find_files(mapping: Mapping, path: Path) -> dict[str, list[Path]]:
    """The files of each table, every one opened and its columns compared with the mapping."""
    found: dict[str, list[Path]] = {}
    problems: list[str] = []
    for name, table in mapping.tables().items():
        try:
            found[name] = mappings.files_of(table, path.parent)
        except InputError as error:
            problems.append(f"{name}: {error}")
            continue
        if not found[name]:
            problems.append(f"{name}: no file matches {', '.join(table.files)}")
        for file in found[name]:
            problems += _file_problems(file, name, table)
    if problems:
        raise InputError(
            "the files do not fit the mapping; nothing was read",
            where=str(path),
            problems=problems,
            next_step="See docs/your-own-data.md.",
        )
    return found


def _file_problems(file: Path, name: str, table: TableMapping) -> list[str]:
    try:
        columns = read.columns_of(file, table)
    except InputError as error:
        return [str(error)]
    return [f"{file.name}: {each}" for each in rows.column_problems(columns, name, table)]
