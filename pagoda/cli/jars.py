"""`pagoda jars`: the jars of Spark and Kafka."""

from __future__ import annotations

from typing import Annotated

import typer

from pagoda import class_archive, jars, settings
from pagoda.console import emit_table, people
from pagoda.errors import MachineError

app = typer.Typer(add_completion=False)


@app.command()
def fetch(
    lock: Annotated[
        bool, typer.Option("--lock", help="Fetch all anew and write requirements/jars.lock.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of a table.")] = False,
) -> None:
    """Fetch what is missing, checked against requirements/jars.lock; archive Spark's classes."""
    loaded = settings.load()
    with people.status("jars of Spark and Kafka"):
        found = jars.lock(loaded) if lock else jars.fetch(loaded)
    with people.status("the classes of a Spark job"):
        try:
            class_archive.make(loaded)
        except MachineError as error:  # jobs run without it
            people.print(f"[yellow]{error}[/]")
    by_folder = {
        folder: [jar for jar in found if jar.parent.name == folder] for folder in ("spark", "kafka")
    }
    rows = [
        {
            "folder": str(loaded.jars / folder),
            "jars": len(each),
            "MB": round(sum(jar.stat().st_size for jar in each) / 2**20, 1),
        }
        for folder, each in by_folder.items()
    ]
    emit_table(rows, as_json=as_json)
