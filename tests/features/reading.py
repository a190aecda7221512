"""Reading features the way training does: Feast's join, as known then, strictly before t."""

from __future__ import annotations

from typing import Any

import pandas as pd

from pagoda import store
from pagoda.features import USER_DAY, USER_INTRADAY, Service, View, candidates_of
from pagoda.settings import Settings
from pagoda.windows import Windows, WindowSpec, cut


def entity_frame(pairs: list[tuple[int, int]], entity: str) -> pd.DataFrame:
    """Distinct (key, t); strictly before t is at or before t - 1 ms."""
    return pd.DataFrame(
        {
            entity: [key for key, _ in pairs],
            "t": [t for _, t in pairs],
            "event_timestamp": pd.to_datetime([t - 1 for _, t in pairs], unit="ms", utc=True),
        }
    )


def historical(
    settings: Settings, service: Service, entities: pd.DataFrame
) -> list[dict[str, Any]]:
    """One row for each of `entities`, in any order."""
    feature_store = store.open_store(settings)
    job = feature_store.get_historical_features(
        entity_df=entities,
        features=feature_store.get_feature_service(service.name),
        full_feature_names=True,
        filter_by_created_timestamp=True,
    )
    rows: list[dict[str, Any]] = job.to_spark_df().toArrow().to_pylist()
    assert len(rows) == len(entities)
    return rows


def part(row: dict[str, Any], view: View) -> dict[str, Any]:
    """One view's columns of a row."""
    return {name: row[f"{view.name}__{name}"] for name in view.columns}


def windows_of(row: dict[str, Any]) -> Windows:
    """What a row's request at its `t` sees."""
    known = candidates_of(part(row, USER_DAY)).union(candidates_of(part(row, USER_INTRADAY)))
    return cut(known, at_ms=row["t"], spec=WindowSpec())
