"""`pagoda stream item`: send one item, and wait until a search under the alias finds it."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from typing import Annotated, Any

import numpy as np
import typer
from pydantic import ValidationError

from jobs.stream.replay import send
from pagoda import registry, topics
from pagoda.ann import Searcher
from pagoda.bundle import read_manifest
from pagoda.console import emit_json, emit_table
from pagoda.errors import CheckFailed, InputError, NothingToDo
from pagoda.filters import Filters, expression
from pagoda.messages import ItemUpdate
from pagoda.publisher import open_producer
from pagoda.settings import Settings, load

_WAIT_S = 120.0
_ASK_S = 0.05
Text = Annotated[str | None, typer.Option()]


def item(
    item_id: Annotated[str, typer.Argument(help="The item's id: a new one, or one to change.")],
    title: Text = None,
    brand: Text = None,
    leaf_category: Text = None,
    category: Text = None,
    first_category: Text = None,
    shop: Text = None,
    colour: Text = None,
    price: Annotated[float | None, typer.Option(min=0)] = None,
    in_stock: Annotated[bool | None, typer.Option("--in-stock/--out-of-stock")] = None,
    wait: Annotated[bool, typer.Option(help="Wait until a search finds it as it is now.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on stdout.")] = False,
) -> None:
    """Send one item's whole row as of now: a field that is left out becomes empty."""
    fields: dict[str, Any] = {
        "title": title,
        "brand": brand,
        "leaf_category": leaf_category,
        "category": category,
        "first_category": first_category,
        "shop": shop,
        "colour": colour,
        "price": price,
        "in_stock": in_stock,
    }
    try:
        message = ItemUpdate(
            item_id=item_id, updated_at=time.time_ns() // 1_000_000, attributes=None, **fields
        )
    except ValidationError as error:
        problems = [f"{each['loc'][0]}: {each['msg']}" for each in error.errors()]
        raise InputError("this message would be rejected", problems=problems) from error
    settings = load()
    topics.ensure(settings)
    producer = open_producer(settings)
    started = time.monotonic()
    partition, offset = send(settings, producer, message)
    sent: dict[str, Any] = {"partition": partition, "offset": offset, **asdict(message)}
    if wait:
        _wait_until_found(settings, message)
        sent["found_after_ms"] = round((time.monotonic() - started) * 1000)
    producer.close(timeout=1)
    if as_json:
        emit_json(sent)
    else:
        emit_table([{key: value for key, value in sent.items() if value is not None}])


def _wait_until_found(settings: Settings, message: ItemUpdate) -> None:
    """Raises: CheckFailed if searches do not find the item, with the fields sent, in time."""
    asked, searcher = _described(message), Searcher(settings)
    give_up = time.monotonic() + _WAIT_S
    try:
        while time.monotonic() < give_up:
            vector = np.ones((1, _width(settings)), np.float32)
            (hits,) = searcher.search(settings.milvus.alias, vector, k=1, expression=asked)
            if message.item_key in hits.keys:
                return
            time.sleep(_ASK_S)
    finally:
        searcher.close()
    raise CheckFailed(
        f"no search found the item within {_WAIT_S:.0f} s",
        where=f"item {message.item_id}",
        next_step="Do `landing` and `airflow` run (`pagoda status`)? "
        "`pagoda index update` does by hand what the DAG `item_updates` does.",
    )


def _width(settings: Settings) -> int:
    """Of the live vectors."""
    name = registry.current(settings)
    if name is None:
        raise NothingToDo("no bundle is current yet", next_step="Build one: `pagoda index`.")
    return read_manifest(registry.require(settings, name)).width


def _described(message: ItemUpdate) -> str:
    """The expression that this item satisfies once the index has it as it was sent."""
    given = {name: value for name, value in asdict(message).items() if value is not None}
    filters = {
        name: (value,) if isinstance(value, str) else value
        for name, value in given.items()
        if name in Filters.model_fields
    }
    if message.price is not None:
        filters["price"] = {"min": message.price, "max": message.price}
    parts = [f"item_id == {json.dumps(message.item_id, ensure_ascii=False)}"]
    return " and ".join([*parts, *filter(None, [expression(Filters.model_validate(filters))])])
