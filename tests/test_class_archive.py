"""Spark's classes come from the archive that `pagoda jars` makes, where there is one."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pagoda import class_archive
from pagoda import spark as pagoda_spark
from pagoda.settings import Settings, load

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

OPTIONS = "spark.driver.defaultJavaOptions"


@pytest.fixture
def jars(tmp_path: Path) -> Settings:
    (tmp_path / "jars" / "spark").mkdir(parents=True)
    (tmp_path / "jars" / "spark" / "one.jar").write_bytes(b"1")
    return load(home=tmp_path)


def test_without_an_archive_sessions_start_as_ever(jars: Settings) -> None:
    assert OPTIONS not in pagoda_spark.conf(jars)
    pagoda_spark.class_archive(jars).write_bytes(b"")
    assert str(pagoda_spark.class_archive(jars)) in pagoda_spark.conf(jars)[OPTIONS]


def test_another_jar_needs_another_archive(jars: Settings) -> None:
    jar = jars.jars / "spark" / "one.jar"
    before = class_archive._made_of(jars)
    assert class_archive._made_of(jars) == before
    os.utime(jar, (1, 1))
    touched = class_archive._made_of(jars)
    jar.rename(jar.with_name("two.jar"))
    assert len({before, touched, class_archive._made_of(jars)}) == 3


@pytest.mark.spark
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_session_has_the_archive_in_its_memory(settings: Settings, spark: SparkSession) -> None:
    archive = pagoda_spark.class_archive(settings)
    if not archive.exists():
        pytest.skip(f"no {archive}: `pagoda jars` makes it")
    process = spark.sparkContext._gateway.proc  # type: ignore[union-attr]
    assert str(archive.resolve()) in Path(f"/proc/{process.pid}/maps").read_text()
