"""Feast's view of `pagoda.features`: entities, sources, views, push source, services.

Feast runs this file from inside its folder and registers every object that it finds under a
module name. Columns, TTLs and services come from the contract: a feature is added there.
"""

from __future__ import annotations

from datetime import timedelta

import pyarrow as pa
from feast import Entity, FeatureService, FeatureView, Field, PushSource, ValueType
from feast.infra.offline_stores.contrib.spark_offline_store.spark_source import SparkSource
from feast.types import Array, Bool, FeastType, Float64, Int64, String

from pagoda import features, settings, spark
from pagoda.schemas import INT64S, TEXTS

# Feast is the main program here: it starts this file, so this is where settings come in.
NAMESPACE = settings.load().lake.namespace

FEAST_TYPES: dict[pa.DataType, FeastType] = {
    pa.int64(): Int64,
    pa.float64(): Float64,
    pa.string(): String,
    pa.bool_(): Bool,
    INT64S: Array(Int64),  # times too: Array(UnixTimestamp) truncates them
    TEXTS: Array(String),
}

user = Entity(
    name="user",
    join_keys=["user_key"],
    value_type=ValueType.INT64,
    description="A shopper; user_key is pagoda.ids.key_of('user', user_id).",
    owner=features.OWNER,
)
item = Entity(
    name="item",
    join_keys=["item_key"],
    value_type=ValueType.INT64,
    description="A product; item_key is pagoda.ids.key_of('item', item_id).",
    owner=features.OWNER,
)
_ENTITIES = {"user_key": user, "item_key": item}


def _view(view: features.View) -> FeatureView:
    table = SparkSource(
        name=f"{view.name}_table",
        table=f"{spark.CATALOG}.{NAMESPACE}.{view.name}",
        timestamp_field="event_timestamp",
        created_timestamp_column="created",
        date_partition_column="day",
        description=view.description,
        owner=features.OWNER,
    )
    pushed = view.online_writer == "stream"
    return FeatureView(
        name=view.name,
        source=PushSource(name=f"{view.name}_push", batch_source=table) if pushed else table,
        entities=[_ENTITIES[view.entity]],
        schema=[
            Field(name=view.entity, dtype=Int64),
            *(Field(name=name, dtype=FEAST_TYPES[kind]) for name, kind in view.columns.items()),
        ],
        ttl=timedelta(days=view.ttl_days or 0),  # 0: for ever
        online=True,
        description=view.description,
        owner=features.OWNER,
        tags={"online_writer": view.online_writer},
    )


_VIEWS = {view.name: _view(view) for view in features.VIEWS}


def _service(service: features.Service) -> FeatureService:
    return FeatureService(
        name=service.name,
        features=[_VIEWS[view.name][list(view.columns)] for view in service.views],
        description=service.description,
        owner=features.OWNER,
        tags={"schema_hash": service.schema_hash},
    )


# Feast looks at the names of this module.
globals().update(_VIEWS)
globals().update({service.name: _service(service) for service in features.SERVICES})
