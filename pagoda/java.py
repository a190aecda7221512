"""The Java that Spark and Kafka run on."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from pagoda.errors import MachineError

TESTED = (17, 21)
HOW_TO_GET = (
    "Install a Java 17 or 21 runtime: `apt-get install openjdk-17-jre-headless` (Debian, Ubuntu), "
    "`dnf install java-21-openjdk-headless` (Fedora), `brew install openjdk@21` (macOS); without "
    "root unpack any OpenJDK build into your home. Then set JAVA_HOME to it, or put its bin folder "
    "on PATH."
)


@dataclass(frozen=True, kw_only=True)
class Java:
    """A Java binary and its major version."""

    binary: Path
    version: int

    @property
    def tested(self) -> bool:
        """Whether Pagoda was tested with that version."""
        return self.version in TESTED


def find() -> Java:
    """The Java of JAVA_HOME, otherwise of PATH. Raises: MachineError if there is none."""
    home = os.environ.get("JAVA_HOME")
    candidate = shutil.which("java", path=str(Path(home) / "bin")) if home else shutil.which("java")
    if candidate is None:
        raise MachineError(
            "no Java was found",
            where=f"JAVA_HOME={home}" if home else "PATH",
            expected="Java 17 or 21",
            next_step=HOW_TO_GET,
        )
    done = subprocess.run([candidate, "-version"], capture_output=True, text=True, check=False)
    match = re.search(r'version "(?:1\.)?(\d+)', done.stderr + done.stdout)
    if done.returncode or match is None:
        raise MachineError(
            "Java does not start",
            where=candidate,
            found=(done.stderr or done.stdout).strip()[:300],
            next_step=HOW_TO_GET,
        )
    return Java(binary=Path(candidate), version=int(match[1]))
