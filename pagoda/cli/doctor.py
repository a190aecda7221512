"""`pagoda doctor`: what is wrong with this machine, the settings or the servers."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer
from rich.text import Text

from pagoda import doctor
from pagoda.console import emit_json, emit_table
from pagoda.errors import CheckFailed

app = typer.Typer(add_completion=False)
_COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


@app.command()
def examine(
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of a table.")] = False,
) -> None:
    """Check machine, environments, jars, settings, ports and servers; say what to do."""
    findings = doctor.examine()
    if as_json:
        emit_json([dataclasses.asdict(finding) for finding in findings])
    else:
        emit_table(
            [
                {
                    "check": finding.name,
                    "": Text(finding.state, style=_COLOURS[finding.state]),
                    "found": finding.found,
                    "what to do": finding.next_step,
                }
                for finding in findings
            ]
        )
    failed = [finding.name for finding in findings if finding.state == "fail"]
    if failed:
        raise CheckFailed(f"failed: {', '.join(failed)}")
