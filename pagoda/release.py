"""Let a bundle go live, or go back: Milvus's alias and the registry's pointer, together.

The alias moves first: it names a whole, checked collection at every moment, and serving follows
the pointer and searches by collection, so nobody ever mixes one bundle's vectors with another's
index. Killed between the two, running the same command again finishes.
"""

from __future__ import annotations

from pymilvus import MilvusClient

from pagoda import faults, registry
from pagoda.bundle import read_manifest
from pagoda.errors import InputError
from pagoda.index import describe, milvus, point
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
