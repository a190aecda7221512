"""`pagoda`: each command is a typer app that lives with the stage it runs.

The stages are named as text and imported only when asked for: `pagoda` imports no room, and
`pagoda status` does not pay for torch.
"""

from __future__ import annotations

import importlib
from typing import Any

import typer
from rich.console import Console
from rich.table import Table
from typer.core import TyperGroup
from typer.main import get_command

from pagoda.console import run

# command: (module:app, one line of help). A command of two words is a group.
COMMANDS: dict[str, tuple[str, str]] = {
    "up": ("pagoda.cli.servers:up", "Start the local servers and wait until they answer."),
    "down": ("pagoda.cli.servers:down", "Stop the local servers."),
    "status": ("pagoda.cli.servers:status", "Show each server: health, memory, port, log."),
    "doctor": ("pagoda.cli.doctor:app", "Find what is wrong with this machine or the settings."),
    "jars": ("pagoda.cli.jars:app", "Fetch the jars of Spark and Kafka by coordinate."),
    "import": ("jobs.imports.cli:app", "Bring a data set into the lake."),
    "features": ("jobs.batch.cli:app", "Build feature tables, apply, materialise."),
    "lake": ("jobs.lake.cli:app", "What the lake's tables take, and their maintenance."),
    "stream": ("jobs.stream.cli:app", "Consume, land or replay events."),
    "train": ("training.train:app", "Train a recipe and write a bundle."),
    "evaluate": ("training.evaluate:app", "Judge a bundle beside the baselines."),
    "index": ("jobs.index.build:app", "Build and check a collection, then swap the alias."),
    "models": ("pagoda.cli.models:app", "List bundles, promote one, go back, remove some."),
    "serve": ("serving.server:app", "Run the search service."),
    "search": ("pagoda.cli.search:app", "Ask the running search service."),
    "run": ("pagoda.cli.run:app", "Trigger the Airflow DAGs and follow them."),
    "airflow": ("pagoda.cli.airflow:app", "Airflow's own command line, on this installation."),
    "check": ("jobs.checks.cli:app", "Parity, contracts, index: is what is served right?"),
    "forget": ("jobs.forget.run:app", "Remove a user from everything that Pagoda keeps."),
    "demo": ("pagoda.cli.demo:app", "The whole road on real purchases."),
    "stages": ("pagoda.cli.stages:app", "The stages, what each reads and writes; draw the road."),
}


class _Lazy(TyperGroup):
    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        app: Any = getattr(importlib.import_module(module), attribute)
        command: Any = get_command(app) if isinstance(app, typer.Typer) else app
        command.name = cmd_name
        return command

    def format_help(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002
        """The list of commands, without importing any of them."""
        table = Table(box=None, show_header=False, pad_edge=False)
        for name, (_, text) in COMMANDS.items():
            table.add_row(f"  [bold cyan]{name}[/]", text)
        console = Console()
        console.print("Usage: [bold]pagoda[/] COMMAND [ARGS]...    (--help after any command)\n")
        console.print("Embedding-based product retrieval as one platform.\n")
        console.print(table)


def main() -> None:
    """Entry point of the console script."""
    run(_Lazy(name="pagoda", no_args_is_help=True))


if __name__ == "__main__":
    main()
