"""Let a bundle go live, or go back: Milvus's alias and the registry's pointer, together.

The alias moves first: it names a whole, checked collection at every moment, and serving follows
the pointer and searches by collection, so nobody ever mixes one bundle's vectors with another's
index. Killed between the two, running the same command again finishes.

Items that changed while a collection was not live are written into it before it goes live. Going
back waits for nothing: they follow after it.
"""

from __future__ import annotations

import structlog
from pymilvus import MilvusClient

from pagoda import faults, registry, updates
from pagoda.bundle import Bundle
from pagoda.index import milvus, point, standing
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
