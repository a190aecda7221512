"""The classes of a Spark job, archived: sessions start with half the CPU.

Of a short job's CPU half goes into reading, checking and linking some 20,000 classes, the same ones
every time. A JVM can write what it has loaded when it ends, and map that file when it starts next
(JEP 350, dynamic archives). It checks by itself that Java and every jar are the same, and goes on
without the file where they are not: so nothing depends on it but speed.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from pagoda import java, lake, private_home, spark
from pagoda.errors import MachineError
from pagoda.jars import spark_home
from pagoda.schemas import EVENTS
from pagoda.settings import PROJECT_ROOT, Settings

_TIMEOUT_S = 600


def make(settings: Settings) -> bool:
    """Run a small job and archive its classes, unless that was done; whether it was done now.

    Raises: MachineError if the job fails.
    """
    archive = spark.class_archive(settings)
    made_of = archive.with_suffix(".of")
    wanted = _made_of(settings)
    if archive.exists() and made_of.exists() and made_of.read_text() == wanted:
        return False
    with tempfile.TemporaryDirectory(dir=settings.jars) as folder:
        fresh = Path(folder) / archive.name
        home = Path(folder) / "home"
        private_home.make(home, maker="pagoda jars", jars=settings.jars, option="")
        with private_home.entered(home):
            done = subprocess.run(
                [sys.executable, "-m", "pagoda.class_archive", str(fresh)],
                cwd=PROJECT_ROOT,
                capture_output=True,
                text=True,
                check=False,
                timeout=_TIMEOUT_S,
            )
        if done.returncode or not fresh.exists():
            raise MachineError(
                "the archive of Spark's classes could not be made",
                found=(done.stderr or done.stdout).strip()[-600:],
                next_step="Jobs run without it and start slower; `pagoda jars` tries again.",
            )
        fresh.replace(archive)
    made_of.write_text(wanted)
    return True


def _made_of(settings: Settings) -> str:
    """What the JVM will compare: name, size and time of Java itself, and of every jar."""
    digest = hashlib.sha256()
    jars = (*_jars(spark_home() / "jars"), *_jars(settings.jars / "spark"))
    for file in (java.find().binary.resolve(), *jars):
        seen = file.stat()
        digest.update(f"{file}\0{seen.st_size}\0{seen.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _jars(folder: Path) -> Iterator[Path]:
    yield from sorted(folder.glob("*.jar"))


def _run_small_job(settings: Settings, archive: Path) -> None:
    """What most jobs do: Iceberg written and read, a shuffle, Python functions over Arrow."""
    conf = {"spark.driver.extraJavaOptions": f"-XX:ArchiveClassesAtExit={archive}"}
    small = settings.spark.model_copy(update={"master": "local[2]", "conf": conf})
    lake.create_all(settings)
    name = f"{spark.CATALOG}.{settings.lake.namespace}.archived"
    with spark.session(settings.model_copy(update={"spark": small}), "class archive") as session:
        session.table(f"{spark.CATALOG}.{settings.lake.namespace}.{EVENTS.name}").count()
        session.sql(f"create table {name} (user long, day date, texts array<string>) using iceberg")
        rows = session.range(1000).selectExpr(
            "id % 10 as user", "date '2026-01-01' as day", "array(string(id)) as texts"
        )
        rows.writeTo(name).append()
        session.table(name).groupBy("user").applyInArrow(
            lambda table: table, "user long, day date, texts array<string>"
        ).sort("user").writeTo(name).overwritePartitions()
        session.table(name).mapInArrow(lambda parts: parts, "user long").select("user").toPandas()
        process = session.sparkContext._gateway.proc  # type: ignore[union-attr]
    process.stdin.close()  # the JVM ends with it, and writes
    process.wait(_TIMEOUT_S)


if __name__ == "__main__":
    from pagoda.settings import load

    os.umask(0o077)
    _run_small_job(load(), Path(sys.argv[1]))
