"""Checks of everything that Pagoda relies on but does not ship, each with what to do.

Works with broken settings too: then it names every problem in them and goes on with the defaults.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import resource
import shutil
import stat
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import NormalizedName, canonicalize_name

from pagoda import disk, jars, java, servers
from pagoda.errors import MachineError, SettingsError
from pagoda.servers import files, ports
from pagoda.settings import PROJECT_ROOT, Settings, home_folder, load

TESTED_PYTHON = ((3, 11), (3, 12))
_GB = 2**30
_TIGHT = 0.8  # of a disk budget: time to do something
_SET_UP = "Run `make setup`."
# Variables that Pagoda sets itself or reads outside of its settings.
_KNOWN_VARIABLES = {
    "PAGODA_PYTHON",
    "PAGODA_DEBUG",
    "PAGODA_PROCESS_OF",
    "PAGODA_CONFIG_DIGEST",
}


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What a check found. `fail` keeps Pagoda from working, `warn` may."""

    name: str
    state: Literal["ok", "warn", "fail"]
    found: str
    next_step: str | None = None


def examine() -> list[Finding]:
    """Every check, in the order in which to mend things."""
    settings, findings = _settings()
    findings += [
        _python(),
        _java(),
        _platform(settings),
        _cores(),
        _memory(),
        _open_files(),
        _environment("environment", Path(sys.prefix), PROJECT_ROOT / "requirements/platform.lock"),
        _environment(
            "Airflow's environment",
            settings.airflow.environment,
            PROJECT_ROOT / "requirements/airflow.lock",
        ),
    ]
    home = _home(settings)
    findings.append(home)
    if home.state != "fail":
        findings += [_disk(settings), _budget(settings), _jars(settings), _secrets(settings)]
        healths = servers.status(settings)
        findings += _ports(settings, {health.name for health in healths if health.pids})
        findings += _servers(healths)
    return findings


def _settings() -> tuple[Settings, list[Finding]]:
    """The settings, or the defaults with a finding for each problem."""
    where = home_folder() / "settings.toml"
    strange = [name for name in os.environ if name.startswith("PAGODA_") and not _is_known(name)]
    findings = [
        Finding(
            name="settings",
            state="warn",
            found=f"{name} is no setting and has no effect",
            next_step="Correct its name or unset it.",
        )
        for name in sorted(strange)
    ]
    try:
        settings = load()
    except SettingsError as error:
        findings += [
            Finding(
                name="settings",
                state="fail",
                found=problem,
                next_step=f"Correct it in {where} or in the environment.",
            )
            for problem in error.what.split("; ")
        ]
        return Settings.model_construct(home=home_folder()), findings
    found = f"{where} is right" if where.exists() else f"defaults; no {where}"
    return settings, [*findings, Finding(name="settings", state="ok", found=found)]


def _is_known(variable: str) -> bool:
    part = variable.removeprefix("PAGODA_").partition("__")[0].lower()
    return variable in _KNOWN_VARIABLES or part in Settings.model_fields


def _python() -> Finding:
    tested = sys.version_info[:2] in TESTED_PYTHON
    return Finding(
        name="Python",
        state="ok" if tested else "fail",
        found=platform.python_version(),
        next_step=None if tested else "Run `make setup PYTHON=/path/to/python3.11` (or 3.12).",
    )


def _java() -> Finding:
    try:
        found = java.find()
    except MachineError as error:
        text = f"{error.what} ({error.where})"
        return Finding(name="Java", state="fail", found=text, next_step=error.next_step)
    state: Literal["ok", "warn", "fail"] = "ok"
    if not found.tested:
        state = "fail" if found.version < min(java.TESTED) else "warn"
    return Finding(
        name="Java",
        state=state,
        found=f"{found.version} ({found.binary})",
        next_step=None if found.tested else f"Tested are 17 and 21. {java.HOW_TO_GET}",
    )


def _platform(settings: Settings) -> Finding:
    known = platform.system() == "Linux" and platform.machine() == "x86_64"
    needed = settings.servers == "embedded"
    return Finding(
        name="platform",
        state="ok" if known else "warn" if not needed else "fail",
        found=f"{platform.system()} {platform.machine()}",
        next_step=None
        if known
        else "The embedded Milvus is for Linux on x86_64: give milvus.uri and redis.host "
        "addresses of servers elsewhere.",
    )


def _cores() -> Finding:
    cores = os.cpu_count() or 1
    return Finding(
        name="cores",
        state="ok" if cores >= 2 else "warn",
        found=str(cores),
        next_step=None if cores >= 2 else "Everything works, slowly: start fewer servers at once.",
    )


def _memory() -> Finding:
    memory = psutil.virtual_memory()
    free_gb, total_gb = memory.available / _GB, memory.total / _GB
    state: Literal["ok", "warn", "fail"] = "ok" if free_gb >= 6 else "warn"
    return Finding(
        name="memory",
        state="fail" if total_gb < 4 else state,
        found=f"{free_gb:.1f} of {total_gb:.1f} GB free",
        next_step=None
        if state == "ok"
        else "All servers take 2.5 GB, a Spark job up to spark.driver_memory beside them.",
    )


def _open_files() -> Finding:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    enough = hard == resource.RLIM_INFINITY or hard >= 8192
    return Finding(
        name="open files",
        state="ok" if enough else "warn",
        found="unlimited" if hard == resource.RLIM_INFINITY else str(hard),
        next_step=None if enough else "Raise the hard limit (`ulimit -Hn`) to 8192 or more.",
    )


def _environment(name: str, prefix: Path, lock: Path) -> Finding:
    """Whether an environment holds what its lock says."""
    folders = [str(path) for path in prefix.glob("lib/python3*/site-packages")]
    if not folders or not lock.exists():
        missing = lock if folders else prefix
        return Finding(name=name, state="fail", found=f"no {missing}", next_step=_SET_UP)
    installed = {
        canonicalize_name(each.name): each.version
        for each in importlib.metadata.distributions(path=folders)
    }
    wrong = [
        f"{package} {installed.get(package, 'missing')} instead of {version}"
        for package, version in _locked(lock)
        if installed.get(package) != version
    ]
    return Finding(
        name=name,
        state="fail" if wrong else "ok",
        found="; ".join(wrong[:5]) + (f"; {len(wrong) - 5} more" if len(wrong) > 5 else "")
        if wrong
        else f"{len(installed)} packages as locked",
        next_step=_SET_UP if wrong else None,
    )


def _locked(lock: Path) -> Iterator[tuple[NormalizedName, str]]:
    """Package and version of each line of a lock that is for this platform."""
    for line in lock.read_text().splitlines():
        if line[:1] in ("", " ", "#"):
            continue
        try:
            wanted = Requirement(line.removesuffix("\\").strip())
        except InvalidRequirement:
            continue
        if wanted.marker is None or wanted.marker.evaluate():
            yield canonicalize_name(wanted.name), str(wanted.specifier).removeprefix("==")


def _home(settings: Settings) -> Finding:
    try:
        files.require_usable(settings)
    except MachineError as error:
        text = f"{error.where}: {error.what} ({error.found})"
        return Finding(name="PAGODA_HOME", state="fail", found=text, next_step=error.next_step)
    return Finding(name="PAGODA_HOME", state="ok", found=f"{settings.home} is writable")


def _disk(settings: Settings) -> Finding:
    free_gb = shutil.disk_usage(settings.home).free / _GB
    state: Literal["ok", "warn", "fail"] = "ok" if free_gb >= 10 else "warn"
    return Finding(
        name="disk",
        state="fail" if free_gb < 2 else state,
        found=f"{free_gb:.1f} GB free at {settings.home}",
        next_step=None if state == "ok" else "Free some, or set PAGODA_HOME to a larger disk.",
    )


def _budget(settings: Settings) -> Finding:
    used = disk.use(settings)
    given = [each for each in used if each.share is not None]
    if not given:
        return Finding(name="disk budget", state="ok", found="none is set")
    tight = [each for each in given if (each.share or 0) > _TIGHT]
    unknown = settings.disk.folders_gb.keys() - {each.folder for each in used}
    shown = [f"{each.folder} {each.mb} of {each.budget_mb} MB" for each in tight or given]
    shown += [f"no folder {name}" for name in sorted(unknown)]
    return Finding(
        name="disk budget",
        state="warn" if tight or unknown else "ok",
        found=", ".join(shown),
        next_step="Run `pagoda lake maintain`, `pagoda models remove NAME`, or raise [disk]."
        if tight
        else "Name folders as `pagoda status` does."
        if unknown
        else None,
    )


def _jars(settings: Settings) -> Finding:
    wrong = jars.wrong(settings)
    return Finding(
        name="jars",
        state="fail" if wrong else "ok",
        found=f"missing or different: {', '.join(wrong[:3])} ({len(wrong)} in all)"
        if wrong
        else f"{len(jars.locked())} as locked",
        next_step="Run `pagoda jars`." if wrong else None,
    )


def _secrets(settings: Settings) -> Finding:
    folder = settings.home / "secrets"
    open_to_others = [
        str(path)
        for path in (folder, *folder.glob("*"))
        if path.exists() and stat.S_IMODE(path.stat().st_mode) & 0o077
    ]
    return Finding(
        name="secrets",
        state="fail" if open_to_others else "ok",
        found=f"others may read {', '.join(open_to_others)}" if open_to_others else "private",
        next_step=f"Run `chmod -R go= {folder}` and change them." if open_to_others else None,
    )


def _ports(settings: Settings, running: set[str]) -> list[Finding]:
    """Ports that the user has chosen and somebody else holds."""
    taken = [
        (server, port, number)
        for server in servers.SERVERS
        if server.is_local(settings) and server.name not in running
        for port in server.ports
        if (number := ports.chosen_by_user(settings, server, port)) and not ports.is_free(number)
    ]
    if not taken:
        return [Finding(name="ports", state="ok", found="the chosen ones are free, others move")]
    return [
        Finding(
            name="ports",
            state="fail",
            found=f"{server.name}'s {port.name} port {number} is held by {ports.holder(number)}",
            next_step="Stop that, or remove the port from your settings to have a free one taken.",
        )
        for server, port, number in taken
    ]


def _servers(healths: Iterable[servers.Health]) -> list[Finding]:
    findings = []
    for health in healths:
        bad = health.state in ("failed", "orphaned", "not answering") or (
            health.state == "external" and not health.ready
        )
        found = f"{health.state}{': ' + health.detail if health.detail else ''}"
        findings.append(
            Finding(
                name=health.name,
                state="fail" if bad else "ok",
                found=found,
                next_step=_mend(health) if bad else None,
            )
        )
        if health.name == "milvus" and health.state == "ready":
            findings.append(
                Finding(
                    name="milvus's ports",
                    state="warn",
                    found="open on every interface, behind a generated password",
                    next_step="On a network that you do not trust: see docs/operations.md.",
                )
            )
    return findings


def _mend(health: servers.Health) -> str:
    if health.state == "orphaned":
        return "Run `pagoda down`, then `pagoda up`: its supervisor was killed."
    if health.state == "external":
        return f"Start it where it lives ({health.address}), or correct its address and password."
    return f"See {', '.join(health.logs)}; then `pagoda down {health.name}` and `pagoda up`."
