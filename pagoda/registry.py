"""Which bundles there are, and which one is current.

    <bundles>/<name>/        a bundle (pagoda.bundle)
    <bundles>/current.json   the pointer: the current bundle, and those before it for going back

The pointer is replaced in one step, so that a reader sees the old one or the new one. It moves
together with Milvus's alias: see `pagoda.release`.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from filelock import FileLock
from pydantic import BaseModel, ConfigDict, ValidationError

from pagoda import whole
from pagoda.bundle import MANIFEST, Manifest, read_manifest
from pagoda.errors import BundleRefused, InputError, NothingToDo
from pagoda.settings import Settings

POINTER = "current.json"
_HISTORY_LENGTH = 100


class Move(BaseModel):
    """One change of the pointer."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bundle: str
    at: datetime
    by: Literal["promote", "rollback"]


class Pointer(BaseModel):
    """current.json.

    Attributes:
        earlier: bundles to go back to, the one before the current last.
        history: every change, oldest first.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    current: str | None = None
    earlier: tuple[str, ...] = ()
    history: tuple[Move, ...] = ()


def bundles(settings: Settings) -> list[Manifest]:
    """Manifests of all bundles that have a readable one, oldest first."""
    found = []
    for path in settings.bundles.iterdir():
        if path.name.startswith(".") or not (path / MANIFEST).exists():
            continue
        try:
            found.append(read_manifest(path))
        except BundleRefused:
            continue  # of another version: it can be neither served nor promoted
    return sorted(found, key=lambda manifest: (manifest.created_at, manifest.name))


def latest(settings: Settings) -> str:
    """The newest bundle's name. Raises: NothingToDo if there is none."""
    found = bundles(settings)
    if not found:
        raise NothingToDo(
            "there is no bundle",
            where=str(settings.bundles),
            next_step="Train one: `pagoda train demo`.",
        )
    return found[-1].name


def current(settings: Settings) -> str | None:
    """The name of the current bundle, or None if none was promoted yet."""
    return pointer(settings).current


def pointer(settings: Settings) -> Pointer:
    """The pointer as it stands. Raises: InputError if the file was altered by hand and broken."""
    path = settings.bundles / POINTER
    try:
        return Pointer.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return Pointer()
    except ValidationError as error:
        raise InputError(
            "the pointer to the current bundle cannot be read",
            where=str(path),
            problems=[f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()],
            next_step="Remove it and run `pagoda models promote NAME`.",
        ) from error


def require(settings: Settings, name: str) -> Path:
    """The folder of a bundle. Raises: InputError naming those there are."""
    path = settings.bundles / name
    if Path(name).name != name or not (path / MANIFEST).exists():
        known = ", ".join(manifest.name for manifest in bundles(settings)) or "none"
        raise InputError(
            f"there is no bundle {name!r}", found=known, next_step="See `pagoda models list`."
        )
    return path


def promote(settings: Settings, name: str) -> None:
    """Make that bundle current. Again for the current one: nothing changes."""
    require(settings, name)
    with _locked(settings):
        before = pointer(settings)
        if before.current == name:
            return
        earlier = tuple(each for each in before.earlier if each != name)
        if before.current:
            earlier += (before.current,)
        _write(settings, before, current=name, earlier=earlier, by="promote")


def remove(settings: Settings, name: str) -> bool:
    """Delete a bundle that is not current; False if there is none. See `pagoda.release.remove`."""
    path = settings.bundles / name
    with _locked(settings):
        before = pointer(settings)
        if before.current == name:
            raise InputError(f"the bundle {name!r} is current")
        if name in before.earlier:
            earlier = tuple(each for each in before.earlier if each != name)
            _replace(settings, before.model_copy(update={"earlier": earlier}))
        going = _going(settings, name)  # out of sight in one step
        if path.exists():
            shutil.rmtree(going, ignore_errors=True)
            path.rename(going)
        if not going.exists():
            return False
        shutil.rmtree(going)
    return True


def half_removed(settings: Settings, name: str) -> bool:
    """Whether removing a bundle was stopped before its folder was gone."""
    return Path(name).name == name and _going(settings, name).exists()


def _going(settings: Settings, name: str) -> Path:
    return settings.bundles / f".removed-{name}"


def previous(settings: Settings) -> str:
    """The bundle that going back would make current. Raises: NothingToDo if there is none."""
    for name in reversed(pointer(settings).earlier):
        if (settings.bundles / name / MANIFEST).exists():
            return name
    raise NothingToDo(
        "there is no earlier bundle to go back to", next_step="See `pagoda models list`."
    )


def rollback(settings: Settings) -> str:
    """Make the bundle before the current one current again; its name.

    Going back again goes further back. Raises: NothingToDo if there is none.
    """
    with _locked(settings):
        name = previous(settings)
        before = pointer(settings)
        earlier = before.earlier[: len(before.earlier) - 1 - before.earlier[::-1].index(name)]
        _write(settings, before, current=name, earlier=earlier, by="rollback")
    return name


def _write(
    settings: Settings,
    before: Pointer,
    *,
    current: str,
    earlier: tuple[str, ...],
    by: Literal["promote", "rollback"],
) -> None:
    move = Move(bundle=current, at=datetime.now(UTC), by=by)
    after = Pointer(
        current=current,
        earlier=earlier[-_HISTORY_LENGTH:],
        history=(*before.history, move)[-_HISTORY_LENGTH:],
    )
    _replace(settings, after)


def _replace(settings: Settings, after: Pointer) -> None:
    whole.write(settings.bundles / POINTER, after.model_dump_json(indent=2), durable=True)


@contextmanager
def _locked(settings: Settings) -> Iterator[None]:
    with FileLock(settings.bundles / ".current.lock"):
        yield
