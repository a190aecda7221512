"""What a bundle was trained on stays in the lake: tags hold the snapshots, maintenance keeps them.

Every table that a training reads gets the tag `bundle-<name>` before it reads, so that nothing
can be let go of under its hands. The tags go with the bundle (`pagoda models remove`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from pagoda import lake
from pagoda.errors import Conflict
from pagoda.settings import Settings

PREFIX = "bundle-"


def tag_of(bundle: str) -> str:
    """The name of a bundle's tags."""
    return f"{PREFIX}{bundle}"


@contextmanager
def held(settings: Settings, bundle: str, snapshots: Mapping[str, int]) -> Iterator[None]:
    """Tag the snapshots (table name to id); they stay unless the block fails without a bundle.

    Raises: Conflict if one of them is gone already.
    """
    try:
        for table in lake.TABLES:
            if table.name in snapshots:
                snapshot = snapshots[table.name]
                if lake.open_table(settings, table).snapshot_by_id(snapshot) is None:
                    raise Conflict(
                        f"the snapshot {snapshot} of {table.name} is gone",
                        next_step="The lake was cleaned meanwhile: train again.",
                    )
                lake.tag(settings, table, tag_of(bundle), snapshot)
        yield
    except BaseException:
        if not (settings.bundles / bundle).exists():
            unpin(settings, bundle)
        raise


def tables_of(settings: Settings, bundle: str) -> list[str]:
    """Names of the tables that keep something for a bundle."""
    tag = tag_of(bundle)
    return [
        table.name for table in lake.TABLES if tag in lake.tags(lake.open_table(settings, table))
    ]


def unpin(settings: Settings, bundle: str) -> list[str]:
    """Remove a bundle's tags; the names of the tables that had them."""
    return [table.name for table in lake.TABLES if lake.untag(settings, table, tag_of(bundle))]
