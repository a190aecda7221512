"""A private supervisord of one PAGODA_HOME, spoken to over its unix socket."""

from __future__ import annotations

import hashlib
import os
import resource
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any
from xmlrpc.client import Fault, ServerProxy

from supervisor.xmlrpc import SupervisorTransport

from pagoda import whole
from pagoda.errors import MachineError
from pagoda.servers import leftovers
from pagoda.servers.program import Process, Server
from pagoda.settings import Settings

NAME = "supervisord"
_SOCKET_PATH_BYTES = 90  # of at most 104; supervisord adds its process id while it makes it
_START_WITHIN_S = 20

_MAIN = """\
[unix_http_server]
file={socket}
chmod=0700
[supervisord]
pidfile={run}/supervisord.pid
logfile={logs}/supervisord.log
logfile_maxbytes=5MB
logfile_backups=2
childlogdir={run}
directory={run}
identifier=pagoda
minfds={files}
minprocs=1
umask=077
[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface
[include]
files=servers/*.conf
"""

# supervisord restarts what is defined anew when the definition differs: the digest makes a changed
# configuration file or environment show in it.
_PROGRAM = """\
[program:{name}]
command={command}
directory={cwd}
environment=PAGODA_CONFIG_DIGEST="{digest}"
autostart=false
autorestart=true
startsecs=1
startretries=2
stopwaitsecs={grace_s}
stopasgroup=true
killasgroup=true
redirect_stderr=true
stdout_logfile={log}
stdout_logfile_maxbytes=20MB
stdout_logfile_backups=3
"""


def log_file(settings: Settings, process: str) -> Path:
    """Where the supervisor writes and rotates what a process prints."""
    return settings.logs / f"{process}.log"


class Supervisor:
    """The supervisor of one PAGODA_HOME: started at need, asked over XML-RPC."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._socket = _socket(settings)

    def is_running(self) -> bool:
        """Whether it answers."""
        try:
            self._rpc().getState()
        except OSError:
            return False
        return True

    def start(self) -> None:
        """Start it unless it runs. Raises: MachineError with what it said if it does not start."""
        if self.is_running():
            return
        settings = self._settings
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        config = whole.write(
            settings.run / "supervisord.conf",
            _MAIN.format(
                socket=self._socket,
                run=_escape(str(settings.run)),
                logs=_escape(str(settings.logs)),
                files=65536 if hard == resource.RLIM_INFINITY else min(hard, 65536),
            ),
            private=True,
        )
        self._forget_servers()
        done = subprocess.run(
            [sys.executable, "-m", "supervisor.supervisord", "-c", str(config)],
            env={**os.environ, leftovers.MARK: leftovers.mark(settings.home, NAME)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        deadline = time.monotonic() + _START_WITHIN_S
        while not self.is_running():
            if done.returncode or time.monotonic() > deadline:
                raise MachineError(
                    "the supervisor does not start",
                    where=str(settings.logs / "supervisord.log"),
                    found=(done.stderr or done.stdout).strip()[-600:] or None,
                )
            time.sleep(0.05)

    def shut_down(self) -> None:
        """Stop every program and the supervisor itself; returns at once."""
        with suppress(OSError, Fault):
            self._rpc().shutdown()

    def tidy(self) -> None:
        """Remove the socket's folder where it lies outside of PAGODA_HOME."""
        if self._socket.parent != self._settings.run:
            with suppress(OSError):
                self._socket.parent.rmdir()

    def define(self, server: Server, processes: Iterable[Process]) -> bool:
        """Make a server known; one that was known otherwise is stopped. Returns: if so."""
        settings = self._settings
        folder = settings.run / "servers"
        folder.mkdir(exist_ok=True)
        text = _render(settings, server, list(processes))
        whole.write(folder / f"{server.name}.conf", text, private=True)
        rpc = self._rpc()
        added, changed, _removed = rpc.reloadConfig()[0]
        if server.name in changed:
            self.stop(server)
            rpc.removeProcessGroup(server.name)
        if server.name in (*added, *changed):
            rpc.addProcessGroup(server.name)
        return server.name in changed

    def run(self, server: Server) -> None:
        """Start the processes of a server that do not run; returns at once."""
        for info in self.processes(server.name):
            if info["statename"] not in ("RUNNING", "STARTING"):
                with suppress(Fault):  # it is coming up by itself just now
                    self._rpc().startProcess(f"{server.name}:{info['name']}", False)

    def stop(self, server: Server) -> None:
        """Stop a server's processes; returns when they have ended, by force after its grace."""
        with suppress(Fault):
            self._rpc().stopProcessGroup(server.name)

    def processes(self, server: str | None = None) -> list[dict[str, Any]]:
        """What supervisord knows of its processes; empty if it does not run."""
        try:
            infos = self._rpc().getAllProcessInfo()
        except OSError:
            return []
        return [info for info in infos if server is None or info["group"] == server]

    def _rpc(self) -> Any:
        transport = SupervisorTransport(None, None, f"unix://{self._socket}")
        return ServerProxy("http://127.0.0.1", transport=transport).supervisor

    def _forget_servers(self) -> None:
        for old in (self._settings.run / "servers").glob("*.conf"):
            old.unlink()


def _render(settings: Settings, server: Server, processes: list[Process]) -> str:
    """The server's section of the configuration; environments go into files of mode 0600."""
    names = ",".join(process.name for process in processes)
    sections = [f"[group:{server.name}]\nprograms={names}\n"]
    for process in processes:
        environment = {
            **process.env,
            "PAGODA_HOME": str(settings.home),
            leftovers.MARK: leftovers.mark(settings.home, server.name),
        }
        lines = [f"export {key}={shlex.quote(value)}\n" for key, value in environment.items()]
        env_file = whole.write(
            settings.run / "servers" / f"{process.name}.env", "".join(lines), private=True
        )
        command = ("/bin/sh", "-c", '. "$0" && exec "$@"', str(env_file), *process.command)
        said = "".join([*lines, process.config])
        sections.append(
            _PROGRAM.format(
                name=process.name,
                command=_escape(shlex.join(command)),
                cwd=_escape(str(process.cwd)),
                digest=hashlib.sha256(said.encode()).hexdigest()[:16],
                grace_s=server.grace_s,
                log=_escape(str(log_file(settings, process.name))),
            )
        )
    return "\n".join(sections)


def _escape(text: str) -> str:
    return text.replace("%", "%%")


def _socket(settings: Settings) -> Path:
    """In the run folder, or where its path would be too long for a socket, in a private one."""
    path = settings.run / "supervisor.sock"
    if len(os.fsencode(path)) <= _SOCKET_PATH_BYTES:
        return path
    digest = hashlib.sha256(os.fsencode(settings.home.resolve())).hexdigest()[:12]
    folder = Path(tempfile.gettempdir()) / f"pagoda-{os.getuid()}-{digest}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise MachineError(
            "another user owns the folder for the supervisor's socket",
            where=str(folder),
            next_step="Choose a PAGODA_HOME with a path of less than 70 bytes.",
        )
    return folder / "supervisor.sock"
