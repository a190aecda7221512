"""The vector index: the Milvus standalone server that the `milvus` wheel carries.

All its ports but etcd's listen on every interface, whatever the configuration says: so its
authorization is on, and the password it is born with is changed as soon as it answers.
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import grpc
from pymilvus import MilvusClient
from pymilvus.client.types import LoadState
from pymilvus.exceptions import MilvusException

from pagoda.servers.program import NotYet, Port, Ports, Process, Server
from pagoda.settings import Settings

_BORN_WITH = "Milvus"
_TIMEOUT_S = 5
_PARTS = (
    "rootCoord",
    "proxy",
    "queryCoord",
    "queryNode",
    "indexCoord",
    "indexNode",
    "dataCoord",
    "dataNode",
)

# Without a file of its own the embedded etcd takes 2379 and 2380: one Milvus a machine.
_ETCD = """\
name: default
data-dir: data/etcd.data
listen-client-urls: http://127.0.0.1:{etcd}
advertise-client-urls: http://127.0.0.1:{etcd}
listen-peer-urls: http://127.0.0.1:{etcd_peer}
initial-advertise-peer-urls: http://127.0.0.1:{etcd_peer}
initial-cluster: default=http://127.0.0.1:{etcd_peer}
"""
# The short session makes a restart after a kill take 7 s instead of 54; the time tick is how long
# a Strong search waits at least. Items written into a live IVF collection would get an index of 16
# probes of 128 until their segment is sealed, whatever a search asks for: recall .44 was seen.
_TUNED = {
    "common.session.ttl": 5,
    "common.gracefulStopTimeout": 5,
    "proxy.timeTickInterval": 20,
    "queryNode.segcore.interimIndex.enableIndex": False,
    "log.level": "warn",
    # Otherwise it finds itself under the address that the network gave, until that changes.
    **{f"{part}.ip": "127.0.0.1" for part in _PARTS},
}


def _prepare(settings: Settings, ports: Ports) -> tuple[Process, ...]:
    import milvus

    folder = settings.data("milvus")
    milvus._initialize_data_files(str(folder))  # unpacks the binary once
    (folder / "tmp").mkdir(exist_ok=True)
    config = _configure(folder, ports)
    return (
        Process(
            name="milvus",
            command=("bin/milvus", "run", "standalone"),
            cwd=folder,
            env={
                "DEPLOY_MODE": "STANDALONE",
                "METRICS_PORT": str(ports["metrics"]),
                "MILVUS_RUN_DIR": "run",
                "LD_LIBRARY_PATH": "bin",
                "TMPDIR": "tmp",
            },
            config=config,
        ),
    )


def _configure(folder: Path, ports: Ports) -> str:
    """Write `configs/` and return what it says.

    Logs go to stdout, where the supervisor rotates them; paths are relative to the folder, where
    Milvus runs.
    """
    import milvus

    server = milvus.MilvusServerConfig(data_dir=str(folder))
    server.resolve_storage()
    for name, port in ports.items():
        server.set(f"{name}_port", port)
    server.set("authorization_enabled", True)
    server.set("etcd_log_level", "warn")
    server.set("etcd_log_path", "stdout")
    server.set("system_log_path", '""')
    server.set("local_storage_dir", "data")
    server.set("etcd_data_dir", "data/etcd.data")
    server.set("rocksmq_data_dir", "data/rocksmq")
    server.extra_configs.update(_TUNED)
    server.write_config()

    configs = folder / "configs"
    etcd = _ETCD.format(**ports)
    (configs / "etcd.yaml").write_text(etcd)
    main = (configs / "milvus.yaml").read_text()
    main = main.replace("\n  use:\n", "\n  config:\n    path: configs/etcd.yaml\n  use:\n", 1)
    (configs / "milvus.yaml").write_text(main)
    (configs / "glog.conf").write_text("--logtostderr=true\n--minloglevel=1\n")
    return main + etcd


def _probe(settings: Settings) -> None:
    """Read from the live collection where there is one: Milvus feels healthy long before that."""
    alias = settings.milvus.alias
    try:
        client = _log_in(settings)
        try:
            if not client.has_collection(alias, timeout=_TIMEOUT_S):
                return
            state = client.get_load_state(alias, timeout=_TIMEOUT_S)["state"]
            if state == LoadState.Loading:
                raise NotYet(f"loading {alias}")
            if state == LoadState.Loaded:
                client.query(alias, filter="", output_fields=["count(*)"], timeout=_TIMEOUT_S)
        finally:
            client.close()
    except (MilvusException, grpc.RpcError) as error:
        raise NotYet(getattr(error, "message", "") or str(error)) from error


def _log_in(settings: Settings) -> MilvusClient:
    """A client; a server that is new gets its generated password first."""
    changed = settings.data("milvus") / "password-changed"
    if SERVER.is_local(settings) and not changed.exists():
        born = _client(settings, _BORN_WITH)
        born.update_password(settings.milvus.user, _BORN_WITH, settings.milvus_password())
        born.close()
        changed.touch()
    return _client(settings, settings.milvus_password())


def _client(settings: Settings, password: str) -> MilvusClient:
    return MilvusClient(
        settings.milvus.uri,
        user=settings.milvus.user,
        password=password,
        timeout=_TIMEOUT_S,
        dedicated=True,  # others of this process must not get to share it
    )


def _address(settings: Settings) -> tuple[str, int]:
    uri = urlsplit(settings.milvus.uri)
    return uri.hostname or "", uri.port or 19530


SERVER = Server(
    name="milvus",
    title="Milvus, the vector index",
    prepare=_prepare,
    probe=_probe,
    address=_address,
    ports=(
        Port(
            name="proxy",
            default=19530,
            setting=("milvus", "uri"),
            form="http://127.0.0.1:{port}",
        ),
        Port(name="proxy_internal", default=19529),
        Port(name="root_coord", default=19531),
        Port(name="query_coord", default=19532),
        Port(name="query_node", default=19533),
        Port(name="index_coord", default=19534),
        Port(name="index_node", default=19535),
        Port(name="data_coord", default=19536),
        Port(name="data_node", default=19537),
        Port(name="metrics", default=19538),
        Port(name="etcd", default=19539),
        Port(name="etcd_peer", default=19540),
    ),
    grace_s=8,
    start_within_s=300,
)
