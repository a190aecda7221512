"""What each server does right now."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

import psutil

from pagoda.servers import files, leftovers, ports
from pagoda.servers.catalogue import SERVERS
from pagoda.servers.control import answers
from pagoda.servers.program import Server
from pagoda.servers.supervisor import Supervisor, log_file
from pagoda.settings import Settings

State = Literal["ready", "starting", "not answering", "failed", "stopped", "orphaned", "external"]


@dataclass(frozen=True, kw_only=True)
class Health:
    """One server now.

    Attributes:
        state: `starting` does not answer yet, and need not by now; `orphaned` runs without its
            supervisor: `down` ends it, `up` starts it anew.
        ready: it answered a real request.
        memory_mb: resident memory of all its processes, megabytes.
        uptime_s: of its youngest supervised process, seconds.
    """

    name: str
    state: State
    ready: bool
    detail: str
    address: str | None
    pids: tuple[int, ...]
    memory_mb: int
    uptime_s: int | None
    logs: tuple[str, ...]


def status(settings: Settings) -> list[Health]:
    """Every server's health, in the order in which they start."""
    files.require_usable(settings)
    settings = ports.with_recorded(settings)
    infos = Supervisor(settings).processes()
    supervised = {
        server.name: [info for info in infos if info["group"] == server.name] for server in SERVERS
    }
    processes = leftovers.of(settings.home)

    def ask(server: Server) -> Health:
        return _health(server, settings, supervised[server.name], processes)

    with ThreadPoolExecutor(max_workers=len(SERVERS)) as pool:
        return list(pool.map(ask, SERVERS))


def _health(
    server: Server, settings: Settings, infos: list[dict[str, object]], processes: dict[int, str]
) -> Health:
    pids = tuple(sorted(pid for pid, name in processes.items() if name == server.name))
    ready, detail = False, ""
    if pids or not server.is_local(settings):
        try:
            answers(server, settings)
        except Exception as error:
            detail = str(error) or type(error).__name__
        else:
            ready = True
    address = server.address(settings)
    started = [int(str(info["start"])) for info in infos if info["pid"]]
    uptime_s = int(time.time()) - max(started) if started else None
    state = _state(server, settings, infos, bool(pids), ready)
    if state == "not answering" and uptime_s is not None and uptime_s < server.start_within_s:
        state = "starting"
    return Health(
        name=server.name,
        state=state,
        ready=ready,
        detail=detail,
        address=f"{address[0]}:{address[1]}" if address else None,
        pids=pids,
        memory_mb=_memory_mb(pids),
        uptime_s=uptime_s,
        logs=tuple(str(log_file(settings, str(info["name"]))) for info in infos),
    )


def _state(
    server: Server, settings: Settings, infos: list[dict[str, object]], alive: bool, ready: bool
) -> State:
    if not server.is_local(settings):
        return "external"
    states = {info["statename"] for info in infos}
    if "FATAL" in states:
        return "failed"
    if not states - {"STOPPED"}:
        return "orphaned" if alive else "stopped"
    return "ready" if ready else "not answering"


def _memory_mb(pids: tuple[int, ...]) -> int:
    total = 0
    for pid in pids:
        with suppress(psutil.Error):
            total += psutil.Process(pid).memory_info().rss
    return round(total / 2**20)
