"""A group of commands that are named as text and imported only when asked for.

`pagoda` imports no room, and `pagoda status` does not pay for torch.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import typer
from rich.console import Console
from rich.table import Table
from typer.core import TyperGroup
from typer.main import get_command


class LazyGroup(TyperGroup):
    """Commands by name: (module:app, one line of help). A command of two words is a group."""

    def __init__(self, name: str, members: Mapping[str, tuple[str, str]], *, help: str) -> None:  # noqa: A002
        super().__init__(name=name, help=help, no_args_is_help=True)
        self._members = members

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002
        """The names, in the order they are told in."""
        return list(self._members)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002
        """The command of that name, imported now."""
        if cmd_name not in self._members:
            return None
        module, _, attribute = self._members[cmd_name][0].partition(":")
        app: Any = getattr(importlib.import_module(module), attribute)
        command: Any = get_command(app) if isinstance(app, typer.Typer) else app
        command.name = cmd_name
        return command

    def format_help(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002
        """The list of commands, without importing any of them."""
        table = Table(box=None, show_header=False, pad_edge=False)
        for name, (_, text) in self._members.items():
            table.add_row(f"  [bold cyan]{name}[/]", text)
        console = Console()
        called = ctx.command_path
        console.print(f"Usage: [bold]{called}[/] COMMAND [ARGS]...    (--help after any command)\n")
        console.print(f"{self.help}\n")
        console.print(table)
