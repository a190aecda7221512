"""Files and folders that are there whole or not at all.

    a draft beside the target -> (the disk) -> renamed into place

A reader sees the earlier one or the new one and never half of either, whoever is killed and when.
What a killed writer left is called `.draft-<name>-<pid>`: nobody reads it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write(
    target: Path, content: bytes | str, *, private: bool = False, durable: bool = False
) -> Path:
    """Write a file, text as UTF-8. Arguments as of `file`; returns: the target."""
    with file(target, private=private, durable=durable) as draft:
        draft.write_bytes(content.encode() if isinstance(content, str) else content)
    return target


@contextmanager
def file(target: Path, *, private: bool = False, durable: bool = False) -> Iterator[Path]:
    """A draft of a file to write to, in its place when the block ends.

    Args:
        private: its owner alone may read it.
        durable: it also survives a loss of power, which costs some milliseconds.
    """
    draft = _beside(target, "draft")
    draft.unlink(missing_ok=True)
    if private:
        draft.touch(mode=0o600)
    try:
        yield draft
        if durable:
            _flush(draft)
        draft.replace(target)
        if durable:
            _flush(target.parent)
    finally:
        draft.unlink(missing_ok=True)


@contextmanager
def folder(target: Path, *, replace: bool = False) -> Iterator[Path]:
    """A draft of a folder to write to, in its place when the block ends.

    Args:
        replace: an earlier folder gives way, and for a moment there is none; else it is an OSError.
    """
    draft, earlier = _beside(target, "draft"), _beside(target, "earlier")
    for each in (draft, earlier):
        shutil.rmtree(each, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        yield draft
        for each in (*draft.rglob("*"), draft):
            _flush(each)
        if replace and target.exists():
            target.rename(earlier)
        draft.rename(target)
        _flush(target.parent)
    finally:
        if earlier.exists() and not target.exists():
            earlier.rename(target)  # stopped between the two: the earlier stays
        for each in (draft, earlier):
            shutil.rmtree(each, ignore_errors=True)


def _beside(target: Path, kind: str) -> Path:
    return target.with_name(f".{kind}-{target.name}-{os.getpid()}")


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
