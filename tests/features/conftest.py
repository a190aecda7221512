"""Homes of this room: the session's lake under a namespace of their own, and their own registry."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pagoda import lake
from pagoda.settings import Lake, Settings

Home = Callable[[str], Settings]


@pytest.fixture(scope="session")
def home(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Home:
    """Makes an installation whose tables the session's Spark reaches, but no other room's do."""

    def make(namespace: str) -> Settings:
        folder: Path = tmp_path_factory.mktemp(namespace)
        (folder / "lake").symlink_to(settings.lake_folder)
        (folder / "jars").symlink_to(settings.jars)
        made = settings.model_copy(update={"home": folder, "lake": Lake(namespace=namespace)})
        lake.create_all(made)
        return made

    return make
