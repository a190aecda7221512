"""The contract and Feast's registry say the same."""

from __future__ import annotations

import pyarrow as pa
import pytest
from feast import FeatureStore

from pagoda import features, store
from pagoda.features import VIEWS, View
from pagoda.schemas import INT64S, TEXTS
from pagoda.settings import Settings
from tests.conftest import Home

FEAST_TYPES = {
    pa.int64(): "Int64",
    pa.float64(): "Float64",
    pa.string(): "String",
    pa.bool_(): "Bool",
    INT64S: "Array(Int64)",
    TEXTS: "Array(String)",
}


@pytest.fixture(scope="module")
def applied(home: Home) -> tuple[Settings, FeatureStore]:
    settings = home("definitions")
    store.apply(settings)
    return settings, store.open_store(settings)


def test_feast_knows_the_views_of_the_contract_and_no_others(
    applied: tuple[Settings, FeatureStore],
) -> None:
    names = {view.name for view in applied[1].list_feature_views()}
    assert names == {view.name for view in VIEWS}


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.name)
def test_a_view_is_declared_as_the_contract_says(
    applied: tuple[Settings, FeatureStore], view: View
) -> None:
    settings, feature_store = applied
    declared = feature_store.get_feature_view(view.name)
    assert {field.name: str(field.dtype) for field in declared.features} == {
        name: FEAST_TYPES[kind] for name, kind in view.columns.items()
    }
    assert declared.join_keys == [view.entity]
    assert (declared.ttl.days if declared.ttl else 0) == (view.ttl_days or 0)
    assert declared.online
    assert declared.description == view.description
    assert declared.owner == features.OWNER
    assert declared.tags == {"online_writer": view.online_writer}
    table = declared.batch_source
    assert table.table == f"lake.{settings.lake.namespace}.{view.name}"
    assert (table.timestamp_field, table.created_timestamp_column) == (
        "event_timestamp",
        "created",
    )
    assert (declared.stream_source is not None) == (view.online_writer == "stream")


def test_the_stream_pushes_to_a_source_of_its_own(
    applied: tuple[Settings, FeatureStore],
) -> None:
    source = applied[1].get_feature_view("user_intraday").stream_source
    assert source.name == "user_intraday_push"


def test_services_name_the_views_of_the_contract(
    applied: tuple[Settings, FeatureStore],
) -> None:
    declared = {each.name: each for each in applied[1].list_feature_services()}
    assert set(declared) == {service.name for service in features.SERVICES}
    for service in features.SERVICES:
        found = declared[service.name]
        reads = [
            (projection.name, [feature.name for feature in projection.features])
            for projection in found.feature_view_projections
        ]
        assert reads == [(view.name, list(view.columns)) for view in service.views]
        assert found.tags == {"schema_hash": service.schema_hash}
        assert found.description == service.description
        assert found.owner == features.OWNER


def test_applying_again_changes_nothing(applied: tuple[Settings, FeatureStore]) -> None:
    settings, _ = applied
    before = {view.name: view.created_timestamp for view in applied[1].list_feature_views()}
    store.apply(settings)
    again = store.open_store(settings)
    assert {view.name: view.created_timestamp for view in again.list_feature_views()} == before


def test_one_entity_has_one_join_key(applied: tuple[Settings, FeatureStore]) -> None:
    """Feast's Spark join glues composite keys together without a separator."""
    keys = {entity.name: entity.join_key for entity in applied[1].list_entities()}
    assert {keys["user"], keys["item"]} == {"user_key", "item_key"}
