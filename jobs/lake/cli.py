"""`pagoda lake`: what the tables take, and their maintenance."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from jobs.lake import maintain
from jobs.lake.state import state_of
from pagoda import lake
from pagoda.console import emit_json, emit_table, people, run
from pagoda.settings import load

app = typer.Typer(
    add_completion=False,
    help="What the lake's tables take, and their maintenance.",
    no_args_is_help=True,
)
app.command("maintain")(maintain.main)
AsJson = Annotated[bool, typer.Option("--json", help="JSON on stdout.")]


@app.command()
def show(as_json: AsJson = False) -> None:
    """Each table: rows, files, snapshots, tags, megabytes, how long rows stay."""
    settings = load()
    lake.create_all(settings)
    states = [state_of(settings, table) for table in lake.TABLES]
    rows = [
        {**asdict(each), "retention_days": settings.retention.days(each.table)} for each in states
    ]
    if as_json:
        emit_json(rows)
        return
    emit_table(
        (
            {
                "table": row["table"],
                "rows": row["rows"],
                "files": row["files"],
                "snapshots": row["snapshots"],
                "tags": len(row["tags"]),
                "live MB": row["live_mb"],
                "MB on disk": row["disk_mb"],
                "days kept": row["retention_days"] or "all",
            }
            for row in rows
        ),
        title=f"Lake of {settings.home}",
    )
    for tag in sorted({tag for row in rows for tag in row["tags"]}):
        holds = ", ".join(row["table"] for row in rows if tag in row["tags"])
        people.print(f"tag {tag}: {holds}", highlight=False)


if __name__ == "__main__":
    run(app)
