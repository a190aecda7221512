from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

from jobs.imports.files import Files
from jobs.imports.run import Outcome, run_import
from pagoda import settings as pagoda_settings
from pagoda.lake import open_table
from pagoda.schemas import Table
from pagoda.settings import Settings

NOW = datetime(2024, 3, 20, 12, tzinfo=UTC)

ITEMS_CSV = """\
sku,name,brand,price
i1,Red shoe,Acme,10.5
i2,Blue shoe,Acme,20
"""
EVENTS_CSV = """\
id,user,sku,what,when
e1,u1,i1,view,2024-03-01T10:00:00
e2,u1,i2,buy,2024-03-02T10:00:00
"""
SEARCHES_CSV = """\
id,user,words,when
s1,u1,red shoe,2024-03-01T09:59:00
"""
MAPPING = """\
name = "shop"

[items]
files = ["items.csv"]
columns = { item_id = "sku", title = "name", brand = "brand", price = "price" }

[events]
files = ["events.csv"]
columns = { event_id = "id", user_id = "user", item_id = "sku", action = "what", ts = "when" }
actions = { view = "click", buy = "buy" }

[searches]
files = ["searches.csv"]
columns = { search_id = "id", user_id = "user", query = "words", ts = "when" }
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings of an installation with an empty lake."""
    monkeypatch.setenv("PAGODA_HOME", str(tmp_path / "home"))
    return pagoda_settings.load()


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A folder with a small correct data set and its mapping file."""
    folder = tmp_path / "shop"
    folder.mkdir()
    for name, text in {
        "items.csv": ITEMS_CSV,
        "events.csv": EVENTS_CSV,
        "searches.csv": SEARCHES_CSV,
        "shop.toml": MAPPING,
    }.items():
        (folder / name).write_text(text)
    return folder


@pytest.fixture
def bring(home: Settings, shop: Path) -> Callable[..., Outcome]:
    """Import the files of `shop` into `home`."""

    def bring(**options: bool) -> Outcome:
        source = Files(shop / "shop.toml", scratch=home.scratch, now=NOW)
        try:
            return run_import(home, source, now=NOW, **options)
        finally:
            source.close()

    return bring


def stored(settings: Settings, table: Table) -> pl.DataFrame:
    """The rows of a table."""
    frame = pl.from_arrow(open_table(settings, table).scan().to_arrow())
    assert isinstance(frame, pl.DataFrame)
    return frame


def snapshots(settings: Settings, tables: tuple[Table, ...]) -> dict[str, int | None]:
    """The current snapshot of each table."""
    found = {}
    for table in tables:
        snapshot = open_table(settings, table).current_snapshot()
        found[table.name] = snapshot.snapshot_id if snapshot else None
    return found
