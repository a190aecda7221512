"""One run of one contestant of `pagoda bench features`, in a process of its own."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import typer

from jobs.bench import shop
from pagoda import settings
from pagoda.console import run

NAMES = ("spark", "duckdb", "polars")

app = typer.Typer(add_completion=False, help="One contestant of `pagoda bench features`.")


@app.command()
def main(name: str, to: Path) -> None:
    """Let a contestant write its rows, and say what that took."""
    import_module(f"jobs.bench.by_{name}").write(settings.load(), shop.days(), to)


if __name__ == "__main__":
    run(app)
