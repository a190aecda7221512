"""Milvus as Pagoda uses it: collections, what is known of each, and the alias rankers search.

Collections are called `items_<bundle>`, hold the vectors and filterable fields of one bundle and
never change once live. The alias always names a whole, checked one.
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

from pagoda.errors import DependencyDown
from pagoda.filters import TEXT_FIELDS
from pagoda.settings import Settings

_PREFIX = "items_"
VECTOR = "vector"
_CONNECT_TIMEOUT_S = 5
_ALIAS_NOT_FOUND = 1600


@dataclass(frozen=True, kw_only=True)
class Collection:
    """What Milvus says of a collection.

    Attributes:
        rows: how many items it holds.
        index_type: of the vectors: FLAT or IVF_SQ8.
        index_params: as given at creation, such as nlist.
        fingerprint: of what it was built from, see `fingerprint`.
        loaded: whether it answers searches.
    """

    name: str
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
    return Collection(
        name=name,
        rows=int(client.get_collection_stats(name)["row_count"]),
        index_type=index.get("index_type", ""),
        index_params={key: int(index[key]) for key in ("nlist",) if key in index},
        fingerprint=_recorded_fingerprint(client.describe_collection(name)["description"]),
        loaded=state == LoadState.Loaded,
    )


def fingerprint(items: pa.Table, vectors_ND: npt.NDArray[np.float32]) -> str:
    """Of everything a collection holds: equal fingerprints, equal answers."""
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
