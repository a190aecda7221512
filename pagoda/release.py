"""Let a bundle go live, or go back: Milvus's alias and the registry's pointer, together.

The alias moves first: it names a whole, checked collection at every moment, and serving follows
the pointer and searches by collection, so nobody ever mixes one bundle's vectors with another's
index. Killed between the two, running the same command again finishes.
"""

from __future__ import annotations

from dataclasses import dataclass

from pymilvus import MilvusClient

from pagoda import faults, pins, registry
from pagoda.bundle import read_manifest
from pagoda.errors import InputError
from pagoda.index import aliased, collection_of, describe, milvus, point
from pagoda.settings import Settings


def release(settings: Settings, name: str) -> None:
    """Make a bundle live.

    Raises: InputError if there is no such bundle or its collection is not there whole.
    """
    with milvus(settings) as client:
        _point(settings, client, name)
    faults.point("release.pointed")
    registry.promote(settings, name)


def roll_back(settings: Settings) -> str:
    """Make the bundle before the current one live again; its name.

    Raises: NothingToDo if there is none, InputError if its collection is gone.
    """
    name = registry.previous(settings)
    with milvus(settings) as client:
        _point(settings, client, name)
    return registry.rollback(settings)


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
    if not pins.tables_of(settings, name):
        registry.require(settings, name)
    collection = collection_of(name)
    with milvus(settings) as client:
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


def _point(settings: Settings, client: MilvusClient, name: str) -> None:
    manifest = read_manifest(registry.require(settings, name))
    collection = describe(client, manifest.collection)
    if collection is None:
        raise InputError(
            f"the bundle {name!r} has no collection in Milvus",
            expected=manifest.collection,
            next_step=f"Build it: `pagoda index --bundle {name}`.",
        )
    if not collection.loaded:
        client.load_collection(collection.name)
    point(client, alias=settings.milvus.alias, collection=collection.name)
