"""What is written is there whole or not at all, whoever is killed and when."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pagoda import whole

# A file and a folder of two files, all of one letter, written again and again until the kill.
_WRITER = """
import sys
from itertools import cycle
from pathlib import Path
from pagoda import whole
place = Path(sys.argv[1])
for letter in cycle("ab"):
    text = letter * 300_000
    whole.write(place / "file", text)
    with whole.folder(place / "folder", replace=True) as draft:
        (draft / "one").write_text(text)
        (draft / "inner").mkdir()
        (draft / "inner" / "other").write_text(text)
"""


def test_a_killed_writer_leaves_the_earlier_or_the_new(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("b" * 300_000)
    for pause_s in (0.01, 0.02, 0.03, 0.05):
        shutil.rmtree(tmp_path / "folder", ignore_errors=True)
        writer = subprocess.Popen([sys.executable, "-c", _WRITER, str(tmp_path)])
        while not (tmp_path / "folder" / "one").exists():
            time.sleep(0.01)
        time.sleep(pause_s)
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        # Between the two renames there is no folder; what there was is kept beside it.
        folders = [tmp_path / "folder", *tmp_path.glob(".earlier-folder-*")]
        written = [each for folder in folders for each in folder.rglob("*") if each.is_file()]
        assert len(written) >= 2
        for each in (tmp_path / "file", *written):
            assert each.read_text() in ("a" * 300_000, "b" * 300_000)


def _begin(path: Path) -> None:
    path.write_text("half")
    raise RuntimeError


def test_what_fails_changes_nothing_and_leaves_nothing(tmp_path: Path) -> None:
    file, folder = tmp_path / "file", tmp_path / "folder"
    file.write_text("old")
    folder.mkdir()
    (folder / "old").touch()
    with pytest.raises(RuntimeError), whole.file(file) as draft:
        _begin(draft)
    with pytest.raises(RuntimeError), whole.folder(folder, replace=True) as draft:
        _begin(draft / "half")
    with pytest.raises(OSError, match="not empty"), whole.folder(folder) as draft:
        (draft / "new").touch()
    assert file.read_text() == "old"
    assert [each.name for each in folder.iterdir()] == ["old"]
    assert sorted(each.name for each in tmp_path.iterdir()) == ["file", "folder"]


def test_a_private_file_was_never_anyone_elses_to_read(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("open")
    secret.chmod(0o644)
    with whole.file(secret, private=True) as draft:
        assert draft.stat().st_mode & 0o777 == 0o600
        draft.write_text("größer")
    assert secret.stat().st_mode & 0o777 == 0o600
    assert whole.write(secret, "größer", private=True).read_bytes() == "größer".encode()


def test_what_is_replaced_stays_if_the_exchange_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "ranker"
    folder.mkdir()
    (folder / "old").touch()
    rename = Path.rename

    def stopped(path: Path, target: Path) -> Path:
        if path.name.startswith(".draft"):
            raise KeyboardInterrupt
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", stopped)
    with pytest.raises(KeyboardInterrupt), whole.folder(folder, replace=True) as draft:
        (draft / "new").touch()
    assert [each.name for each in folder.iterdir()] == ["old"]
    assert [each.name for each in tmp_path.iterdir()] == ["ranker"]
