"""How lines of (user, item [, time [, action]]) are written, by looking at the first of them."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Mapping as Map
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast, get_args

from jobs.imports import read
from pagoda.errors import InputError

Column = Literal["user", "item", "time", "action"]
COLUMNS: tuple[Column, ...] = get_args(Column)
NO_COLUMN = "-"
# What headers call them, in lower case without anything but letters.
_NAMES: Map[Column, frozenset[str]] = {
    "user": frozenset(
        ("user", "userid", "uid", "customer", "customerid", "visitorid", "reviewerid", "sessionid")
    ),
    "item": frozenset(
        ("item", "itemid", "iid", "product", "productid", "sku", "asin", "movieid", "articleid")
    ),
    "time": frozenset(("time", "timestamp", "ts", "date", "datetime", "unixreviewtime", "at")),
    "action": frozenset(("action", "event", "eventtype", "type", "behavior", "behaviour")),
}
_DELIMITERS = {"\t": "tab", ",": "comma", ";": "semicolon", "|": "bar", " ": "space"}
QUOTED = frozenset(",;|")  # elsewhere a quote is a character like any other
_LOOKED_AT = 500
_DAYS = re.compile(r"(19|20)\d\d(0[1-9]|1[0-2])([0-2]\d|3[01])")
_ISO = re.compile(r"\d{4}-\d\d-\d\d([T ].*)?")
_NUMBER = re.compile(r"\d+(\.\d*)?")
_FIRST_MS = 10**11  # as seconds the year 5138, as milliseconds 1973


@dataclass(frozen=True, kw_only=True)
class Shape:
    """How the lines are written.

    Attributes:
        names: of all columns: the header's, or made up where there is none.
        places: where each of the columns that are read stands.
        time_format: None where there are no times.
    """

    delimiter: str
    header: bool
    names: tuple[str, ...]
    places: Map[Column, int]
    time_format: str | None

    def __str__(self) -> str:
        columns = ", ".join(
            f"{column} = {self.names[place] if self.header else f'column {place + 1}'}"
            for column, place in self.places.items()
        )
        times = f", times are {self.time_format}" if self.time_format else ", no times"
        header = "a header" if self.header else "no header"
        return f"read as: separated by {_DELIMITERS[self.delimiter]}, {header}, {columns}{times}"


def shape_of(
    path: Path,
    *,
    columns: Sequence[str] = (),
    header: bool | None = None,
    time_format: str | None = None,
) -> Shape:
    """How a file's lines are written, from the first of them and what is said about them.

    Args:
        columns: user, item, time, action in the order of the file; "-" for others.
        header: whether the first line names the columns.
    Raises: InputError listing all that is not understood.
    """
    lines = [line for line in read.first_lines(path, _LOOKED_AT) if line.strip()]
    if not lines:
        raise InputError("the file is empty", where=str(path))
    delimiter = _delimiter(lines)
    try:
        rows = _split(lines, delimiter)
    except csv.Error as error:
        raise InputError(f"not lines of text: {error}", where=str(path)) from error
    header = _is_header(rows[0]) if header is None else header
    named = header and not columns
    body = rows[1:] if header else rows
    width = Counter(map(len, rows)).most_common(1)[0][0]
    names = tuple(rows[0]) if header else tuple(f"column_{n + 1}" for n in range(width))
    places = _by_name(names) if named else _by_place(columns or COLUMNS[:width])
    problems = _misfits(places, names, columns, header=header)
    if "time" in places:
        times = [row[places["time"]] for row in body if places["time"] < len(row) == width]
        time_format = time_format or _time_format(times)
        if not time_format:
            shown = repr(times[0]) if times else "there are none"
            problems.append(f"times are not understood: {shown}; say --time-format")
    else:
        time_format = None
    if problems:
        raise InputError(
            "the lines are not understood; nothing was read",
            where=str(path),
            problems=problems,
            next_step="Say what the columns are, e.g. --columns user,item,-,time; see "
            "docs/your-own-data.md.",
        )
    return Shape(
        delimiter=delimiter, header=header, names=names, places=places, time_format=time_format
    )


def _delimiter(lines: Sequence[str]) -> str:
    """The separator that cuts most lines into the same number of fields, of two at least."""

    def agreeing(delimiter: str) -> int:
        widths = Counter(line.count(delimiter) for line in lines)
        return max((count for width, count in widths.items() if width), default=0)

    return max(_DELIMITERS, key=agreeing)


def _split(lines: Sequence[str], delimiter: str) -> list[list[str]]:
    if delimiter in QUOTED:
        return list(csv.reader(lines, delimiter=delimiter))
    return list(csv.reader(lines, delimiter=delimiter, quoting=csv.QUOTE_NONE))


def _is_header(first: Sequence[str]) -> bool:
    known = _NAMES["user"] | _NAMES["item"]
    return any(_bare(name) in known for name in first)


def _by_name(names: Sequence[str]) -> dict[Column, int]:
    return {
        column: place
        for column in COLUMNS
        for place, name in reversed(list(enumerate(names)))
        if _bare(name) in _NAMES[column]
    }


def _by_place(columns: Sequence[str]) -> dict[Column, int]:
    return {
        cast("Column", column): place for place, column in enumerate(columns) if column != NO_COLUMN
    }


def _misfits(
    places: Map[Column, int], names: Sequence[str], columns: Sequence[str], *, header: bool
) -> list[str]:
    """What is wrong with the columns, one line each."""
    said = [column for column in columns if column != NO_COLUMN]
    problems = [
        f"no column {column!r}; there are {', '.join(COLUMNS)} and {NO_COLUMN}"
        for column in dict.fromkeys(said)
        if column not in COLUMNS
    ]
    problems += [f"{column} stands twice" for column in COLUMNS if said.count(column) > 1]
    where = "of the header " if header and not columns else ""
    problems += [
        f"no column {where}is the {column}: {', '.join(names)}"
        for column in ("user", "item")
        if column not in places
    ]
    if len(columns) > len(names):
        problems.append(f"{len(columns)} columns are named, the lines have {len(names)}")
    if not columns and not header and len(names) > len(COLUMNS):
        problems.append(f"{len(names)} columns and no header that names them")
    return problems


def _time_format(times: Sequence[str]) -> str | None:
    """The format of most times, if it is that of any."""
    found = Counter(filter(None, (_format_of(time.strip()) for time in times)))
    return found.most_common(1)[0][0] if found and found.total() * 2 > len(times) else None


def _format_of(time: str) -> str | None:
    if _DAYS.fullmatch(time):
        return "%Y%m%d"
    if _NUMBER.fullmatch(time):
        value = float(time)
        if value >= _FIRST_MS:
            return "epoch_ms"
        return "epoch_s" if value >= _FIRST_MS / 1000 else None
    return "iso" if _ISO.fullmatch(time) else None


def _bare(name: str) -> str:
    return re.sub(r"[^a-z]", "", name.lower())
