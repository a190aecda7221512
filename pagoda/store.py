"""Feast's store, opened from settings.

`feature_repo/feature_store.yaml` is the only definition of the store; its variables are filled
from settings here, in memory, or handed to Feast's command line through the environment. Feast's
registry takes no concurrent writers: whoever applies or materialises holds `registry_lock`.
"""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from string import Template
from typing import TYPE_CHECKING

import yaml
from filelock import FileLock, Timeout

from pagoda import spark
from pagoda.errors import Conflict, PagodaError, SettingsError
from pagoda.settings import PROJECT_ROOT, Settings

if TYPE_CHECKING:
    from feast import FeatureStore

REPO = PROJECT_ROOT / "feature_repo"
_LOCK_TIMEOUT_S = 1800  # longer than any materialisation should take


def open_store(settings: Settings, *, offline: bool = True) -> FeatureStore:
    """The feature store. An active Spark session is used by it, else it starts one.

    Args:
        offline: whether historical features will be asked for or views materialised. Without,
            Spark's jars need not be there.
    """
    from feast import FeatureStore, RepoConfig

    text = (REPO / "feature_store.yaml").read_text()
    filled = Template(text).substitute(environment(settings, offline=offline))
    config = RepoConfig(**yaml.safe_load(filled))
    config.repo_path = REPO
    return FeatureStore(config=config)


def apply(settings: Settings) -> None:
    """Register what `feature_repo` declares; what it no longer declares is removed.

    Raises: PagodaError with Feast's own words if it refuses.
    """
    # In a process of its own: Feast changes the working directory and caches the definitions.
    done = run_feast(settings, ["apply", "--skip-source-validation"], capture=True)
    if done.returncode:
        raise PagodaError(
            f"feast apply failed: {(done.stderr or done.stdout).strip().splitlines()[-1]}",
            where=str(REPO),
            next_step="Run `pagoda features feast apply` to see all it says.",
        )


def run_feast(
    settings: Settings, arguments: Sequence[str], *, capture: bool = False
) -> subprocess.CompletedProcess[str]:
    """Feast's command line on this store, under the lock if it writes the registry."""
    command = [sys.executable, "-m", "feast.cli.cli", "--chdir", str(REPO), *arguments]
    given = {**os.environ, **environment(settings)}
    if arguments and arguments[0] in ("apply", "materialize", "materialize-incremental", "delete"):
        with registry_lock(settings):
            return subprocess.run(command, env=given, text=True, capture_output=capture)
    return subprocess.run(command, env=given, text=True, capture_output=capture)


@contextmanager
def registry_lock(settings: Settings) -> Iterator[None]:
    """Held while the registry is written. Raises: Conflict if somebody keeps it for too long."""
    path = settings.feast_folder / "registry.lock"
    try:
        with FileLock(path, timeout=_LOCK_TIMEOUT_S):
            yield
    except Timeout:
        raise Conflict(
            f"the feature registry was locked for {_LOCK_TIMEOUT_S} s",
            where=str(path),
            next_step="See which `pagoda features` or Airflow task is still at work.",
        ) from None


def environment(settings: Settings, *, offline: bool = True) -> dict[str, str]:
    """The variables of feature_store.yaml, each a YAML value, and the settings it depends on."""
    return {
        "PAGODA_HOME": str(settings.home),
        "PAGODA_LAKE__NAMESPACE": settings.lake.namespace,
        "PAGODA_FEAST_REGISTRY": json.dumps(_registry_url(settings)),
        "PAGODA_FEAST_REDIS": json.dumps(_redis_address(settings)),
        "PAGODA_FEAST_SPARK_CONF": json.dumps(spark.conf(settings) if offline else {}),
    }


def _registry_url(settings: Settings) -> str:
    database = settings.feast_folder / "registry.db"
    if not database.exists():
        with sqlite3.connect(database) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
    return f"sqlite:///{database}?timeout={spark.BUSY_TIMEOUT_S}"


def _redis_address(settings: Settings) -> str:
    password = settings.redis_password()
    if "," in password:
        raise SettingsError(
            "Redis's password must not contain a comma: Feast's connection string cannot carry it",
            where="settings.redis.password",
        )
    # JSON, because Feast would read a password of digits as a number.
    return f"{settings.redis.host}:{settings.redis.port},password={json.dumps(password)}"
