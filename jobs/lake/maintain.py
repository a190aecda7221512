"""`pagoda lake maintain`: all tables, one after the other, with what it changed."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jobs.lake import care
from jobs.lake.state import due
from pagoda import lake, spark
from pagoda.console import emit_json, emit_table, people, run
from pagoda.errors import Conflict
from pagoda.settings import Settings, load

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

app = typer.Typer(add_completion=False, help="Maintain the lake.")


@app.command()
def main(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be done; change nothing.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on stdout.")] = False,
) -> None:
    """Drop rows beyond retention, join small files, expire snapshots, remove orphan files.

    Snapshots that a tag holds stay. Readers and writers may go on meanwhile.
    """
    settings = load()
    lake.create_all(settings)
    with care.alone(settings), spark.session(settings, "maintenance") as session:
        if dry_run:
            emit_table(_planned(session, settings), title="Would be done", as_json=as_json)
            return
        done = []
        for table in lake.TABLES:
            with people.status(table.name):
                done.append(care.maintain(session, settings, table))
    if as_json:
        emit_json([asdict(each) for each in done])
    else:
        emit_table([_row(each) for each in done], title="Maintained")
    if left := [f"{each.before.table}: {why}" for each in done for why in each.left]:
        raise Conflict(
            "other writers were faster every time",
            where="lake",
            found="; ".join(left),
            next_step="The rest was done; run it again.",
        )


def _planned(session: SparkSession, settings: Settings) -> list[dict[str, Any]]:
    now = datetime.now(UTC)
    return [
        {
            "table": table.name,
            **asdict(due(settings, table, now=now)),
            "orphan_files": care.orphans(session, settings, table, now=now),
        }
        for table in lake.TABLES
    ]


def _row(done: care.Maintained) -> dict[str, Any]:
    before, after = done.before, done.after
    return {
        "table": before.table,
        "rows": _change(before.rows, after.rows),
        "files": _change(before.files, after.files),
        "snapshots": _change(before.snapshots, after.snapshots),
        "tags": len(after.tags),
        "orphans": done.orphans,
        "MB on disk": _change(before.disk_mb, after.disk_mb),
    }


def _change(before: float | None, after: float | None) -> str:
    return f"{after}" if before == after else f"{before} → {after}"


if __name__ == "__main__":
    run(app)
