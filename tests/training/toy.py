"""A tiny shop, made up (synthetic), for tests that need a real bundle or rows to train on.

    path = toy.bundle(settings)              a whole bundle, in about a second
    rows = toy.feature_rows(user, at_ms)     that user's raw feature rows, as the online store's
    toy.record_batch(toy.baskets(48))        rows to train on, as Feast gives them

Shelves are words ("milk", "tea", ...); an item's title names its shelf; every user has a
favourite brand. The bundle's towers are not trained: the numbers mean nothing, the shapes and
files are real. `tests/training/test_train.py` trains on the same shop.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from pagoda import bundle as bundles
from pagoda.features import SEQUENCES_OWNED_V1, SEQUENCES_V1, USER_STATS, Service
from pagoda.ids import key_of
from pagoda.models import towers
from pagoda.models.catalogue import FIELDS, Catalogue
from pagoda.models.inputs import item_batch
from pagoda.models.mgdspr import MgdsprConfig
from pagoda.models.tables import Schemes, Sizes
from pagoda.settings import Settings
from pagoda.text import Tokenizer
from pagoda.windows import DAY_MS, WindowSpec

SHELVES = ("milk", "tea", "bread", "apples", "soap", "cheese")
BRANDS = ("acme", "globex", "initech", 'o\'hara "x" \\ y')
COLOURS = ("red", "blue", None)
T0 = 1_790_000_000_000  # September 2026
SMALL = MgdsprConfig(width=16, attribute_width=8, heads=2)


def item_ids(count: int = 60) -> list[str]:
    """Item ids; item n stands on shelf n % 6."""
    return [f"i{number}" for number in range(count)]


def items(count: int = 60) -> pa.Table:
    """The catalogue, with the columns of `pagoda.models.catalogue.FIELDS`."""
    rows = [
        {
            "item_key": key_of("item", item_id),
            "item_id": item_id,
            "title": f"{SHELVES[number % 6].title()} no. {number}",
            "brand": BRANDS[number // 6 % 4],
            "leaf_category": SHELVES[number % 6],
            "category": SHELVES[number % 6],
            "first_category": "food" if number % 6 != 4 else "home",
            "shop": None,
            "colour": COLOURS[number % 3],
            "price": 1.0 + number,
            "in_stock": number % 10 != 9,
        }
        for number, item_id in enumerate(item_ids(count))
    ]
    return pa.Table.from_pylist(rows, schema=FIELDS)


def feature_rows(user: str, at_ms: int, *, clicks: int = 30) -> dict[str, dict[str, Any] | None]:
    """Raw rows of user_day and user_intraday at a moment; the same user gives the same."""
    dice = random.Random(user)
    ids = item_ids()
    picked = [key_of("item", dice.choice(ids)) for _ in range(clicks)]
    times = [at_ms - (clicks - n) * DAY_MS // 10 - 1 for n in range(clicks)]
    events = [key_of("event", f"{user}{n}") for n in range(clicks)]
    owned = list(dict.fromkeys(picked))
    old = [at_ms - 15 * DAY_MS - n for n in range(min(clicks, 5))]
    return {
        "user_day": {
            "click_ts": times,
            "click_events": events,
            "click_items": picked,
            "query_ts": times[:2],
            "query_events": events[:2],
            "query_texts": ["milk", "green tea"][:clicks],
            "long_click_ts": old,
            "long_click_events": events[:5],
            "long_click_items": picked[:5],
            "long_buy_ts": old[:2],
            "long_buy_events": events[:2],
            "long_buy_items": picked[:2],
            "long_collect_ts": [],
            "long_collect_events": [],
            "long_collect_items": [],
        },
        "user_intraday": None,
        "user_items": {
            "owned_items": owned,
            "owned_times": [picked.count(item) for item in owned],
            "owned_last_ts": [at_ms - (1 + 5 * n) * DAY_MS for n in range(len(owned))],
        },
    }


@dataclass(frozen=True, kw_only=True)
class Basket:
    """One user's request and what was taken: (query, item id) a line."""

    user: str
    at_ms: int
    taken: tuple[tuple[str, str], ...]
    clicks: int = 12


def baskets(count: int, *, users: int = 12, seed: int = 0) -> list[Basket]:
    """Baskets of two or three lines; users keep to their shelves."""
    dice = random.Random(seed)
    made = []
    for number in range(count):
        user = number % users
        taken = []
        for _ in range(dice.choice((2, 3))):
            shelf = (user + dice.choice((0, 0, 1))) % 6
            taken.append((SHELVES[shelf], f"i{shelf + 6 * dice.choice((user % 4, 5))}"))
        made.append(
            Basket(
                user=f"u{user}",
                at_ms=T0 + number * 3_600_000,
                taken=tuple(dict.fromkeys(taken)),
                clicks=dice.choice((0, 3, 12, 60)),
            )
        )
    return made


def record_batch(made: list[Basket]) -> pa.RecordBatch:
    """The baskets' feature rows in the form that `training.data.rows` fetches."""
    rows = []
    for basket in made:
        features = feature_rows(basket.user, basket.at_ms, clicks=basket.clicks)
        rows.append(
            {"user_key": key_of("user", basket.user), "t_ms": basket.at_ms}
            | {
                f"{view.name}__{column}": (features[view.name] or {}).get(column)
                for view in SEQUENCES_OWNED_V1.views
                for column in view.columns
            }
        )
    schema = pa.schema(
        [("user_key", pa.int64()), ("t_ms", pa.int64())]
        + [
            (f"{view.name}__{column}", kind)
            for view in SEQUENCES_OWNED_V1.views
            for column, kind in view.columns.items()
        ]
    )
    return pa.RecordBatch.from_pylist(rows, schema=schema)


def lines(made: list[Basket]) -> list[dict[str, Any]]:
    """The baskets' lines, with the columns of `training.data.lines.LINE_COLUMNS`."""
    return [
        {
            "user_key": key_of("user", basket.user),
            "t_ms": basket.at_ms,
            "query": query,
            "item_key": key_of("item", item),
            "action": "click",
        }
        for basket in made
        for query, item in basket.taken
    ]


def not_taken(made: list[Basket]) -> list[dict[str, Any]]:
    """What the baskets' searches showed, with the columns of `training.data.lines.SHOWN_COLUMNS`.

    None, one or five items, some of them taken in another search of the basket.
    """
    shown = []
    for number, basket in enumerate(made):
        dice = random.Random(f"shown{number}")
        seen = dice.sample(item_ids(), dice.choice((0, 1, 5)))
        seen += [item for _, item in basket.taken[: number % 2]]
        shown += [(basket, item) for item in dict.fromkeys(seen)]
    return [
        {
            "user_key": key_of("user", basket.user),
            "t_ms": basket.at_ms,
            "item_key": key_of("item", item),
        }
        for basket, item in shown
    ]


def bundle(settings: Settings, name: str = "toy", *, seed: int = 0, count: int = 60) -> Path:
    """Write a whole bundle of untrained MGDSPR towers of width 16 into `settings.bundles`."""
    return save(settings.bundles, name, seed=seed, count=count)


def save(
    folder: Path,
    name: str = "toy",
    *,
    seed: int = 0,
    count: int = 60,
    config: towers.Config = SMALL,
    service: Service = SEQUENCES_V1,
    schemes: Schemes | None = None,
) -> Path:
    """The same into any folder, or of another model, service or embedding."""
    table = items(count)
    tokenizer = Tokenizer.fit([*table["title"].to_pylist(), *SHELVES], buckets=50)
    catalogue = Catalogue.build(table, tokenizer)
    sizes = Sizes.of(catalogue, tokenizer, stats=service.columns_of(USER_STATS), schemes=schemes)
    torch.manual_seed(seed)
    model = config.build(sizes).eval()
    with torch.inference_mode():
        numbers = torch.arange(1, len(catalogue) + 1).numpy()
        vectors = model.encode_item(item_batch(numbers, catalogue)).numpy()
    manifest = bundles.Manifest(
        name=name,
        recipe="toy",
        recipe_config={},
        fingerprint=f"toy-{seed}-{count}",
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
        model=bundles.ModelSpec(
            kind=towers.kind_of(config),
            config=dict(bundles.as_json(config)),
            sizes=dict(bundles.as_json(sizes)),
        ),
        width=vectors.shape[1],
        feature_service=service.name,
        schema_hash=service.schema_hash,
        windows=WindowSpec(),
        counts={"items": len(catalogue)},
        snapshots={},
        dataset={"name": "toy", "query_protocol": "made up (synthetic)"},
        metrics=[],
    )
    return bundles.save(
        folder,
        manifest,
        model=model,
        tokenizer=tokenizer,
        catalogue=catalogue,
        item_vectors=vectors,
    )
