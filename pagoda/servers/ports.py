"""Ports: the default if it is free, otherwise the next free one, and the same again next time.

`run/ports.json` remembers every port of this PAGODA_HOME; `run/endpoints.toml` holds those that
settings carry, below the user's own settings. A port that the user has chosen is never moved.

While a home's supervisor lives its ports are its own, also those of a server that was killed and is
about to start again: other homes on the machine do not take them.
"""

from __future__ import annotations

import json
import os
import socket
import tempfile
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

from pagoda import whole
from pagoda.errors import Conflict, MachineError
from pagoda.servers import leftovers
from pagoda.servers.catalogue import SERVERS
from pagoda.servers.program import Port, Ports, Server
from pagoda.servers.supervisor import NAME as SUPERVISOR
from pagoda.settings import Settings

_TRIES = 500
_LOCK_WITHIN_S = 30


def recorded(settings: Settings, server: Server) -> dict[str, int]:
    """The ports that the server had last time; empty if it never ran here."""
    return _read(settings.run).get(server.name, {})


def allocate(settings: Settings, servers: Iterable[Server]) -> tuple[Settings, dict[str, Ports]]:
    """Choose and remember the ports of servers that are about to start.

    Returns: settings with these addresses in them, and server name to its ports.
    Raises: MachineError if a port that the user has chosen is taken.
    """
    with _one_home_at_a_time():
        elsewhere = _of_other_homes(settings.home)
        remembered = _read(settings.run)
        chosen: dict[str, Ports] = {}
        for server in servers:
            last = remembered.pop(server.name, {})
            taken = elsewhere.union(*(each.values() for each in remembered.values()))
            ports: dict[str, int] = {}
            for port in server.ports:
                given = chosen_by_user(settings, server, port)
                if given is not None:
                    _require_free(given, f"{server.name}'s {port.name} port")
                    ports[port.name] = given
                else:
                    ports[port.name] = _choose(
                        port.default, last.get(port.name), taken.union(ports.values())
                    )
            remembered[server.name] = chosen[server.name] = ports
        _write(settings, remembered)
    return settings_with(settings, chosen), chosen


def were_changed(settings: Settings, server: Server) -> bool:
    """Whether the user has since chosen other ports than the server listens on."""
    last = recorded(settings, server)
    return any(
        chosen_by_user(settings, server, port) not in (None, last.get(port.name))
        for port in server.ports
    )


def chosen_by_user(settings: Settings, server: Server, port: Port) -> int | None:
    """The port if environment, settings.toml or an argument says it, otherwise None."""
    if port.setting is None:
        return None
    part, field = port.setting
    address: int | str = getattr(getattr(settings, part), field)
    number = port.number(address)
    said = _said_in_environment(part, field) or _said_in_file(settings.home, part, field)
    known = (port.default, recorded(settings, server).get(port.name))
    return number if said or number not in known else None


def with_recorded(settings: Settings) -> Settings:
    """The settings with the addresses of last time, but for those that the user has chosen.

    Settings that were loaded before an `up` do not know where it found free ports.
    """
    remembered = _read(settings.run)
    unsaid = {
        server.name: {
            port.name: remembered[server.name][port.name]
            for port in server.ports
            if port.name in remembered.get(server.name, {})
            and chosen_by_user(settings, server, port) is None
        }
        for server in SERVERS
    }
    return settings_with(settings, unsaid)


def settings_with(settings: Settings, chosen: Mapping[str, Ports]) -> Settings:
    """The settings with the addresses of these servers' ports."""
    for (part, field), address in _addresses(chosen).items():
        changed = getattr(settings, part).model_copy(update={field: address})
        settings = settings.model_copy(update={part: changed})
    return settings


def is_free(port: int) -> bool:
    """Whether a server could listen on it, on loopback and on every interface."""
    for host in ("127.0.0.1", "0.0.0.0"):  # noqa: S104  (Milvus does)
        with socket.socket() as probe:
            # As servers do: connections that are dying do not count.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError:
                return False
    return True


def listener(port: int) -> int | None:
    """The process that listens on the port; None if none can be seen."""
    with suppress(psutil.Error):
        for connection in psutil.net_connections("tcp"):
            listens = connection.status == psutil.CONN_LISTEN
            if listens and connection.laddr and connection.laddr[1] == port:
                return connection.pid
    return None


def holder(port: int) -> str:
    """Who listens on the port, for people."""
    return leftovers.describe(listener(port))


def _said_in_environment(part: str, field: str) -> bool:
    return f"PAGODA_{part}__{field}".upper() in {name.upper() for name in os.environ}


def _said_in_file(home: Path, part: str, field: str) -> bool:
    path = home / "settings.toml"
    with suppress(FileNotFoundError, tomllib.TOMLDecodeError):  # loading the settings reports it
        return field in tomllib.loads(path.read_text()).get(part, {})
    return False


def _require_free(port: int, what: str) -> None:
    if not is_free(port):
        raise MachineError(
            f"{what} is taken",
            where=f"port {port}",
            found=holder(port),
            next_step="Stop that, or remove the port from your settings to have a free one taken.",
        )


def _choose(default: int, last: int | None, taken: set[int]) -> int:
    candidates = [last] if last is not None else []
    candidates += range(default, default + _TRIES)
    for port in candidates:
        if port not in taken and is_free(port):
            return port
    raise MachineError("no free port was found", where=f"ports {default} to {default + _TRIES - 1}")


def _addresses(chosen: Mapping[str, Ports]) -> dict[tuple[str, str], int | str]:
    """Setting to the address of these ports, as the setting writes it."""
    return {
        port.setting: port.address(chosen[server.name][port.name])
        for server in SERVERS
        for port in server.ports
        if port.setting and port.name in chosen.get(server.name, {})
    }


@contextmanager
def _one_home_at_a_time() -> Iterator[None]:
    """Of this user: what one home has chosen is written before the next one looks."""
    lock = Path(tempfile.gettempdir()) / f"pagoda-ports-{os.getuid()}.lock"
    try:
        with FileLock(lock, timeout=_LOCK_WITHIN_S, mode=0o600):
            yield
    except Timeout:
        raise Conflict("another `pagoda up` is still choosing ports", where=str(lock)) from None


def _of_other_homes(home: Path) -> set[int]:
    """All ports of homes on this machine whose supervisor lives, in use at the moment or not."""
    return {
        port
        for other in leftovers.homes(SUPERVISOR)
        if other != home.resolve()
        for each in _read(other / "run").values()
        for port in each.values()
    }


def _read(run: Path) -> dict[str, dict[str, int]]:
    try:
        text = (run / "ports.json").read_text()
    except FileNotFoundError:
        return {}
    found: dict[str, dict[str, int]] = json.loads(text)
    return found


def _write(settings: Settings, remembered: dict[str, dict[str, int]]) -> None:
    lines = ["# Written by `pagoda up`. Your own addresses belong into settings.toml."]
    addresses = _addresses(remembered)
    for part in sorted({part for part, _ in addresses}):
        lines.append(f"[{part}]")
        lines += [
            f"{field} = {json.dumps(address)}"
            for (of, field), address in addresses.items()
            if of == part
        ]
    whole.write(settings.run / "ports.json", json.dumps(remembered, indent=1))
    whole.write(settings.run / "endpoints.toml", "\n".join(lines) + "\n")
