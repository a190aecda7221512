"""docs/add-a-feature.md performed: its changes on a copy of the project, its commands there."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pagoda.settings import PROJECT_ROOT

_PARTS = ("pagoda", "jobs", "training", "serving", "feature_repo")
_BLOCK = re.compile(r"^```(diff|bash)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# One process for many commands: Spark's JVM is started once.
_RUN = """
import json, shlex, sys
from pagoda.cli.main import main
for line in json.loads(sys.argv[1]):
    print("$", line, file=sys.stderr, flush=True)
    sys.argv = shlex.split(line)
    try:
        main()
    except SystemExit as end:
        if end.code:
            sys.exit(end.code)
"""


@dataclass(frozen=True)
class Section:
    """What a section of the guide has a person do."""

    diffs: list[str]
    commands: list[str]


def section(title: str) -> Section:
    """The section of that title."""
    text = (PROJECT_ROOT / "docs" / "add-a-feature.md").read_text()
    _, _, after = text.partition(f"\n## {title}\n")
    blocks = _BLOCK.findall(after.partition("\n## ")[0])
    return Section(
        diffs=[block for kind, block in blocks if kind == "diff"],
        commands=[
            line for kind, block in blocks if kind == "bash" for line in block.strip().splitlines()
        ],
    )


class Copy:
    """A copy of the project that can be changed and run beside the original."""

    def __init__(self, folder: Path) -> None:
        self.root = folder
        for part in _PARTS:
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(PROJECT_ROOT / part, folder / part, ignore=ignored)

    def change(self, diff: str) -> None:
        """Apply a change of the guide; it must fit."""
        command = ["git", "apply", "--recount", "-"]  # lines moved, context must not
        # Not a part of whatever repository the folder may lie in.
        outside = {**os.environ, "GIT_CEILING_DIRECTORIES": str(self.root.parent)}
        done = subprocess.run(
            command, cwd=self.root, input=diff, env=outside, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr

    def environment(self, given: Mapping[str, str]) -> dict[str, str]:
        """That of a process of the copy: its modules come first, in Spark's workers too."""
        return {**os.environ, **given, "PYTHONPATH": str(self.root)}

    def run(self, commands: Sequence[str], given: Mapping[str, str], *, first: str = "") -> str:
        """Run `pagoda …` commands one after the other in one process; what they print as data.

        `first` is Python code to run before them.
        """
        return self.python(first + _RUN, given, json.dumps(list(commands)))

    def python(self, code: str, given: Mapping[str, str], *arguments: str) -> str:
        """Run Python code; what it prints."""
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            cwd=self.root,
            env=self.environment(given),
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr[-6000:]
        return done.stdout
