"""Starting and stopping: `up` returns when the servers really answer, `down` when none is left."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from pagoda.errors import Conflict, DependencyDown, MachineError, NothingToDo, PagodaError
from pagoda.servers import files, leftovers, ports
from pagoda.servers.catalogue import SERVERS, named, with_needs
from pagoda.servers.program import NotYet, Ports, Server
from pagoda.servers.supervisor import NAME as SUPERVISOR
from pagoda.servers.supervisor import Supervisor, log_file
from pagoda.settings import Settings

Report = Callable[[str, str], None]
_POLL_S = 0.2
_LOCK_WITHIN_S = 300
_TAIL_LINES = 10
_STARTS = 3  # a process that was started so often without answering will not answer


def up(
    settings: Settings, names: Iterable[str] = (), *, report: Report = lambda _name, _text: None
) -> Settings:
    """Start servers and what they need; those that run already are only asked.

    Args:
        names: all that can start if empty.
        report: called with a server's name and what happens to it, from several threads.
    Returns: the settings with the addresses that the servers listen on.
    Raises: MachineError if one ends instead of starting or its port is taken, DependencyDown if
        one does not answer in time.
    """
    names = list(names)
    servers = with_needs(_wanted(settings, names) if names else _startable(settings, report))
    local = [server for server in servers if server.is_local(settings)]
    for server in servers:
        if server not in local:
            report(server.name, "external: not started here")
            if settings.servers == "embedded":
                _ask(server, settings)
    if not local:
        return settings
    with _lock(settings):
        supervisor = Supervisor(settings)
        _start_supervisor(settings, supervisor, report)
        settings = ports.with_recorded(settings)
        settings, chosen, moved = _give_ports(settings, supervisor, local)
        # What runs already and talks to a server that has moved must learn its address.
        local += [
            server
            for server in SERVERS
            if server not in local
            and moved.intersection(server.needs)
            and _runs(supervisor, server)
        ]
        _Start(settings, supervisor, report).all(local, chosen)
    return settings


def down(
    settings: Settings, names: Iterable[str] = (), *, report: Report = lambda _name, _text: None
) -> None:
    """Stop servers, all and the supervisor if no names are given; leaves no process of them.

    Works as well when the supervisor was killed. Raises: MachineError if a process lives on.
    """
    names = list(names)
    servers = named(names) if names else list(SERVERS)
    with _lock(settings):
        supervisor = Supervisor(settings)
        if supervisor.is_running():
            for tier in reversed(_tiers(servers)):
                with ThreadPoolExecutor() as pool:
                    list(pool.map(lambda server: _stop(supervisor, server, report), tier))
            if not names:
                supervisor.shut_down()
                _wait_until(lambda: not leftovers.of(settings.home, [SUPERVISOR]), within_s=20)
        wanted = [server.name for server in servers] + ([] if names else [SUPERVISOR])
        _end_leftovers(settings, wanted, report)
        if not names:
            supervisor.tidy()


class _Start:
    """One `up`: each server in a thread, which waits for those that its server needs."""

    def __init__(self, settings: Settings, supervisor: Supervisor, report: Report) -> None:
        self._settings = settings
        self._supervisor = supervisor
        self._report = report
        self._define = threading.Lock()
        self._cancelled = threading.Event()

    def all(self, servers: list[Server], chosen: Mapping[str, Ports]) -> None:
        """Start them; raises the first error once every thread has ended."""
        started: dict[str, Future[None]] = {}
        with ThreadPoolExecutor(max_workers=len(servers)) as pool:
            try:
                for server in servers:
                    needs = [started[name] for name in server.needs if name in started]
                    ports_of = chosen.get(server.name, {})
                    started[server.name] = pool.submit(self._one, server, ports_of, needs)
                for future in started.values():
                    future.exception()
            except KeyboardInterrupt:
                self._cancelled.set()
                raise
        errors = [error for future in started.values() if (error := future.exception())]
        real = [error for error in errors if not isinstance(error, _Skipped)]
        if len(real) > 1 and all(isinstance(error, PagodaError) for error in real):
            raise MachineError("servers did not start:\n" + "\n".join(map(str, real)))
        if real:
            raise real[0]

    def _one(self, server: Server, ports_of: Ports, needs: list[Future[None]]) -> None:
        if any(need.exception() for need in needs) or self._cancelled.is_set():
            raise _Skipped
        began = time.monotonic()
        try:
            self._report(server.name, "preparing")
            processes = server.prepare(self._settings, ports_of)
            with self._define:
                if self._supervisor.define(server, processes):
                    self._report(server.name, "restarting: its settings have changed")
            self._supervisor.run(server)
            self._wait(server)
            server.settle(self._settings)
        except OSError as error:
            raise _of_the_machine(error, server, self._settings) from error
        address = server.address(self._settings)
        where = f" on {address[0]}:{address[1]}" if address else ""
        self._report(server.name, f"ready{where} after {time.monotonic() - began:.1f} s")

    def _wait(self, server: Server) -> None:
        deadline = time.monotonic() + server.start_within_s
        seen: dict[str, set[int]] = {}
        while not self._cancelled.is_set():
            for info in self._supervisor.processes(server.name):
                pids = seen.setdefault(info["name"], set())
                pids |= {info["pid"]} - {0}
                if info["statename"] in ("FATAL", "STOPPED") or len(pids) >= _STARTS:
                    self._supervisor.stop(server)
                    raise _ended(server, log_file(self._settings, info["name"]))
            try:
                answers(server, self._settings)
                self._require_ours(server)
            except Exception as error:
                reason = str(error) or type(error).__name__
            else:
                return
            if time.monotonic() > deadline:
                raise DependencyDown(
                    server.name,
                    f"{reason} (after {server.start_within_s} s)",
                    next_step=f"It goes on trying. See `pagoda status` and {self._settings.logs}.",
                )
            self._report(server.name, reason)
            time.sleep(_POLL_S)
        raise _Skipped

    def _require_ours(self, server: Server) -> None:
        """Raises: NotYet if it was a server of somebody else that answered, on the same port."""
        address = server.address(self._settings)
        if address is None:
            return
        pid = ports.listener(address[1])
        ours = (str(self._settings.home.resolve()), server.name)
        if pid is None or leftovers.owner(pid) != ours:
            raise NotYet(f"port {address[1]} is held by {leftovers.describe(pid)}")


class _Skipped(Exception):
    """Not started, because something that it needs was not, or because of Ctrl-C."""


def answers(server: Server, settings: Settings) -> None:
    """Returns if the server does real work. Raises: NotYet, or an error of its client."""
    address = server.address(settings)
    if address:
        # Asked first: some clients take their time to find out that nobody listens.
        try:
            socket.create_connection(address, timeout=2).close()
        except OSError as error:
            raise NotYet(f"{address[0]}:{address[1]}: {error.strerror or error}") from error
    server.probe(settings)


def _ask(server: Server, settings: Settings) -> None:
    try:
        answers(server, settings)
    except Exception as error:
        raise DependencyDown(
            server.name,
            str(error) or type(error).__name__,
            next_step="Its address says that it is external: start it there.",
        ) from error


def _wanted(settings: Settings, names: list[str]) -> list[Server]:
    for server in (servers := named(names)):
        if reason := server.blocked(settings):
            raise NothingToDo(f"{server.name} cannot start: {reason}")
    return servers


def _startable(settings: Settings, report: Report) -> list[Server]:
    found = []
    for server in SERVERS:
        blocked = server.blocked(settings)
        if blocked:
            report(server.name, f"left out: {blocked}")
        else:
            found.append(server)
    return found


def _start_supervisor(settings: Settings, supervisor: Supervisor, report: Report) -> None:
    if supervisor.is_running():
        return
    _end_leftovers(settings, None, report)
    supervisor.start()


def _give_ports(
    settings: Settings, supervisor: Supervisor, servers: list[Server]
) -> tuple[Settings, dict[str, Ports], set[str]]:
    """Settings with addresses, ports by server, and the servers whose address has changed."""
    before = {server.name: ports.recorded(settings, server) for server in SERVERS}
    running = [server for server in servers if _runs(supervisor, server)]
    for server in [each for each in running if ports.were_changed(settings, each)]:
        supervisor.stop(server)
        running.remove(server)
    new = [server for server in servers if server not in running]
    settings, chosen = ports.allocate(settings, new)
    moved = {name for name, given in chosen.items() if given != before[name]}
    return settings, before | chosen, moved


def _runs(supervisor: Supervisor, server: Server) -> bool:
    infos = supervisor.processes(server.name)
    return bool(infos) and all(info["statename"] in ("RUNNING", "STARTING") for info in infos)


def _stop(supervisor: Supervisor, server: Server, report: Report) -> None:
    if any(info["pid"] for info in supervisor.processes(server.name)):
        began = time.monotonic()
        report(server.name, "stopping")
        supervisor.stop(server)
        report(server.name, f"stopped after {time.monotonic() - began:.1f} s")


def _end_leftovers(settings: Settings, names: list[str] | None, report: Report) -> None:
    """End processes that outlived their supervisor or their group."""
    found = leftovers.of(settings.home, names)
    if not found:
        return
    for name in sorted(set(found.values())):
        report(name, f"ending {sum(each == name for each in found.values())} left processes")
    grace_s = max((each.grace_s for each in SERVERS if each.name in found.values()), default=5)
    alive = leftovers.end(lambda: leftovers.of(settings.home, names), grace_s=grace_s)
    if alive:
        raise MachineError(
            "processes cannot be ended", found="; ".join(map(leftovers.describe, sorted(alive)))
        )


def _tiers(servers: list[Server]) -> list[list[Server]]:
    """Servers grouped so that each needs only servers of earlier groups."""
    tiers: list[list[Server]] = []
    left = list(servers)
    while left:
        names = {server.name for server in left}
        tier = [server for server in left if not names.intersection(server.needs)]
        tiers.append(tier)
        left = [server for server in left if server not in tier]
    return tiers


def _ended(server: Server, log: Path) -> MachineError:
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    tail = "\n".join(line[:200] for line in lines[-_TAIL_LINES:])
    return MachineError(
        f"{server.name} ended instead of starting",
        where=str(log),
        found=f"its last words:\n{tail}\n" if tail else "an empty log",
        next_step="Run `pagoda doctor`.",
    )


def _of_the_machine(error: OSError, server: Server, settings: Settings) -> MachineError:
    return MachineError(
        f"{server.name} cannot be prepared",
        where=str(error.filename or settings.home / "data" / server.name),
        found=error.strerror or str(error),
        next_step="Is the folder writable, and the disk not full? Run `pagoda doctor`.",
    )


@contextmanager
def _lock(settings: Settings) -> Iterator[None]:
    """One `up` or `down` at a time."""
    files.require_usable(settings)
    lock = FileLock(settings.run / "servers.lock", timeout=_LOCK_WITHIN_S)
    try:
        lock.acquire()
    except Timeout:
        raise Conflict(
            "another `pagoda up` or `down` is still at work", where=str(settings.run)
        ) from None
    try:
        yield
    finally:
        lock.release()


def _wait_until(condition: Callable[[], bool], *, within_s: float) -> None:
    deadline = time.monotonic() + within_s
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.1)
