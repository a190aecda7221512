"""How every command talks: people on stderr, data on stdout, one clear message on failure."""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TextIO, TypeVar

import orjson
import structlog
import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Table
from rich.text import Text

from pagoda.errors import PagodaError

_WIDE = 160  # columns where nobody says how many: a log or a pipe; a narrow table loses text
LINE_EVERY_S = 30.0  # of long work, in a log
_T = TypeVar("_T")


def _console(stream: TextIO, **options: Any) -> Console:
    known = stream.isatty() or "COLUMNS" in os.environ
    return Console(width=None if known else _WIDE, **options)


people = _console(sys.stderr, stderr=True)
_data = _console(sys.stdout, soft_wrap=True)


def run(app: typer.Typer | Callable[[], Any]) -> None:
    """Run a command line app; a PagodaError becomes one message and its exit code.

    SIGTERM ends a command as Ctrl-C does: what it has started ends with it. PAGODA_DEBUG=1 shows
    tracebacks.
    """
    configure_logging()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        app()
    except PagodaError as error:
        if os.environ.get("PAGODA_DEBUG"):
            raise
        people.print(f"[bold red]error[/] {type(error).__name__}: ", end="")
        # Not cut into lines here: a command in it must be one piece, to copy and to find in logs.
        people.print(str(error), markup=False, highlight=False, soft_wrap=True)
        sys.exit(error.exit_code)


def configure_logging() -> None:
    """Key-value log lines on stderr, in colours on a terminal."""
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    # These clients log what they also raise, and that a machine is busy.
    for client in ("kafka", "pymilvus"):
        logging.getLogger(client).setLevel(logging.CRITICAL)
    renderer: Any = (
        structlog.dev.ConsoleRenderer(colors=True)
        if sys.stderr.isatty()
        else structlog.processors.KeyValueRenderer(key_order=["timestamp", "level", "event"])
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


def watched(steps: Sequence[_T], what: str) -> Iterable[_T]:
    """The steps, with a bar that goes when they are done; without a terminal a line at times."""
    if people.is_terminal:
        return track(steps, what, console=people, transient=True)
    return _told(steps, what)


def _told(steps: Sequence[_T], what: str) -> Iterator[_T]:
    began = said = time.monotonic()
    for done, step in enumerate(steps):
        now = time.monotonic()
        if now - said >= LINE_EVERY_S:
            people.print(f"{what}: {done:,} of {len(steps):,} after {now - began:.0f} s")
            said = now
        yield step


def emit_json(value: Any) -> None:
    """One JSON document on stdout."""
    sys.stdout.write(
        orjson.dumps(
            value, option=orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY, default=str
        ).decode()
        + "\n"
    )


def emit_table(
    rows: Iterable[Mapping[str, Any]], *, title: str | None = None, as_json: bool = False
) -> None:
    """Rows as a table for people or as JSON for programs; columns as in the first row.

    Text is shown as it is, brackets too; colours are `rich.text.Text`.
    """
    rows = list(rows)
    if as_json:
        emit_json(rows)
        return
    table = Table(title=title and escape(title), title_justify="left", header_style="bold")
    for column in rows[0] if rows else ():
        table.add_column(column, justify="right" if _numeric(rows, column) else "left")
    for row in rows:
        table.add_row(*map(_cell, row.values()))
    _data.print(table)


def _cell(value: Any) -> Text:
    return value if isinstance(value, Text) else Text("" if value is None else str(value))


def _numeric(rows: list[Mapping[str, Any]], column: str) -> bool:
    return all(isinstance(row[column], int | float) for row in rows if row[column] is not None)
