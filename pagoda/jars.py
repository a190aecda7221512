"""The jars of Spark and Kafka, fetched by coordinate with Spark's own Ivy: no Maven needed.

Each set is resolved in a JVM of its own (Ivy keeps one resolution's conflicts from another's),
works offline from the cache afterwards, and is checked against `requirements/jars.lock`.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from pagoda.errors import MachineError
from pagoda.settings import PROJECT_ROOT, Settings

LOCK = PROJECT_ROOT / "requirements" / "jars.lock"
# What Spark ships itself: a second copy on the class path breaks it.
_SHIPPED = (
    "org.slf4j:*",
    "org.lz4:*",
    "org.xerial.snappy:*",
    "org.scala-lang.modules:*",
    "com.google.code.findbugs:*",
)


@dataclass(frozen=True, kw_only=True)
class _Resolve:
    folder: str
    packages: tuple[str, ...]
    excludes: tuple[str, ...] = ()


_RESOLVES = (
    _Resolve(
        folder="spark",
        packages=(
            "org.apache.iceberg:iceberg-spark-runtime-4.1_2.13:1.11.0",
            "org.apache.spark:spark-sql-kafka-0-10_2.13:4.1.3",
            "org.xerial:sqlite-jdbc:3.46.1.3",
        ),
        excludes=("org.apache.spark:spark-token-provider-kafka-0-10_2.13", *_SHIPPED),
    ),
    # 4.1.3 of the token provider cannot be had everywhere; 4.0.0 has the same two classes.
    _Resolve(
        folder="spark",
        packages=("org.apache.spark:spark-token-provider-kafka-0-10_2.13:4.0.0",),
        excludes=("org.apache.kafka:*", "org.apache.hadoop:*", *_SHIPPED),
    ),
    _Resolve(
        folder="kafka",
        packages=(
            "org.apache.kafka:kafka_2.13:4.1.0",
            "org.apache.logging.log4j:log4j-slf4j-impl:2.24.3",
        ),
    ),
)


def fetch(settings: Settings) -> list[Path]:
    """Fetch what is missing into `jars/spark` and `jars/kafka`, checked against the lock.

    Raises: MachineError if a jar cannot be fetched or differs from the lock.
    """
    wanted = locked()
    if wanted and not wrong(settings):
        return [settings.jars / name for name in wanted]
    fetched = _fetch_all(settings)
    if wanted and (different := wrong(settings)):
        raise MachineError(
            "jars are missing or differ from the lock",
            where=str(settings.jars),
            found=", ".join(different),
            next_step="Delete that folder and run `pagoda jars` again.",
        )
    return fetched


def wrong(settings: Settings) -> list[str]:
    """Jars of the lock that are missing or differ, relative to the jars folder."""
    return [name for name, digest in locked().items() if not _matches(settings.jars / name, digest)]


def lock(settings: Settings) -> list[Path]:
    """Fetch every jar anew and write the lock from them."""
    fetched = sorted(_fetch_all(settings))
    lines = [f"{_digest(jar)}  {jar.relative_to(settings.jars)}" for jar in fetched]
    LOCK.write_text("\n".join(lines) + "\n")
    return fetched


def spark_home() -> Path:
    """The Spark that comes with pyspark."""
    found = importlib.util.find_spec("pyspark")
    assert found, "pyspark is a dependency of Pagoda"
    assert found.origin, "pyspark is a package with an __init__"
    return Path(found.origin).parent


def locked() -> dict[str, str]:
    """File (relative to the jars folder) to SHA-256."""
    lines = LOCK.read_text().splitlines() if LOCK.exists() else []
    pairs = (line.split() for line in lines if line and not line.startswith("#"))
    return {name: digest for digest, name in pairs}


def _fetch_all(settings: Settings) -> list[Path]:
    """Resolve every set; afterwards the folders hold these jars and no others."""
    with tempfile.TemporaryDirectory(dir=settings.jars) as scratch:
        folders = [Path(scratch) / str(number) for number, _ in enumerate(_RESOLVES)]
        with ThreadPoolExecutor() as pool:
            list(pool.map(_resolve, _RESOLVES, folders))
        fetched: list[Path] = []
        for resolve, folder in zip(_RESOLVES, folders, strict=True):
            target = settings.jars / resolve.folder
            target.mkdir(exist_ok=True)
            found = sorted((folder / "jars").glob("*.jar"))
            fetched += [Path(shutil.move(jar, target / jar.name)) for jar in found]
    for old in set(settings.jars.glob("*/*.jar")) - set(fetched):
        old.unlink()
    return fetched


def _resolve(resolve: _Resolve, ivy: Path) -> None:
    ivy.mkdir()
    script = ivy / "nothing.py"
    script.write_text("")
    command = [
        str(Path(sys.executable).with_name("spark-submit")),
        "--master", "local[1]",
        "--packages", ",".join(resolve.packages),
        "--conf", f"spark.jars.ivy={ivy}",
    ]  # fmt: skip
    if resolve.excludes:
        command += ["--exclude-packages", ",".join(resolve.excludes)]
    # spark-submit looks for pyspark with the first python3 on PATH: it must be ours.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    done = subprocess.run(
        [*command, str(script)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PATH": path},
    )
    if done.returncode:
        raise MachineError(
            f"could not fetch {', '.join(resolve.packages)}",
            found=done.stderr.strip()[-600:],
            next_step="Check the network, then run `pagoda jars` again.",
        )


def _matches(path: Path, digest: str) -> bool:
    return path.exists() and _digest(path) == digest


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
