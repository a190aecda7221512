"""A home of one's own for index tests, on the session's Milvus."""

from __future__ import annotations

from pathlib import Path

import pytest

from pagoda.settings import Settings
from tests.index.homes import own_home


@pytest.fixture(scope="module")
def home(milvus_server: Settings, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Settings of an empty home, with Milvus running."""
    folder: Path = tmp_path_factory.mktemp("index")
    return own_home(milvus_server, folder)
