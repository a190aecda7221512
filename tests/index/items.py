"""Item updates into a home's lake as landing writes them, without the servers around it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from jobs.stream.landed import land as land_rows
from jobs.stream.landed import position
from jobs.stream.routes import routes
from pagoda.messages import ItemUpdate, encode
from pagoda.settings import Settings
from pagoda.topics import Topic
from tests.training import toy

TAKEN = datetime.fromtimestamp(toy.T0 / 1000, UTC)


def land(settings: Settings, *updates: ItemUpdate) -> None:
    """Land these messages, in this order."""
    route = routes(settings.kafka)[2]
    topic = Topic(name=route.topic, topic_id="tests", partitions=1)
    offset = position(settings, route, topic).offsets.get(0, 0)
    records = [
        {"value": encode(each), "partition": 0, "offset": offset + n, "timestamp": TAKEN}
        for n, each in enumerate(updates)
    ]
    rows = pa.Table.from_batches(route.rows([pa.RecordBatch.from_pylist(records)]))
    assert not any(rows["reason"].is_valid().to_pylist())
    land_rows(settings, route, topic, rows)


def item(item_id: str, *, at_s: int = 0, **fields: Any) -> ItemUpdate:
    """The row of that item in the toy shop, or one like it, with other values in some fields.

    Args:
        at_s: when it was updated, seconds after T0.
    """
    number = int(item_id.removeprefix("i").removeprefix("new"))
    row = toy.items(number + 1).to_pylist()[number]
    del row["item_key"]
    return ItemUpdate(**{**row, "item_id": item_id, **fields, "updated_at": toy.T0 + at_s * 1000})
