"""Let a bundle go live, or go back: Milvus's alias and the registry's pointer, together.

The alias moves first: it names a whole, checked collection at every moment, and serving follows
the pointer and searches by collection, so nobody ever mixes one bundle's vectors with another's
index. Killed between the two, running the same command again finishes.

Items that changed while a collection was not live are written into it before it goes live. Going
back waits for nothing: they follow after it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import structlog
from pymilvus import MilvusClient

from pagoda import faults, pins, registry, updates
from pagoda.bundle import Bundle
from pagoda.errors import InputError
from pagoda.index import aliased, collection_of, milvus, point, standing
from pagoda.settings import Settings

log = structlog.get_logger()


def release(settings: Settings, name: str) -> None:
    """Make a bundle live.

    Raises: InputError if there is no such bundle or its collection is not there whole.
    """
    bundle = Bundle.load(registry.require(settings, name))
    with milvus(settings) as client, updates.alone(settings):
        make_live(settings, client, bundle)


def make_live(settings: Settings, client: MilvusClient, bundle: Bundle) -> None:
    """The same with what the caller has at hand; the caller holds `updates.alone`."""
    collection = standing(client, bundle.name)
    updates.catch_up(settings, client, bundle, collection)
    point(client, alias=settings.milvus.alias, collection=collection.name)
    faults.point("release.pointed")
    registry.promote(settings, bundle.name)


def roll_back(settings: Settings) -> str:
    """Make the bundle before the current one live again; its name.

    Raises: NothingToDo if there is none, InputError if its collection is gone.
    """
    with milvus(settings) as client, updates.alone(settings):
        name = registry.previous(settings)
        bundle = Bundle.load(registry.require(settings, name))
        collection = standing(client, name)
        point(client, alias=settings.milvus.alias, collection=collection.name)
        registry.rollback(settings)
        try:
            updates.catch_up(settings, client, bundle, collection)
        except Exception as error:  # whatever the lake raises must not undo what is done
            log.warning("items_not_up_to_date", bundle=name, reason=str(error))
    return name


def require_removable(settings: Settings, names: Sequence[str]) -> None:
    """Raises: InputError naming all that is not there or is live, before anything is removed."""
    problems = []
    for name in dict.fromkeys(names):
        try:
            _require_there(settings, name)
        except InputError as error:
            problems.append(str(error.args[0]))
        if name == registry.current(settings):
            problems.append(f"the bundle {name!r} is live")
    if problems:
        raise InputError(
            "nothing was removed",
            problems=problems,
            next_step="`pagoda models list` names the bundles and the live one.",
        )


def _require_there(settings: Settings, name: str) -> None:
    """Raises: InputError if there is no such bundle, nor what a killed command left of one."""
    if not pins.tables_of(settings, name) and not registry.half_removed(settings, name):
        registry.require(settings, name)


@dataclass(frozen=True, kw_only=True)
class Removed:
    """What a bundle had: its folder, its collection, and tables whose snapshots it kept."""

    bundle: str
    folder: bool
    collection: bool
    unpinned: list[str]


def remove(settings: Settings, name: str) -> Removed:
    """Remove a bundle, its collection and the tags that kept what it was trained on.

    The folder goes last: killed before, running it again finishes. Tags that a killed training
    left go too, under the name that its bundle would have had.

    Raises: InputError if there is nothing of that name, or it is live.
    """
    _require_there(settings, name)
    collection = collection_of(name)
    with milvus(settings) as client, updates.alone(settings):
        if name == registry.current(settings) or collection == aliased(
            client, settings.milvus.alias
        ):
            raise InputError(
                f"the bundle {name!r} is live",
                next_step="Promote another first: `pagoda models promote NAME`.",
            )
        had = client.has_collection(collection)
        if had:
            client.drop_collection(collection)
    unpinned = pins.unpin(settings, name)
    folder = registry.remove(settings, name)
    return Removed(bundle=name, folder=folder, collection=had, unpinned=unpinned)
