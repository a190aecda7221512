"""`pagoda stages`: the road as data."""

from __future__ import annotations

from typing import Annotated

import typer

from pagoda import stages
from pagoda.console import emit_table

app = typer.Typer(add_completion=False)


@app.command()
def show(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    mermaid: Annotated[bool, typer.Option(help="Print the road as a Mermaid flow chart.")] = False,
) -> None:
    """Show every stage: its room, what it reads and writes, its entry point and DAG."""
    if mermaid:
        typer.echo(stages.draw())
        return
    rows = [
        {
            "stage": stage.name,
            "room": stage.room,
            "reads": ", ".join(stage.reads),
            "writes": ", ".join(stage.writes),
            "entry": stage.entry,
            "dag": stage.dag,
        }
        for stage in (*stages.STAGES, *stages.CHECKS)
    ]
    emit_table(rows, title="The road", as_json=as_json)
