"""One bundle's items in a fresh Milvus collection, indexed and loaded.

The collection grows under a draft name, which nobody searches; the next build drops what an
interrupted one left there.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pymilvus import DataType, MilvusClient

from pagoda import faults
from pagoda.errors import CheckFailed, InputError
from pagoda.filters import STORED_BYTES, TEXT_FIELDS
from pagoda.index import VECTOR, Collection, describe, entities, load

DRAFT_PREFIX = "draft_"
_ID_BYTES = 1_024  # 256 characters, as messages allow: items that come later must fit too
_MOST_BYTES = 65_535
_BUILD_TIMEOUT_S = 3_600
_POLL_S = 0.2

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and of how much."""


@dataclass(frozen=True, kw_only=True)
class IndexSpec:
    """Index of the vectors, as Milvus calls it."""

    kind: str
    params: dict[str, int] = field(default_factory=dict)


def choose_index(*, rows: int, flat_max_items: int) -> IndexSpec:
    """Exact up to `flat_max_items`, quantised clusters beyond.

    HNSW is not among them: it loses results where half of the items pass a filter (recall .88),
    and IVF reads all clusters for a filtered search.
    """
    if rows <= flat_max_items:
        return IndexSpec(kind="FLAT")
    # Milvus's own rule of thumb; k-means wants some 39 points a cluster.
    nlist = max(1, min(4 * math.isqrt(rows), rows // 39, 65_536))
    return IndexSpec(kind="IVF_SQ8", params={"nlist": nlist})


def drop_draft(client: MilvusClient, name: str) -> bool:
    """Drop what an interrupted build of that collection left; whether there was anything."""
    draft = DRAFT_PREFIX + name
    if not client.has_collection(draft):
        return False
    client.drop_collection(draft)
    return True


def build_draft(
    client: MilvusClient,
    *,
    name: str,
    described: str,
    items: pa.Table,
    vectors_ND: npt.NDArray[np.float32],
    index: IndexSpec,
    progress: Progress,
) -> Collection:
    """Fill, index and load `draft_<name>`.

    Args:
        described: from `pagoda.index.description`.
    Raises: InputError naming everything in the items that Milvus cannot hold; CheckFailed if
        Milvus ends up with another number of rows.
    """
    _refuse_unusable(items, vectors_ND)
    draft = DRAFT_PREFIX + name
    _create(client, draft, described=described, items=items, width=vectors_ND.shape[1])
    done = 0
    for rows in entities(items, vectors_ND):
        client.insert(draft, rows)
        done += len(rows)
        faults.point("index.inserted")
        progress("insert", done, items.num_rows)
    progress("flush", 0, 1)
    client.flush(draft)
    progress("flush", 1, 1)
    _index(client, draft, index, progress)
    faults.point("index.indexed")
    progress("load", 0, 1)
    counted = load(client, draft)
    progress("load", 1, 1)
    return _verified(client, draft, rows=items.num_rows, counted=counted)


def _refuse_unusable(items: pa.Table, vectors_ND: npt.NDArray[np.float32]) -> None:
    problems = []
    if len(vectors_ND) != items.num_rows:
        problems.append(f"{len(vectors_ND)} vectors for {items.num_rows} items")
    if not np.isfinite(vectors_ND).all():
        bad = int((~np.isfinite(vectors_ND).all(axis=1)).sum())
        problems.append(f"{bad} vectors hold NaN or infinity")
    longest = _longest_bytes(items["item_id"])
    if longest > _MOST_BYTES:
        problems.append(f"item_id: {longest} bytes, at most {_MOST_BYTES}")
    if problems:
        raise InputError("the bundle's items cannot be indexed", problems=problems)


def _create(
    client: MilvusClient, name: str, *, described: str, items: pa.Table, width: int
) -> None:
    schema = client.create_schema(auto_id=False, enable_dynamic_field=False, description=described)
    schema.add_field("item_key", DataType.INT64, is_primary=True)
    schema.add_field(VECTOR, DataType.FLOAT_VECTOR, dim=width)
    id_bytes = max(_ID_BYTES, _longest_bytes(items["item_id"]))
    schema.add_field("item_id", DataType.VARCHAR, max_length=id_bytes)
    for text in TEXT_FIELDS:
        schema.add_field(text, DataType.VARCHAR, max_length=STORED_BYTES)
    schema.add_field("price", DataType.DOUBLE)
    schema.add_field("in_stock", DataType.BOOL)
    client.create_collection(name, schema=schema, consistency_level="Bounded")


def _index(client: MilvusClient, name: str, index: IndexSpec, progress: Progress) -> None:
    """All indexes, before the collection is loaded: later ones would not be used."""
    params = client.prepare_index_params()
    params.add_index(
        VECTOR, index_name=VECTOR, index_type=index.kind, metric_type="IP", params=index.params
    )
    for text in TEXT_FIELDS:
        params.add_index(text, index_name=text, index_type="Trie")
    params.add_index("price", index_name="price", index_type="STL_SORT")
    client.create_index(name, params, timeout=_BUILD_TIMEOUT_S)
    names = [VECTOR, *TEXT_FIELDS, "price"]
    deadline = time.monotonic() + _BUILD_TIMEOUT_S
    while pending := [each for each in names if not _finished(client, name, each)]:
        progress("index", len(names) - len(pending), len(names))
        if time.monotonic() > deadline:
            raise CheckFailed(f"indexes do not finish: {', '.join(pending)}", where=name)
        time.sleep(_POLL_S)
    progress("index", len(names), len(names))


def _finished(client: MilvusClient, name: str, index: str) -> bool:
    state = client.describe_index(name, index)
    return bool(state["state"] == "Finished" and state["pending_index_rows"] == 0)


def _verified(client: MilvusClient, name: str, *, rows: int, counted: int) -> Collection:
    collection = describe(client, name)
    if collection is None or not collection.loaded or counted != rows:
        raise CheckFailed(
            "the collection is not whole",
            where=name,
            expected=f"{rows} rows",
            found=f"{counted} rows, loaded: {collection and collection.loaded}",
        )
    return collection


def _longest_bytes(column: pa.ChunkedArray[pa.StringScalar]) -> int:
    return max((len(text.encode()) for text in column.to_pylist()), default=0)
