"""Items that are new or have changed since a bundle was trained, and how its collection gets them.

    lake `items` ──(what differs from the bundle's table)──► <bundle>/updates.arrow ──► collection

The lake's `items` are the catalogue. A collection is brought up to date by comparing contents, not
times: what arrives late, twice or out of order is found all the same, and a second run finds
nothing to do. `updates.arrow` lies beside the bundle's own files and says what the bundle's
collection holds beyond its item table; serving shows and filters by it.

Rows are recorded before they are written to Milvus, and marked as applied after it: whatever a kill
leaves half done is written again. An item once in the file stays there, also if it becomes again
what the bundle knew. An item that the lake no longer has stays as it is until the next bundle.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
from filelock import FileLock, Timeout
from pymilvus import MilvusClient

from pagoda import faults, lake, whole
from pagoda.bundle import Bundle
from pagoda.errors import Conflict
from pagoda.index import Collection, upsert
from pagoda.models.catalogue import FIELDS
from pagoda.schemas import ITEMS
from pagoda.settings import Settings

FILE = "updates.arrow"
_LOCK_WITHIN_S = 120
_COLLECTION = b"collection_id"


@dataclass(frozen=True, kw_only=True, eq=False)
class Updates:
    """N items, ascending item_key.

    Attributes:
        collection_id: the collection that `applied_N` speaks of.
        items: with the columns of FIELDS.
        vectors_ND: by the bundle's item tower.
        applied_N: whether the collection is known to hold the row as it stands here.
    """

    collection_id: int
    items: pa.Table
    vectors_ND: npt.NDArray[np.float32]
    applied_N: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return int(self.items.num_rows)

    @property
    def keys(self) -> npt.NDArray[np.int64]:
        """Item keys, ascending, [N]."""
        return np.asarray(self.items["item_key"].to_numpy(), np.int64)

    def of(self, collection: Collection) -> Updates:
        """The same, where nothing is known of a collection other than that of the file."""
        if collection.id == self.collection_id:
            return self
        return replace(self, collection_id=collection.id, applied_N=np.zeros(len(self), bool))

    def at(self, rows: npt.NDArray[np.integer]) -> Updates:
        """Some of the rows, in that order."""
        return replace(
            self,
            items=self.items.take(rows),
            vectors_ND=self.vectors_ND[rows],
            applied_N=self.applied_N[rows],
        )

    def overlaid(self, newer: Updates) -> Updates:
        """With the rows of `newer` in the place of those of the same items."""
        older = self.at(np.flatnonzero(~np.isin(self.keys, newer.keys)))
        both = replace(
            older,
            items=pa.concat_tables([older.items, newer.items]).combine_chunks(),
            vectors_ND=np.concatenate([older.vectors_ND, newer.vectors_ND]),
            applied_N=np.concatenate([older.applied_N, newer.applied_N]),
        )
        return both.at(np.argsort(both.keys, kind="stable"))


@dataclass(frozen=True, kw_only=True)
class CaughtUp:
    """A collection that is up to date with the lake.

    Attributes:
        held: all that it holds beyond the bundle's item table.
        new, changed: items written now: such as the bundle's table lacks, and others.
    """

    held: Updates
    new: int
    changed: int


def read(settings: Settings, bundle: Bundle) -> Updates:
    """What the file says; no rows if there is none."""
    try:
        with pa.OSFile(str(path(settings, bundle.name))) as file:
            table = pa.ipc.open_file(file).read_all()
    except FileNotFoundError:
        return _updates(bundle, FIELDS.empty_table(), collection_id=0)
    vectors = table["vector"].combine_chunks().flatten().to_numpy()
    return Updates(
        collection_id=int(table.schema.metadata[_COLLECTION]),
        items=table.select(FIELDS.names).cast(FIELDS),
        vectors_ND=vectors.reshape(len(table), bundle.manifest.width),
        applied_N=table["applied"].to_numpy(),
    )


def path(settings: Settings, bundle: str) -> Path:
    """Where the updates of a bundle's collection lie."""
    return settings.bundles / bundle / FILE


def stamp(settings: Settings, bundle: str) -> tuple[int, ...]:
    """Changes whenever the file does; cheap."""
    try:
        found = path(settings, bundle).stat()
    except FileNotFoundError:
        return ()
    return (found.st_mtime_ns, found.st_ino, found.st_size)


def merged(bundle: Bundle, held: Updates) -> tuple[pa.Table, npt.NDArray[np.float32]]:
    """Items (FIELDS, ascending item_key) and vectors of a bundle's collection that holds these."""
    trained = Updates(
        collection_id=held.collection_id,
        items=bundle.items.select(FIELDS.names),
        vectors_ND=bundle.item_vectors,
        applied_N=np.ones(bundle.items.num_rows, bool),
    )
    whole = trained.overlaid(held) if len(held) else trained
    return whole.items, whole.vectors_ND


def since_training(settings: Settings, bundle: Bundle) -> Updates:
    """What a collection that is built now must hold beyond the bundle's item table."""
    changed = _differing(_catalogue(settings), bundle, touched=np.empty(0, np.int64))
    return _updates(bundle, changed.to_arrow(), collection_id=0)


def catch_up(
    settings: Settings,
    client: MilvusClient,
    bundle: Bundle,
    collection: Collection,
    *,
    holds: Updates | None = None,
) -> CaughtUp:
    """Write into a bundle's collection whatever of the lake's items it lacks.

    The caller holds `alone`.

    Args:
        holds: what the collection was built with; otherwise the file says it.
    Raises: whatever the lake raises; MilvusException, after which running it again goes on.
    """
    recorded = read(settings, bundle)
    before = holds or recorded.of(collection)
    catalogue = _catalogue(settings)
    wanted = _differing(catalogue, bundle, touched=np.union1d(before.keys, recorded.keys))
    unsure = _frame(before.items).filter(pl.Series(~before.applied_N))
    gone = unsure.join(catalogue, on="item_key", how="anti")
    sure = _frame(before.items).filter(pl.Series(before.applied_N))
    pending = _updates(
        bundle,
        _without(pl.concat([wanted, gone]), sure).to_arrow(),
        collection_id=collection.id,
    )
    pending = replace(pending, applied_N=np.zeros(len(pending), bool))
    intended = replace(before, collection_id=collection.id).overlaid(pending)
    if len(pending) or intended.collection_id != recorded.collection_id:
        _save(settings, bundle.name, intended)
    faults.point("update.recorded")
    upsert(client, collection.name, pending.items, pending.vectors_ND)
    faults.point("update.written")
    held = replace(intended, applied_N=np.ones(len(intended), bool))
    if len(pending):
        _save(settings, bundle.name, held)
    known = int(np.isin(pending.keys, bundle.catalogue.keys).sum())
    return CaughtUp(held=held, new=len(pending) - known, changed=known)


@contextmanager
def alone(settings: Settings) -> Iterator[None]:
    """One writer to what is live at a time: updates, and the moment in which a bundle goes live.

    Held for seconds: a build makes its draft outside of it.
    """
    file = settings.run / "live-index.lock"
    try:
        with FileLock(file, timeout=_LOCK_WITHIN_S):
            yield
    except Timeout as error:
        raise Conflict("somebody else is changing the live index", where=str(file)) from error


def _catalogue(settings: Settings) -> pl.DataFrame:
    """The lake's items, each as it was last updated: FIELDS."""
    columns = (*FIELDS.names, "updated_at", "source")
    rows = lake.open_table(settings, ITEMS).scan(selected_fields=columns).to_arrow()
    newest = _frame(rows).sort("updated_at", "source").unique("item_key", keep="last")
    return newest.select(FIELDS.names)


def _differing(
    catalogue: pl.DataFrame, bundle: Bundle, *, touched: npt.NDArray[np.int64]
) -> pl.DataFrame:
    """The items that are not as the bundle's table has them, and those among `touched`."""
    differing = _without(catalogue, _frame(bundle.items.select(FIELDS.names)))
    again = catalogue.filter(pl.col("item_key").is_in(touched))
    return pl.concat([differing, again]).unique("item_key")


def _without(rows: pl.DataFrame, known: pl.DataFrame) -> pl.DataFrame:
    """The rows that do not stand in `known` just so."""
    return rows.join(known, on=FIELDS.names, how="anti", nulls_equal=True)


def _frame(rows: pa.Table) -> pl.DataFrame:
    frame = pl.from_arrow(rows)
    assert isinstance(frame, pl.DataFrame)
    return frame


def _updates(bundle: Bundle, items: pa.Table, *, collection_id: int) -> Updates:
    items = items.select(FIELDS.names).cast(FIELDS).sort_by("item_key").combine_chunks()
    return Updates(
        collection_id=collection_id,
        items=items,
        vectors_ND=bundle.encode_items(items),
        applied_N=np.ones(items.num_rows, bool),
    )


def _save(settings: Settings, bundle: str, held: Updates) -> None:
    """Write the file whole or not at all."""
    width = held.vectors_ND.shape[1]
    table = held.items.append_column(
        "vector", pa.FixedSizeListArray.from_arrays(pa.array(held.vectors_ND.ravel()), width)
    ).append_column("applied", pa.array(held.applied_N))
    table = table.replace_schema_metadata({_COLLECTION: str(held.collection_id)})
    with (
        whole.file(path(settings, bundle), durable=True) as draft,
        pa.ipc.new_file(str(draft), table.schema) as writer,
    ):
        writer.write_table(table)
