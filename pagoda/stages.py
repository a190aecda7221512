"""The road as data: every stage, what it reads and writes, and how to start it.

The README's picture is drawn from `STAGES`, and a test holds that everything read is written
by somebody (or comes from outside).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pagoda.features import VIEWS
from pagoda.schemas import BUILD_RECORDS, RAW_TABLES

_FEATURE_TABLES = frozenset(table.name for table in (*BUILD_RECORDS, *(v.table for v in VIEWS)))
_LAKE = tuple(f"lake:{name}" for name in (*(t.name for t in RAW_TABLES), *sorted(_FEATURE_TABLES)))

Room = Literal["outside", "jobs", "feature_repo", "training", "serving"]


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One step of the road.

    Attributes:
        entry: module that runs it (`python -m`), or None where it is not a process of its own.
        reads, writes: places by name: `lake:events`, `topic:behaviour-events`, `online:user_day`,
            `bundle`, `index`, `files`, `requests`, `metrics`.
        dag: the DAG that runs it on schedule.
    """

    name: str
    room: Room
    entry: str | None
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    dag: str | None = None


OUTSIDE = (
    "files",
    "requests",
    "topic:behaviour-events",
    "topic:search-events",
    "topic:item-updates",
)

STAGES = (
    Stage(
        name="import",
        room="jobs",
        entry="jobs.imports.cli",
        reads=("files",),
        writes=("lake:items", "lake:events", "lake:searches", "lake:ids", "lake:rejected"),
        dag="ingest",
    ),
    Stage(
        name="landing",
        room="jobs",
        entry="jobs.stream.landing",
        reads=(
            "topic:behaviour-events",
            "topic:search-events",
            "topic:item-updates",
            "topic:rejected",
        ),
        writes=("lake:events", "lake:searches", "lake:items", "lake:rejected"),
    ),
    Stage(
        name="sequences",
        room="jobs",
        entry="jobs.stream.sequences",
        reads=("topic:behaviour-events", "topic:search-events"),
        writes=("online:user_intraday", "topic:rejected"),
    ),
    Stage(
        name="features",
        room="jobs",
        entry="jobs.batch.build",
        reads=("lake:items", "lake:events", "lake:searches"),
        writes=(
            "lake:robots",
            "lake:user_day",
            "lake:user_intraday",
            "lake:user_items",
            "lake:user_stats",
            "lake:item_stats",
            "lake:item_profile",
            "lake:input_days",
            "lake:built_days",
        ),
        dag="features",
    ),
    Stage(
        name="materialise",
        room="jobs",
        entry="jobs.batch.materialise",
        reads=(
            "lake:user_day",
            "lake:user_items",
            "lake:user_stats",
            "lake:item_stats",
            "lake:item_profile",
        ),
        writes=(
            "online:user_day",
            "online:user_items",
            "online:user_stats",
            "online:item_stats",
            "online:item_profile",
        ),
        dag="features",
    ),
    Stage(
        name="train",
        room="training",
        entry="training.train",
        reads=(
            "lake:items",
            "lake:events",
            "lake:searches",
            "lake:robots",
            "lake:user_day",
            "lake:user_intraday",
            "lake:user_items",
            "lake:user_stats",
        ),
        writes=("bundle",),
        dag="train",
    ),
    Stage(
        name="index",
        room="jobs",
        entry="jobs.index.build",
        reads=("bundle", "lake:items"),
        writes=("index",),
        dag="index",
    ),
    Stage(
        name="item_updates",
        room="jobs",
        entry="jobs.index.update",
        reads=("bundle", "lake:items"),
        writes=("index",),
        dag="item_updates",
    ),
    Stage(
        name="search",
        room="serving",
        entry="serving.server",
        reads=(
            "requests",
            "bundle",
            "index",
            "online:user_day",
            "online:user_intraday",
            "online:user_items",
            "online:user_stats",
            "lake:events",
        ),
        writes=("topic:search-events", "lake:served"),
    ),
)

# What watches the road, and is no part of its picture.
CHECKS = (
    Stage(
        name="parity",
        room="jobs",
        entry="jobs.checks.cli",
        reads=(
            "online:user_day",
            "online:user_intraday",
            "lake:events",
            "lake:searches",
            "lake:served",
            "lake:user_day",
            "lake:user_intraday",
        ),
        writes=("metrics",),
        dag="parity",
    ),
    Stage(
        name="quality",
        room="jobs",
        entry="jobs.checks.cli",
        reads=tuple(f"{place}:{view.name}" for view in VIEWS for place in ("lake", "online")),
        writes=("metrics",),
        dag="quality",
    ),
)

# What keeps the road in order; no part of its picture either.
UPKEEP = (
    Stage(
        name="retry",
        room="jobs",
        entry="jobs.stream.cli",
        reads=("lake:rejected", "lake:retried"),
        writes=(
            "topic:behaviour-events",
            "topic:search-events",
            "topic:item-updates",
            "lake:retried",
        ),
    ),
    Stage(
        name="maintenance",
        room="jobs",
        entry="jobs.lake.maintain",
        reads=_LAKE,
        writes=_LAKE,
        dag="maintenance",
    ),
)


def place_of(name: str) -> str:
    """The place in the road's picture that a name belongs to: tables and topics drawn together."""
    kind, _, what = name.partition(":")
    if kind == "lake":
        return "feature tables" if what in _FEATURE_TABLES else "lake"
    return {"topic": "Kafka", "online": "online store"}.get(kind, kind)


def draw() -> str:
    """The road as a Mermaid flow chart: stages as boxes, what they read and write between."""
    shapes = {
        "Kafka": '[["Kafka topics"]]',
        "lake": '[("lake<br/>Iceberg")]',
        "feature tables": '[("feature tables<br/>Iceberg, Feast offline")]',
        "online store": '[("online features<br/>Feast on Redis")]',
        "bundle": '[/"model bundle"/]',
        "index": '[("item vectors<br/>Milvus")]',
        "files": '[/"files"/]',
        "requests": '(["searches"])',
    }
    lines = ["flowchart LR"]
    places = {place_of(name) for stage in STAGES for name in (*stage.reads, *stage.writes)}
    lines += [f"    {_node(place)}{shapes[place]}" for place in shapes if place in places]
    for stage in STAGES:
        lines.append(f'    {stage.name}["<b>{stage.name}</b><br/><i>{stage.entry}</i>"]')
    edges: dict[str, None] = {}
    for stage in STAGES:
        for name in stage.reads:
            edges[f"    {_node(place_of(name))} --> {stage.name}"] = None
        for name in stage.writes:
            edges[f"    {stage.name} --> {_node(place_of(name))}"] = None
    return "\n".join([*lines, *edges])


def _node(place: str) -> str:
    return "place_" + place.replace(" ", "_")
