"""`pagoda doctor` names every problem at once, with what to do."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pagoda import doctor, java
from pagoda.cli.doctor import app
from pagoda.errors import CheckFailed, MachineError


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PAGODA_HOME", str(tmp_path))
    return tmp_path


def test_every_problem_of_a_settings_file_is_named(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "settings.toml").write_text(
        '[redis]\nport = "many"\nhots = "here"\n[kafka]\npartitions = 0\n[elastic]\nport = 1\n'
    )
    monkeypatch.setenv("PAGODA_REDSI__PORT", "1")
    found = [each for each in doctor.examine() if each.name == "settings"]
    for part in ("redis.port", "redis.hots", "kafka.partitions", "elastic", "PAGODA_REDSI__PORT"):
        assert any(part in each.found for each in found), part
    assert all(each.next_step for each in found)


def test_a_settings_file_that_is_not_toml_is_named(home: Path) -> None:
    (home / "settings.toml").write_text("[redis\n")
    (found,) = [each for each in doctor.examine() if each.name == "settings"]
    assert found.state == "fail"
    assert "not TOML" in found.found


def test_it_fails_with_json_on_stdout_where_something_is_missing(home: Path) -> None:
    result = CliRunner().invoke(app, ["--json"])
    findings = {each["name"]: each for each in json.loads(result.stdout)}
    assert findings["jars"]["state"] == "fail"
    assert findings["jars"]["next_step"] == "Run `pagoda jars`."
    assert findings["Python"]["state"] == "ok"
    assert findings["redis"] == {
        "name": "redis", "state": "ok", "found": "stopped", "next_step": None
    }  # fmt: skip
    assert isinstance(result.exception, CheckFailed)


def test_a_chosen_port_that_is_taken_is_found_with_its_holder(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        monkeypatch.setenv("PAGODA_SERVING__PORT", str(port))
        (found,) = [each for each in doctor.examine() if each.name == "ports"]
    assert found.state == "fail"
    assert f"port {port} is held by process" in found.found


def test_readable_secrets_are_found(home: Path) -> None:
    (home / "secrets").mkdir(mode=0o700)
    (home / "secrets" / "redis").write_text("x")
    (home / "secrets" / "redis").chmod(0o644)
    (found,) = [each for each in doctor.examine() if each.name == "secrets"]
    assert found.state == "fail"
    assert str(home / "secrets" / "redis") in found.found


def test_a_home_that_cannot_be_made_is_found(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "file").write_text("")
    monkeypatch.setenv("PAGODA_HOME", str(home / "file"))
    (found,) = [each for each in doctor.examine() if each.name == "PAGODA_HOME"]
    assert found.state == "fail"


def test_a_folder_beyond_its_disk_budget_is_found_and_so_is_one_that_is_not_there(
    home: Path,
) -> None:
    (home / "lake").mkdir()
    (home / "lake" / "rows").write_bytes(b"x" * 3 * 2**20)
    budget = 4 / 1024  # 4 MB
    (home / "settings.toml").write_text(
        f"[disk]\nbudget_gb = 1\nfolders_gb = {{ lake = {budget}, lakes = 1 }}\n"
    )
    (found,) = [each for each in doctor.examine() if each.name == "disk budget"]
    assert (found.state, found.next_step) == ("warn", "Name folders as `pagoda status` does.")
    assert "no folder lakes" in found.found
    (home / "lake" / "more").write_bytes(b"x" * 2**20)
    (found,) = [each for each in doctor.examine() if each.name == "disk budget"]
    assert found.found == "lake 4 of 4 MB, no folder lakes"
    assert "lake maintain" in (found.next_step or "")


@pytest.mark.parametrize(
    ("says", "state"),
    [
        ('openjdk version "17.0.9" 2023-10-17', "ok"),
        ('openjdk version "21" 2023-09-19', "ok"),
        ('openjdk version "25.0.1" 2025-10-21', "warn"),
        ('java version "1.8.0_391"', "fail"),
    ],
)
def test_java_is_judged_by_its_version(
    home: Path, monkeypatch: pytest.MonkeyPatch, says: str, state: str
) -> None:
    binary = home / "jdk" / "bin" / "java"
    binary.parent.mkdir(parents=True)
    binary.write_text(f"#!/bin/sh\necho '{says}' >&2\n")
    binary.chmod(0o755)
    monkeypatch.setenv("JAVA_HOME", str(home / "jdk"))
    (found,) = [each for each in doctor.examine() if each.name == "Java"]
    assert found.state == state
    assert (found.next_step is None) == (state == "ok")


def test_no_java_says_how_to_get_one(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAVA_HOME", str(home))
    with pytest.raises(MachineError, match="openjdk-17"):
        java.find()
