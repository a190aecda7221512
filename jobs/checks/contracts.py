"""Do the code, Feast's registry, the lake and the current bundle mean the same features?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING

import pyarrow as pa
from feast.errors import FeastObjectNotFoundException

from pagoda import bundle, lake, registry
from pagoda.errors import BundleRefused, InputError
from pagoda.features import SERVICES, VIEWS, Service, View
from pagoda.schemas import INT64S, TEXTS
from pagoda.settings import Settings
from pagoda.store import open_store

if TYPE_CHECKING:
    from feast import FeatureStore

_FEAST_NAMES: dict[pa.DataType, str] = {
    pa.int64(): "Int64",
    pa.float64(): "Float64",
    pa.string(): "String",
    pa.bool_(): "Bool",
    INT64S: "Array(Int64)",
    TEXTS: "Array(String)",
}


@dataclass(frozen=True, kw_only=True)
class Contract:
    """One thing that must agree with `pagoda.features`; no problems means that it does."""

    part: str
    name: str
    problems: list[str] = field(default_factory=list)


def check(settings: Settings) -> list[Contract]:
    """Every view and service in the registry, every feature table, the current bundle."""
    store = open_store(settings, offline=False)
    return [
        *(Contract(part="feast view", name=v.name, problems=[*_view(store, v)]) for v in VIEWS),
        *(
            Contract(part="feast service", name=s.name, problems=[*_service(store, s)])
            for s in SERVICES
        ),
        *(Contract(part="lake table", name=v.name, problems=[*_table(settings, v)]) for v in VIEWS),
        *_current_bundle(settings),
    ]


def _view(store: FeatureStore, view: View) -> Iterator[str]:
    try:
        found = store.get_feature_view(view.name)
    except FeastObjectNotFoundException:
        yield "not registered; run `pagoda features apply`"
        return
    if found.join_keys != [view.entity]:
        yield f"join keys: expected [{view.entity}], found {found.join_keys}"
    if found.ttl != timedelta(days=view.ttl_days or 0):
        yield f"TTL: expected {view.ttl_days} days, found {found.ttl}"
    columns = {each.name: str(each.dtype) for each in found.features}
    yield from _differences({n: _FEAST_NAMES[k] for n, k in view.columns.items()}, columns)


def _service(store: FeatureStore, service: Service) -> Iterator[str]:
    try:
        found = store.get_feature_service(service.name)
    except FeastObjectNotFoundException:
        yield "not registered; run `pagoda features apply`"
        return
    known = found.tags.get("schema_hash")
    if known != service.schema_hash:
        yield f"schema hash: expected {service.schema_hash}, found {known}"
    expected = {view.name: list(view.columns) for view in service.views}
    reads = {
        each.name: [feature.name for feature in each.features]
        for each in found.feature_view_projections
    }
    if list(reads) != list(expected):
        yield f"views: expected {list(expected)}, found {list(reads)}"
    for name in expected.keys() & reads.keys():
        if reads[name] != expected[name]:
            yield f"columns of {name}: expected {expected[name]}, found {reads[name]}"


def _table(settings: Settings, view: View) -> Iterator[str]:
    try:
        lake.open_table(settings, view.table)  # brings it to its declaration
    except InputError as error:
        yield from error.problems


def _differences(expected: dict[str, str], found: dict[str, str]) -> Iterator[str]:
    for name in expected.keys() - found.keys():
        yield f"column {name} is missing"
    for name in found.keys() - expected.keys():
        yield f"column {name} is not in the contract"
    for name in expected.keys() & found.keys():
        if expected[name] != found[name]:
            yield f"column {name}: expected {expected[name]}, found {found[name]}"


def _current_bundle(settings: Settings) -> Iterator[Contract]:
    name = registry.current(settings)
    if name is None:
        return
    try:
        problems = bundle.misfits(bundle.read_manifest(settings.bundles / name))
    except BundleRefused as error:
        problems = [str(error)]
    yield Contract(part="bundle", name=name, problems=problems)
