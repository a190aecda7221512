"""One way to configure Spark: for jobs, tests and Airflow's SparkSubmitOperator alike.

Imports neither pyspark nor pyiceberg: Airflow's environment reads the configuration too.
"""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from pagoda.errors import MachineError
from pagoda.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyspark.sql import SparkSession

log = structlog.get_logger()

CATALOG = "lake"
BUSY_TIMEOUT_S = 30  # how long a writer waits for the local catalog's SQLite lock


def conf(settings: Settings) -> dict[str, str]:
    """Every Spark setting that Pagoda relies on; `settings.spark.conf` wins."""
    jars = sorted((settings.jars / "spark").glob("*.jar"))
    if not jars:
        raise MachineError(
            "Spark's jars are not here",
            where=str(settings.jars / "spark"),
            next_step="Run `pagoda jars`.",
        )
    return {
        "spark.jars": ",".join(str(jar) for jar in jars),
        "spark.driver.memory": settings.spark.driver_memory,
        "spark.sql.shuffle.partitions": str(settings.spark.shuffle_partitions),
        # Feast compares session-local times: anything but UTC returns stale rows silently.
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.execution.arrow.pyspark.enabled": "true",
        "spark.sql.sources.partitionOverwriteMode": "dynamic",
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",  # commands show their own
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.driver.host": "127.0.0.1",
        **_class_conf(settings),
        **catalog_conf(settings),
        **settings.spark.conf,
    }


def class_archive(settings: Settings) -> Path:
    """Where `pagoda jars` keeps the classes of a Spark job (`pagoda.class_archive`)."""
    return settings.jars / "spark.jsa"


def _class_conf(settings: Settings) -> dict[str, str]:
    archive = class_archive(settings)
    if not archive.exists():
        return {}
    # An archive of another Java or of other jars is no error, and not worth a line in every log.
    silent = "-Xlog:cds*=off -Xlog:class+path=off"
    return {
        "spark.driver.defaultJavaOptions": f"-Xshare:auto -XX:SharedArchiveFile={archive} {silent}"
    }


def catalog_conf(settings: Settings) -> dict[str, str]:
    """Spark's side of the catalog that `pagoda.lake` opens with PyIceberg."""
    prefix = f"spark.sql.catalog.{CATALOG}"
    given = settings.lake.spark or {
        "type": "jdbc",
        "uri": f"jdbc:sqlite:{settings.lake_folder / 'catalog.db'}",
        "jdbc.schema-version": "V1",
        "jdbc.busy_timeout": str(BUSY_TIMEOUT_S * 1000),
        "warehouse": settings.lake_folder.as_uri(),
    }
    return {
        prefix: "org.apache.iceberg.spark.SparkCatalog",
        # Iceberg would show a session tables as they were when it first read them.
        f"{prefix}.cache-enabled": "false",
        "spark.sql.extensions": "org.apache.iceberg.spark.extensions.IcebergSparkSessionExtensions",
        **{f"{prefix}.{key}": value for key, value in given.items()},
    }


@contextmanager
def session(settings: Settings, name: str) -> Iterator[SparkSession]:
    """A Spark session for one job, stopped at its end.

    Under spark-submit the session that it configured is taken. Sessions cost 5 to 15 seconds:
    one a job, and tests share one.
    """
    os.environ["PYSPARK_PYTHON"] = os.environ["PYSPARK_DRIVER_PYTHON"] = sys.executable
    from pyspark.sql import SparkSession

    builder = SparkSession.builder.appName(name).master(settings.spark.master)
    for key, value in conf(settings).items():
        builder = builder.config(key, value)
    spark = builder.getOrCreate()
    spark.sparkContext.setLogLevel("ERROR")
    log.info("spark", application_id=spark.sparkContext.applicationId, job=name)
    try:
        yield spark
    finally:
        spark.stop()
