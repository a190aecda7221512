"""`pagoda up`, `pagoda down`, `pagoda status`."""

from __future__ import annotations

import dataclasses
import threading
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from pagoda import disk, servers, settings
from pagoda.console import emit_json, emit_table, people

Names = Annotated[
    list[str] | None,
    typer.Argument(
        help="Any of kafka, redis, milvus, airflow, sequences, landing, serving; all if none."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="JSON instead of a table.")]

# How the texts begin that are worth a line of their own.
_DONE = ("ready", "stopped", "left out", "external", "ending", "restarting")

up = typer.Typer(add_completion=False)
down = typer.Typer(add_completion=False)
status = typer.Typer(add_completion=False)


@up.command()
def _up(names: Names = None) -> None:
    """Start the local servers, and what they need; returns when they really answer.

    Running it again changes nothing that runs. Addresses are written to
    $PAGODA_HOME/run/endpoints.toml: the defaults where they are free.
    """
    with Progress() as progress:
        servers.up(settings.load(), names or (), report=progress)


@down.command()
def _down(names: Names = None) -> None:
    """Stop the local servers, by force after a grace; no process is left. Data stay."""
    with Progress() as progress:
        servers.down(settings.load(), names or (), report=progress)


@status.command()
def _status(as_json: AsJson = False) -> None:
    """Show each server: health, memory, address, log; and the disk that data take."""
    loaded = settings.load()
    healths = servers.status(loaded)
    used = disk.use(loaded)
    if as_json:
        emit_json(
            {
                "home": str(loaded.home),
                "profile": loaded.servers,
                "servers": [dataclasses.asdict(each) for each in healths],
                "disk": [dataclasses.asdict(each) for each in used],
            }
        )
        return
    emit_table(
        [
            {
                "server": each.name,
                "state": each.state + (f": {each.detail}" if each.detail else ""),
                "address": each.address,
                "memory MB": each.memory_mb or None,
                "up": _duration(each.uptime_s),
                "log": ", ".join(str(Path(log).relative_to(loaded.home)) for log in each.logs),
            }
            for each in healths
        ],
        title=f"Servers of {loaded.home} ({loaded.servers})",
    )
    emit_table(
        [
            {
                "folder": each.folder,
                "MB": each.mb,
                "budget MB": each.budget_mb,
                "used": None if each.share is None else f"{each.share:.0%}",
            }
            for each in used
        ],
        title="Disk",
    )


class Progress:
    """Reports on servers: a line for what is done, a spinner for what is still waited for."""

    def __init__(self) -> None:
        self._spinner = people.status("")
        self._waiting: dict[str, str] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> Progress:
        self._spinner.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._spinner.stop()

    def __call__(self, server: str, text: str) -> None:
        """Show what happens to a server."""
        with self._lock:
            if text.startswith(_DONE):
                self._waiting.pop(server, None)
                people.print(f"{server:<10} {text}", markup=False, highlight=False)
            else:
                self._waiting[server] = text.splitlines()[0][:60]
            waiting = "; ".join(f"{name}: {what}" for name, what in self._waiting.items())
            self._spinner.update(escape(waiting))


def _duration(seconds: int | None) -> str | None:
    if seconds is None:
        return None
    hours, rest = divmod(seconds, 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}"
