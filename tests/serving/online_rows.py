"""Put feature rows into Redis as Feast lays them out: the writer that serving's tests need.

The inverse of `pagoda.online.OnlineReader`, whose own tests hold it to Feast.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from feast.infra.online_stores.helpers import _mmh3 as field_hash
from feast.protos.feast.types.Value_pb2 import Int64List, StringList, Value
from google.protobuf.timestamp_pb2 import Timestamp

from pagoda.features import SEQUENCES_V1, Service
from pagoda.ids import key_of
from pagoda.online import OnlineReader, connect
from pagoda.settings import Settings


def write(
    settings: Settings,
    user_id: str,
    rows: Mapping[str, Mapping[str, Any] | None],
    *,
    at_ms: int,
    service: Service = SEQUENCES_V1,
) -> None:
    """Write a user's rows, valid from `at_ms`; a None row is left out."""
    with connect(settings) as client:
        key = OnlineReader(settings, service, client=client).redis_key(key_of("user", user_id))
        client.delete(key)
        for name, row in rows.items():
            if row is None:
                continue
            stamp = Timestamp(seconds=at_ms // 1000, nanos=at_ms % 1000 * 1_000_000)
            client.hset(key, f"_ts:{name}", stamp.SerializeToString())
            for column, value in row.items():
                client.hset(key, field_hash(f"{name}:{column}"), _value(value))


def _value(value: Any) -> bytes:
    if isinstance(value, list) and value and isinstance(value[0], str):
        return bytes(Value(string_list_val=StringList(val=value)).SerializeToString())
    if isinstance(value, list):
        return bytes(Value(int64_list_val=Int64List(val=value)).SerializeToString())
    raise TypeError(f"no form for {value!r}")
