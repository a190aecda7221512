"""A user in files beside the lake: training scratch, and whatever a log says of them."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from pagoda.settings import Settings


def scratch(settings: Settings) -> list[Path]:
    """What training, evaluation and imports left; all of it can be made again."""
    return [path for path in settings.scratch.iterdir() if path.suffix != ".lock"]


def remove(paths: list[Path]) -> int:
    """Delete files and folders; how many."""
    for path in paths:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    return len(paths)


def named_in_logs(settings: Settings, pattern: re.Pattern[bytes]) -> dict[Path, int]:
    """Log files in which the pattern of `words.in_logs` is found, with how often."""
    found = {path: len(_places(path, pattern)) for path in _logs(settings)}
    return {path: count for path, count in found.items() if count}


def blot_out(path: Path, pattern: re.Pattern[bytes]) -> int:
    """Overwrite every place with as many x: who is appending to the file is not disturbed."""
    places = _places(path, pattern)
    with path.open("r+b") as file:
        for start, stop in places:
            file.seek(start)
            file.write(b"x" * (stop - start))
        file.flush()
        os.fsync(file.fileno())
    return len(places)


def _places(path: Path, pattern: re.Pattern[bytes]) -> list[tuple[int, int]]:
    try:
        text = path.read_bytes()
    except FileNotFoundError:  # rotated meanwhile
        return []
    return [match.span(match.lastgroup or 0) for match in pattern.finditer(text)]


def _logs(settings: Settings) -> Iterator[Path]:
    return (path for path in sorted(settings.logs.rglob("*")) if path.is_file())
