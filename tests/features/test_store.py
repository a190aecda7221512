"""Opening the store: one definition, secrets that cannot break it, one writer at a time."""

from __future__ import annotations

import json
import multiprocessing
import time
from pathlib import Path

import pytest
from pydantic import SecretStr

from pagoda import store
from pagoda.errors import SettingsError
from pagoda.settings import Redis, Settings, load


@pytest.fixture
def empty_home(tmp_path: Path) -> Settings:
    return load(home=tmp_path)


@pytest.mark.parametrize("password", ["12345", 'qu"ote', "with: colon # and hash", "p=q"])
def test_any_password_reaches_redis_as_it_is(empty_home: Settings, password: str) -> None:
    settings = empty_home.model_copy(update={"redis": Redis(password=SecretStr(password))})
    opened = store.open_store(settings, offline=False)
    online = opened._get_provider().online_store
    _, parameters = online._parse_connection_string(opened.config.online_store.connection_string)
    assert parameters == {"password": password}


def test_a_password_that_feast_cannot_carry_is_refused(empty_home: Settings) -> None:
    settings = empty_home.model_copy(update={"redis": Redis(password=SecretStr("a,b"))})
    with pytest.raises(SettingsError, match="comma"):
        store.open_store(settings, offline=False)


def test_the_definition_is_safe_for_sequences(empty_home: Settings) -> None:
    config = store.open_store(empty_home, offline=False).config
    assert config.online_store.skip_dedup  # corrections of the same day land
    assert config.entity_key_serialization_version == 3
    assert config.registry.registry_type == "sql"


def test_spark_sessions_that_feast_starts_are_in_utc(settings: Settings) -> None:
    conf = json.loads(store.environment(settings)["PAGODA_FEAST_SPARK_CONF"])
    assert conf["spark.sql.session.timeZone"] == "UTC"


def test_writers_of_the_registry_wait_for_each_other(empty_home: Settings) -> None:
    waiting = multiprocessing.get_context("spawn").Process(
        target=_lock_and_note, args=(empty_home.home,)
    )
    with store.registry_lock(empty_home):
        waiting.start()
        time.sleep(2)
        assert not (empty_home.home / "noted").exists()
    waiting.join(timeout=60)
    assert (empty_home.home / "noted").exists()


def _lock_and_note(home: Path) -> None:
    with store.registry_lock(load(home=home)):
        (home / "noted").touch()
