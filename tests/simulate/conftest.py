"""A made-up catalogue to shop in, and some days of shoppers in it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from jobs.simulate import catalogue as catalogues
from jobs.simulate import tables
from jobs.simulate.behaviour import Behaviour, Simulation
from jobs.simulate.catalogue import Catalogue
from pagoda.ids import key_of
from pagoda.schemas import ITEMS

SHELVES, PER_SHELF = 40, 60


def item_rows() -> pa.Table:
    """Shelves of sixty; brands and prices not everywhere, an item out of stock, other alphabets."""
    dice = np.random.default_rng(5)
    rows = [
        {
            "item_id": f"i{shelf}-{place}",
            "item_key": key_of("item", f"i{shelf}-{place}"),
            "updated_at": datetime(2026, 1, 1, tzinfo=UTC),
            "source": "made up",
            "title": f'Größe "{place}" \\ 茶 {shelf}',
            "brand": f"brand {dice.integers(8)}" if place % 10 else None,
            "leaf_category": f"shelf no{shelf}",
            "category": f"aisle {shelf // 5}",
            "price": float(dice.integers(1, 500)) / 10 if place % 7 else None,
            "in_stock": False if place == 59 else None,
            "attributes": [("fit", "slim"), ("fat %", str(place))] if place % 2 else None,
        }
        for shelf in range(SHELVES)
        for place in range(PER_SHELF)
    ]
    names = ITEMS.schema.names
    full = [{name: row.get(name) for name in names} for row in rows]
    return pa.Table.from_pylist(full, schema=ITEMS.schema)


@pytest.fixture(scope="session")
def catalogue() -> Catalogue:
    return catalogues.of_rows(item_rows())


@dataclass(frozen=True)
class World:
    """Days of a simulation, all tables together."""

    simulation: Simulation
    events: pl.DataFrame
    searches: pl.DataFrame
    impressions: pl.DataFrame
    users: pl.DataFrame

    @property
    def robots(self) -> pl.DataFrame:
        return self.users.filter(pl.col("robot").is_not_null())


def world_of(simulation: Simulation, catalogue: Catalogue, *, chunk_users: int = 5_000) -> World:
    made = [
        each
        for day in range(simulation.days)
        for each in tables.of_day(simulation, catalogue, day, chunk_users=chunk_users)
    ]

    def together(parts: list[pa.Table]) -> pl.DataFrame:
        return pl.concat([plain(pl.DataFrame(each)) for each in parts])

    return World(
        simulation,
        together([each.events for each in made]),
        together([each.searches for each in made]),
        together([each.impressions for each in made]),
        together(list(tables.users(simulation))),
    )


def plain(frame: pl.DataFrame) -> pl.DataFrame:
    """Words as text."""
    return frame.with_columns(pl.col(pl.Categorical).cast(pl.String))


@pytest.fixture(scope="session")
def world(catalogue: Catalogue) -> World:
    """Enough shoppers for statistics; many robots, so that there are some of each kind."""
    behaviour = Behaviour(robots=0.01)
    return world_of(
        Simulation(seed=11, users=6_000, first_day=date(2026, 2, 27), days=3, behaviour=behaviour),
        catalogue,
    )
