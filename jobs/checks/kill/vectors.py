"""Rounds of the index job: a made-up bundle goes live, or what was live stays whole."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from jobs.checks.kill import victims
from jobs.checks.kill.compare import Difference
from jobs.checks.kill.plan import RANDOM, Round
from jobs.checks.kill.streams import Outcome
from jobs.checks.kill.world import World
from jobs.index.collection import DRAFT_PREFIX
from pagoda import registry, updates
from pagoda.bundle import Bundle
from pagoda.features import SEQUENCES_V1
from pagoda.ids import key_of
from pagoda.index import VECTOR, aliased, collection_of, milvus
from pagoda.settings import Settings
from pagoda.windows import WindowSpec

_ITEMS, _WIDTH = 9_000, 16
_PAGE = 3_000
_START_S = 120.0
_WORDS = ("oat", "milk", "tea", "bread", "apple", "soap", "cheese", "rice")
Vectors = npt.NDArray[np.float32]


def run(each: Round, attempt: str, world: World) -> Outcome:
    """Build a new bundle's index, kill the build, look at what is live, build again."""
    outcome, settings = Outcome(), world.settings
    before = registry.current(settings)
    if before is None:
        before = f"kill_{each.number}{attempt}_first"
        make_bundle(settings, before, seed=0)
        world.run_job("jobs.index.build", "--bundle", before)
    name = f"kill_{each.number}{attempt}"
    vectors = make_bundle(settings, name, seed=each.number)

    job = world.start_job("jobs.index.build", "--bundle", name)
    if each.point:
        passages = 2 if each.point == "index.inserted" else 1
        reached = victims.kill_at(world.faults, each.point, passages=passages, within_s=_START_S)
        outcome.note = "" if reached else "the point was not reached"
    else:
        assert each.instant == RANDOM
        time.sleep(each.dice.uniform(2.0, 10.0))
    over_already = job.poll() == 0
    victims.kill(job.pid)
    job.wait()
    outcome.kills += not over_already

    outcome.differences += _between(settings, before, name)
    world.run_job("jobs.index.build", "--bundle", name)
    outcome.differences += judge(settings, name, vectors)
    return outcome


def judge(settings: Settings, name: str, vectors_ND: Vectors) -> list[Difference]:
    """The live collection holds exactly this bundle's items and vectors, and nothing is left.

    Items that rounds of other kinds have sent are in it as the lake has them.
    """
    found = _live(settings, expected=name)
    with milvus(settings) as client:
        held = _held(client, collection_of(name))
        drafts = [each for each in client.list_collections() if each.startswith(DRAFT_PREFIX)]
    expected = {key_of("item", item): vectors_ND[n] for n, item in enumerate(_item_ids())}
    sent = updates.since_training(settings, Bundle.load(settings.bundles / name))
    expected |= dict(zip(sent.keys.tolist(), sent.vectors_ND, strict=True))
    wrong = [
        key
        for key in expected.keys() | held.keys()
        if key not in held
        or key not in expected
        or not np.allclose(held[key], expected[key], atol=1e-6)
    ]
    if wrong:
        found.append(
            Difference(
                where=f"index:{name}",
                key=str(wrong[0]),
                expected=f"{len(expected)} items",
                found=f"{len(held)} items, {len(wrong)} of them wrong",
            )
        )
    if drafts:
        found.append(Difference(where="index", key="", expected="no draft", found=str(drafts)))
    return found


def make_bundle(settings: Settings, name: str, *, seed: int) -> Vectors:
    """Write a bundle of untrained towers; returns its item vectors [N, width]."""
    import torch  # seconds; only these rounds need it

    from pagoda import bundle as bundles
    from pagoda.models import towers
    from pagoda.models.catalogue import FIELDS, Catalogue
    from pagoda.models.inputs import item_batch
    from pagoda.models.mgdspr import MgdsprConfig
    from pagoda.models.tables import Sizes
    from pagoda.text import Tokenizer

    rows = [_item(number, item) for number, item in enumerate(_item_ids())]
    table = pa.Table.from_pylist(rows, schema=FIELDS)
    tokenizer = Tokenizer.fit(table["title"].to_pylist(), buckets=50)
    catalogue = Catalogue.build(table, tokenizer)
    sizes = Sizes.of(catalogue, tokenizer)
    config = MgdsprConfig(width=_WIDTH, attribute_width=8, heads=2)
    torch.manual_seed(seed)
    model = config.build(sizes).eval()
    with torch.inference_mode():
        numbers = torch.arange(1, len(catalogue) + 1).numpy()
        vectors_ND: Vectors = model.encode_item(item_batch(numbers, catalogue)).numpy()
    manifest = bundles.Manifest(
        name=name,
        recipe="made up by check kill",
        recipe_config={},
        fingerprint=f"kill-{name}",
        created_at=datetime.now(UTC),
        model=bundles.ModelSpec(
            kind=towers.kind_of(config),
            config=dict(bundles.as_json(config)),
            sizes=dict(bundles.as_json(sizes)),
        ),
        width=config.width,
        feature_service=SEQUENCES_V1.name,
        schema_hash=SEQUENCES_V1.schema_hash,
        windows=WindowSpec(),
        counts={"items": len(catalogue)},
        snapshots={},
        dataset={"name": "made up", "query_protocol": "made up"},
        metrics=[],
    )
    bundles.save(
        settings.bundles,
        manifest,
        model=model,
        tokenizer=tokenizer,
        catalogue=catalogue,
        item_vectors=vectors_ND,
    )
    by_key = dict(zip(catalogue.table["item_key"].to_pylist(), vectors_ND, strict=True))
    return np.array([by_key[key_of("item", item)] for item in _item_ids()])


def _between(settings: Settings, before: str, name: str) -> list[Difference]:
    """After the kill: the alias and the pointer name whole collections, the old or the new one."""
    live = registry.current(settings)
    found = []
    if live not in (before, name):
        found.append(Difference(where="pointer", key="", expected=before, found=live))
    with milvus(settings) as client:
        alias = aliased(client, settings.milvus.alias)
        if alias not in (collection_of(before), collection_of(name)):
            expected = collection_of(before)
            found.append(Difference(where="alias", key="", expected=expected, found=alias))
        elif len(_held(client, alias)) != _ITEMS:
            found.append(
                Difference(where=f"index:{alias}", key="", expected="whole", found="in part")
            )
    return found


def _live(settings: Settings, *, expected: str) -> list[Difference]:
    with milvus(settings) as client:
        alias = aliased(client, settings.milvus.alias)
    pairs = (
        ("pointer", expected, registry.current(settings)),
        ("alias", collection_of(expected), alias),
    )
    return [
        Difference(where=where, key="", expected=wanted, found=found)
        for where, wanted, found in pairs
        if wanted != found
    ]


def _held(client: Any, collection: str) -> Mapping[int, Vectors]:
    """Item key to vector of all that a collection holds."""
    held: dict[int, Vectors] = {}
    pages = client.query_iterator(
        collection,
        batch_size=_PAGE,
        filter="",
        output_fields=["item_key", VECTOR],
        consistency_level="Strong",
    )
    while rows := pages.next():
        held |= {row["item_key"]: np.array(row[VECTOR], np.float32) for row in rows}
    pages.close()
    return held


def _item_ids() -> list[str]:
    return [f"i{number}" for number in range(_ITEMS)]


def _item(number: int, item: str) -> dict[str, Any]:
    word = _WORDS[number % len(_WORDS)]
    return {
        "item_key": key_of("item", item),
        "item_id": item,
        "title": f"{word} no. {number}",
        "brand": f"brand {number % 7}",
        "leaf_category": word,
        "category": word,
        "first_category": "food" if number % 5 else "home",
        "shop": None,
        "colour": ("red", "blue", None)[number % 3],
        "price": 1.0 + number % 300,
        "in_stock": number % 10 != 9,
    }
