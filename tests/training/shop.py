"""Six weeks of a made-up shop (synthetic) in the lake: purchases, each searched for."""

from __future__ import annotations

import random
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pyarrow as pa

from pagoda import dataset as datasets
from pagoda import lake
from pagoda.dataset import Dataset
from pagoda.ids import key_of
from pagoda.schemas import EVENTS, ITEMS, SEARCHES, Table
from pagoda.settings import Settings
from tests.training import toy
from training.inputs import Plan, plan
from training.recipes import recipe

FIRST, VALIDATION, TEST, LAST = (
    date(2026, 9, 1),
    date(2026, 9, 29),
    date(2026, 10, 6),
    date(2026, 10, 12),
)
USERS = 16


def fill(shop: Settings) -> None:
    """Write the data set's record and the lake's tables."""
    datasets.save(
        shop,
        Dataset(
            name="toy",
            click_actions=("click", "buy"),
            first_day=FIRST,
            last_day=LAST,
            validation_from=VALIDATION,
            test_from=TEST,
            query_protocol="made up (synthetic)",
            fingerprint="toy",
        ),
    )
    purchases = [purchase for day in range((LAST - FIRST).days + 1) for purchase in bought(day)]
    write(shop, ITEMS, item_rows())
    write(shop, SEARCHES, [each["search"] for each in purchases])
    write(shop, EVENTS, [each[part] for each in purchases for part in ("cart", "event")])


def smoke(shop: Settings) -> Plan:
    return plan(recipe("smoke"), datasets.load(shop), "test")


def bought(day: int) -> list[dict[str, dict[str, Any]]]:
    """A third of the users buy two or three things of their shelves, each searched for."""
    lines = []
    for user in range(day % 3, USERS, 3):
        dice = random.Random(day * 100 + user)
        at = datetime(2026, 9, 1, 10, user, tzinfo=UTC) + timedelta(days=day)
        for number in range(dice.choice((2, 3))):
            shelf = (user + number) % 6
            lines.append(line(f"u{user}", at, shelf, dice.choice((0, 6, 12)) + shelf))
    return lines


def line(user: str, at: datetime, shelf: int, item: int) -> dict[str, dict[str, Any]]:
    name = f"{user}-{at:%m%d}-{item}"
    common = {
        "user_id": user,
        "user_key": key_of("user", user),
        "ts": at,
        "ingested_at": at,
        "source": "toy",
        "search_id": f"q-{name}",
    }
    search = common | {"search_key": key_of("search", f"q-{name}"), "query": toy.SHELVES[shelf]}
    event = common | {
        "event_id": name,
        "event_key": key_of("event", name),
        "item_id": f"i{item}",
        "item_key": key_of("item", f"i{item}"),
        "action": "buy",
    }
    cart = event | {
        "event_id": f"{name}-cart",
        "event_key": key_of("event", f"{name}-cart"),
        "action": "cart",
    }
    return {"search": search, "cart": cart, "event": event}


def item_rows() -> list[dict[str, Any]]:
    at = datetime(2026, 9, 1, tzinfo=UTC)
    return [row | {"updated_at": at, "source": "toy"} for row in toy.items().to_pylist()]


def write(shop: Settings, table: Table, rows: list[dict[str, Any]]) -> None:
    lake.open_table(shop, table).append(pa.Table.from_pylist(rows, schema=table.schema))
