"""Servers as data: what to run, which ports, when it answers.

A `Server` is one name of `pagoda up`. It consists of one or more processes, supervised as one
group (Airflow has four). Each server's module says how to prepare its files and how to ask it
whether it really answers; starting, stopping and watching is the same for all.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pagoda.settings import Settings

Ports = Mapping[str, int]
# This environment's Python, by the same name however this process was started.
PYTHON = str(Path(sys.prefix) / "bin" / "python")
_LOCAL = ("127.0.0.1", "localhost", "::1")


class NotYet(Exception):
    """The server does not answer yet; the text says what is missing."""


@dataclass(frozen=True, kw_only=True)
class Port:
    """A port that a server listens on.

    Attributes:
        default: taken if free, otherwise the next free one above it.
        setting: part and field of the settings that carry the address, or None for a port that
            only the server itself uses.
        form: how the setting writes the address; None for the bare number.
    """

    name: str
    default: int
    setting: tuple[str, str] | None = None
    form: str | None = None

    def address(self, port: int) -> int | str:
        """The port as its setting writes it."""
        return self.form.format(port=port) if self.form else port

    @staticmethod
    def number(address: int | str) -> int:
        """The port in an address as a setting writes it."""
        return int(str(address).rstrip("/").rpartition(":")[2])


@dataclass(frozen=True, kw_only=True)
class Process:
    """One supervised process.

    Attributes:
        env: added to the environment; every process also gets PAGODA_HOME.
        config: what its configuration files say. If it changes, `up` restarts the process.
    """

    name: str
    command: tuple[str, ...]
    cwd: Path
    env: Mapping[str, str] = field(default_factory=dict)
    config: str = ""


@dataclass(frozen=True, kw_only=True)
class Server:
    """One local server.

    Attributes:
        title: what it is, for people.
        prepare: writes what the server needs below PAGODA_HOME, returns its processes. Repeatable.
        probe: returns if the server does real work, raises NotYet or any error of its client.
        settle: run once it answers, before it counts as started: topics, passwords, pools.
        address: host and port as the settings give them.
        needs: servers that must answer first.
        grace_s: from the polite signal to SIGKILL of the whole process group.
        blocked: why `up` without names should leave it out, or None.
        owned: a program of Pagoda's own: it runs here whatever its address says.
    """

    name: str
    title: str
    prepare: Callable[[Settings, Ports], tuple[Process, ...]]
    probe: Callable[[Settings], None]
    address: Callable[[Settings], tuple[str, int] | None]
    settle: Callable[[Settings], None] = lambda _settings: None
    blocked: Callable[[Settings], str | None] = lambda _settings: None
    ports: tuple[Port, ...] = ()
    needs: tuple[str, ...] = ()
    grace_s: int = 10
    start_within_s: int = 120
    owned: bool = False

    def is_local(self, settings: Settings) -> bool:
        """Whether this installation runs it: embedded profile and an address on this machine."""
        if settings.servers == "external":
            return False
        address = self.address(settings)
        return self.owned or (address is not None and address[0] in _LOCAL)


def settings_environment() -> dict[str, str]:
    """The settings of this process's environment, for processes that read settings themselves."""
    parts = {f"PAGODA_{name}".upper() for name in Settings.model_fields}
    return {
        name: value
        for name, value in os.environ.items()
        if name.upper().partition("__")[0] in parts
    }
