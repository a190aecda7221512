"""Milvus as Pagoda uses it: collections, what is known of each, and the alias rankers search.

Collections are called `items_<bundle>` and hold the vectors and filterable fields of one bundle's
items, and of those that are new or have changed since (`pagoda.updates`). The alias always names a
whole, checked one.

    item_key | item_id | vector | brand … colour | price | in_stock
    int64 pk   text      [d]      text, "" = none  double  bool
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pymilvus import MilvusClient
from pymilvus.client.types import LoadState
from pymilvus.exceptions import MilvusException
from tenacity import retry, retry_if_exception, stop_after_delay, wait_fixed

from pagoda.errors import DependencyDown, InputError
from pagoda.filters import NO_PRICE, TEXT_FIELDS, stored
from pagoda.settings import Settings

_PREFIX = "items_"
VECTOR = "vector"
_CONNECT_TIMEOUT_S = 5
_ROWS_PER_WRITE = 4_000  # 2 MB of vectors at d=128: well below gRPC's and the log's limits
_ALIAS_NOT_FOUND = 1600
_CHANNEL_NOT_AVAILABLE = 503
_LOAD_TIMEOUT_S = 3_600


@dataclass(frozen=True, kw_only=True)
class Collection:
    """What Milvus says of a collection.

    Attributes:
        id: Milvus's own; stays through renaming, and no other collection ever has it.
        rows: how many rows were written to it; an item that was updated counts again.
        index_type: of the vectors: FLAT or IVF_SQ8.
        index_params: as given at creation, such as nlist.
        fingerprint: of what it was built from, see `fingerprint`.
        loaded: whether it answers searches.
    """

    name: str
    id: int
    rows: int
    index_type: str
    index_params: dict[str, Any] = field(default_factory=dict)
    fingerprint: str
    loaded: bool


@contextmanager
def milvus(settings: Settings) -> Iterator[MilvusClient]:
    """A client for the length of a block.

    Raises: DependencyDown for whatever Milvus answers badly inside the block: pymilvus and, for
        calls the server does not know, grpc have exceptions of their own.
    """
    # pymilvus logs a traceback for every refused call, beside raising it.
    logging.getLogger("pymilvus").setLevel(logging.CRITICAL)
    client = None
    try:
        client = MilvusClient(
            uri=settings.milvus.uri,
            user=settings.milvus.user,
            password=settings.milvus_password(),
            timeout=_CONNECT_TIMEOUT_S,
        )
        yield client
    except (MilvusException, grpc.RpcError) as error:
        raise DependencyDown("milvus", reason(error)) from error
    finally:
        if client is not None:
            client.close()


def reason(error: MilvusException | grpc.RpcError) -> str:
    """The one line that says what went wrong."""
    if isinstance(error, MilvusException):
        return str(error.message).splitlines()[0]
    if isinstance(error, grpc.Call):
        return f"{error.code().name}: {error.details()}"
    return repr(error)


def collection_of(bundle: str) -> str:
    """The name of a bundle's collection."""
    return f"{_PREFIX}{bundle}"


def describe(client: MilvusClient, name: str) -> Collection | None:
    """What Milvus knows of a collection, or None where it has none of that name."""
    if not client.has_collection(name):
        return None
    index = client.describe_index(name, VECTOR) if VECTOR in client.list_indexes(name) else {}
    state = client.get_load_state(name)["state"]
    described = client.describe_collection(name)
    return Collection(
        name=name,
        id=int(described["collection_id"]),
        rows=int(client.get_collection_stats(name)["row_count"]),
        index_type=index.get("index_type", ""),
        index_params={key: int(index[key]) for key in ("nlist",) if key in index},
        fingerprint=_recorded_fingerprint(described["description"]),
        loaded=state == LoadState.Loaded,
    )


def standing(client: MilvusClient, bundle: str) -> Collection:
    """A bundle's collection, loaded. Raises: InputError if Milvus has none."""
    found = describe(client, collection_of(bundle))
    if found is None:
        raise InputError(
            f"the bundle {bundle!r} has no collection in Milvus",
            expected=collection_of(bundle),
            next_step=f"Build it: `pagoda index --bundle {bundle}`.",
        )
    if not found.loaded:
        load(client, found.name)
    return found


def load(client: MilvusClient, name: str) -> int:
    """Load a collection and wait until it answers. Returns: how many rows it holds."""
    client.load_collection(name, timeout=_LOAD_TIMEOUT_S)
    return _counted(client, name)


def _not_served_yet(error: BaseException) -> bool:
    return isinstance(error, MilvusException) and error.code == _CHANNEL_NOT_AVAILABLE


# Milvus may call a collection loaded while no node serves its channel yet, or its node changes.
@retry(
    retry=retry_if_exception(_not_served_yet),
    stop=stop_after_delay(60),
    wait=wait_fixed(0.5),
    reraise=True,
)
def _counted(client: MilvusClient, name: str) -> int:
    (row,) = client.query(name, filter="", output_fields=["count(*)"], consistency_level="Strong")
    return int(row["count(*)"])


def entities(
    items: pa.Table, vectors_ND: npt.NDArray[np.float32]
) -> Iterator[list[dict[str, Any]]]:
    """Items as Milvus takes them, in portions; what is missing takes its stand-in."""
    columns = items.select(["item_key", "item_id", *TEXT_FIELDS, "price", "in_stock"])
    for start in range(0, items.num_rows, _ROWS_PER_WRITE):
        rows: list[dict[str, Any]] = columns.slice(start, _ROWS_PER_WRITE).to_pylist()
        for row, vector in zip(rows, vectors_ND[start : start + len(rows)], strict=True):
            row[VECTOR] = vector
            row |= {name: stored(row[name] or "") for name in TEXT_FIELDS}
            row["price"] = NO_PRICE if row["price"] is None else row["price"]
            row["in_stock"] = row["in_stock"] is not False
        yield rows


def upsert(
    client: MilvusClient, collection: str, items: pa.Table, vectors_ND: npt.NDArray[np.float32]
) -> None:
    """Write items over those of the same keys; what was acknowledged survives a kill."""
    for rows in entities(items, vectors_ND):
        client.upsert(collection, rows)


def fingerprint(items: pa.Table, vectors_ND: npt.NDArray[np.float32]) -> str:
    """Of everything a collection is built from; updates come and go on top of it."""
    columns = items.select(["item_key", "item_id", *TEXT_FIELDS, "price", "in_stock"])
    columns = columns.combine_chunks().replace_schema_metadata()
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, columns.schema) as stream:
        stream.write_table(columns)
    digest = hashlib.blake2b(np.ascontiguousarray(vectors_ND).tobytes(), digest_size=16)
    digest.update(sink.getvalue())
    return digest.hexdigest()


def description(*, bundle: str, fingerprint: str) -> str:
    """What a collection's description says of it."""
    return json.dumps({"bundle": bundle, "fingerprint": fingerprint})


def _recorded_fingerprint(described: str) -> str:
    try:
        return str(json.loads(described)["fingerprint"])
    except (ValueError, TypeError, KeyError):
        return ""  # somebody else's collection: equal to none of ours


def aliased(client: MilvusClient, alias: str) -> str | None:
    """The collection that an alias names."""
    try:
        return str(client.describe_alias(alias)["collection_name"])
    except MilvusException as error:
        if error.code == _ALIAS_NOT_FOUND:
            return None
        raise


def point(client: MilvusClient, *, alias: str, collection: str) -> None:
    """Let the alias name that collection, in one step for whoever searches by it.

    Altering comes first: an alias whose collection was dropped is not found when asked for, and
    yet cannot be created.
    """
    try:
        client.alter_alias(collection, alias)
    except MilvusException as error:
        if error.code != _ALIAS_NOT_FOUND:
            raise
        client.create_alias(collection, alias)
