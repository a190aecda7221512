"""Every local server, in the order in which they start."""

from __future__ import annotations

from collections.abc import Iterable

from pagoda.errors import InputError
from pagoda.servers import airflow, kafka, milvus, own, redis
from pagoda.servers.program import Server

SERVERS: tuple[Server, ...] = (
    kafka.SERVER,
    redis.SERVER,
    milvus.SERVER,
    airflow.SERVER,
    own.SEQUENCES,
    own.LANDING,
    own.SERVING,
)
_BY_NAME = {server.name: server for server in SERVERS}


def named(names: Iterable[str]) -> list[Server]:
    """The servers of these names. Raises: InputError naming every one that does not exist."""
    names = list(names)
    unknown = [name for name in names if name not in _BY_NAME]
    if unknown:
        raise InputError(
            f"no such server: {', '.join(unknown)}", expected=f"any of {', '.join(_BY_NAME)}"
        )
    return [server for server in SERVERS if server.name in names]


def with_needs(servers: Iterable[Server]) -> list[Server]:
    """The servers and all that they need."""
    names = {server.name for server in servers}
    while more := {need for name in names for need in _BY_NAME[name].needs} - names:
        names |= more
    return named(names)
