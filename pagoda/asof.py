"""Feast's Spark store with another plan for historical features: keys first, arrays last.

Feast's own query joins every request with every row that it could see, arrays and all, and three
times over (for the versions, for the newest, for the values). This one sorts keys and times alone,
requests among the rows of a view, takes the newest row before each request in one pass, and reads
the arrays of exactly those rows. Feature services, entity frames and results are Feast's:
`feature_store.yaml` names this class as the offline store.
"""

from __future__ import annotations

from typing import Any

from feast.infra.offline_stores import offline_utils
from feast.infra.offline_stores.contrib.spark_offline_store import spark as feast_spark
from feast.infra.offline_stores.contrib.spark_offline_store.spark_source import SparkSource
from feast.infra.offline_stores.offline_store import RetrievalJob, RetrievalMetadata
from feast.on_demand_feature_view import OnDemandFeatureView

# So many requests, 40 bytes each, are handed to every executor; more are shuffled with the rows.
_BROADCAST_REQUESTS = 1_000_000

# A row may be used from `known` on: when its time has come and (if asked for) it was known. Of the
# rows known before a request the newest by (time, created) counts: a running maximum.
_QUERY = """
{% macro name(view, feature) %}
{{ view.name ~ "__" if full_feature_names }}{{ view.field_mapping.get(feature, feature) }}
{% endmacro %}
CREATE OR REPLACE TEMPORARY VIEW entity_dataframe AS
SELECT *, {{ entity_df_event_timestamp_col }} AS entity_timestamp FROM {{ left_table_query_string }}

{% for view in featureviews %}
{% set keys = view.entities | join(", ") %}
{% set created = view.created_timestamp_column %}
{% set version = ["row_time"] + (["row_created"] if created else []) %}
---EOS---
CREATE OR REPLACE TEMPORARY VIEW {{ view.name }}__rows AS
SELECT
  {{ view.entity_selections | join(", ") }},
  {{ view.timestamp_field }} AS row_time
  {% if created %}, {{ created }} AS row_created{% endif %}
  {% for feature in view.features %}, {{ feature }} AS {{ name(view, feature) }}{% endfor %}
FROM {{ view.table_subquery }}
WHERE {{ view.timestamp_field }} <= '{{ view.max_event_timestamp }}'
  {% if view.date_partition_column %}
  AND {{ view.date_partition_column }} <= DATE('{{ view.max_event_timestamp }}')
  {% endif %}
  {% if view.ttl %}
  AND {{ view.timestamp_field }} >= '{{ view.min_event_timestamp }}'
  {% if view.date_partition_column %}
  AND {{ view.date_partition_column }} >= DATE('{{ view.min_event_timestamp }}')
  {% endif %}
  {% endif %}

---EOS---
CREATE OR REPLACE TEMPORARY VIEW {{ view.name }}__newest AS
SELECT {{ keys }}, known AS entity_timestamp, newest.*
FROM (
  SELECT {{ keys }}, known, row IS NULL AS asked, MAX(row) OVER (
    PARTITION BY {{ keys }} ORDER BY known, row IS NULL ROWS UNBOUNDED PRECEDING
  ) AS newest
  FROM (
    SELECT {{ keys }},
      {% if created and filter_by_created_timestamp %}
      GREATEST(row_time, row_created) AS known,
      {% else %}
      row_time AS known,
      {% endif %}
      STRUCT({{ version | join(", ") }}) AS row
    FROM {{ view.name }}__rows
    UNION ALL
    SELECT DISTINCT {{ keys }}, entity_timestamp, NULL FROM entity_dataframe
  )
)
WHERE asked AND newest IS NOT NULL
  {% if view.ttl %}
  AND newest.row_time >= known - INTERVAL '{{ view.ttl }}' SECOND
  {% endif %}

---EOS---
CREATE OR REPLACE TEMPORARY VIEW {{ view.name }}__taken AS
SELECT {{ "/*+ BROADCAST(newest) */" if broadcast }}
  {{ keys }}, entity_timestamp
  {% for feature in view.features %}, {{ name(view, feature) }}{% endfor %}
FROM {{ view.name }}__newest AS newest
JOIN {{ view.name }}__rows AS rows USING ({{ keys }}, {{ version | join(", ") }})
{% endfor %}

---EOS---
SELECT {{ final_output_feature_names | join(", ") }}
FROM entity_dataframe
{% for view in featureviews %}
LEFT JOIN {{ view.name }}__taken USING ({{ view.entities | join(", ") }}, entity_timestamp)
{% endfor %}
"""


class AsOfOfflineStoreConfig(feast_spark.SparkOfflineStoreConfig):  # type: ignore[misc]
    """Feast looks for it beside the store; nothing is configured beyond Feast's Spark store."""

    type: str = "pagoda.asof.AsOfOfflineStore"


class AsOfOfflineStore(feast_spark.SparkOfflineStore):  # type: ignore[misc]
    """`SparkOfflineStore` with a plan of its own for `get_historical_features`."""

    @staticmethod
    def get_historical_features(  # noqa: D102
        config: Any,
        feature_views: list[Any],
        feature_refs: list[str],
        entity_df: Any,
        registry: Any,
        project: str,
        full_feature_names: bool = False,
        filter_by_created_timestamp: bool = False,
        **kwargs: Any,
    ) -> RetrievalJob:
        tables = all(isinstance(view.batch_source, SparkSource) for view in feature_views)
        if entity_df is None or not tables:  # what Pagoda does not use stays Feast's
            return feast_spark.SparkOfflineStore.get_historical_features(
                config,
                feature_views,
                feature_refs,
                entity_df,
                registry,
                project,
                full_feature_names,
                filter_by_created_timestamp,
                **kwargs,
            )
        session = feast_spark.get_spark_session_or_start_new_with_repoconfig(config.offline_store)
        columns = feast_spark._get_entity_schema(session, entity_df)
        at = offline_utils.infer_event_timestamp_from_entity_df(columns)
        expected = offline_utils.get_expected_join_keys(project, feature_views, registry)
        offline_utils.assert_expected_columns_in_entity_df(columns, expected, at)
        span = feast_spark._get_entity_df_event_timestamp_range(entity_df, at, session)
        requests = offline_utils.get_temp_entity_table_name()
        feast_spark._upload_entity_df(session, requests, entity_df, at)
        broadcast = session.table(requests).count() <= _BROADCAST_REQUESTS
        query = offline_utils.build_point_in_time_query(
            offline_utils.get_feature_view_query_context(
                feature_refs, feature_views, registry, project, span
            ),
            left_table_query_string=requests,
            entity_df_event_timestamp_col=at,
            entity_df_columns=columns.keys(),
            query_template=f"{{% set broadcast = {broadcast} %}}{_QUERY}",
            full_feature_names=full_feature_names,
            filter_by_created_timestamp=filter_by_created_timestamp,
        )
        return feast_spark.SparkRetrievalJob(
            spark_session=session,
            query=query,
            full_feature_names=full_feature_names,
            on_demand_feature_views=OnDemandFeatureView.get_requested_odfvs(
                feature_refs, project, registry
            ),
            metadata=RetrievalMetadata(
                features=feature_refs,
                keys=sorted(set(columns) - {at}),
                min_event_timestamp=span[0],
                max_event_timestamp=span[1],
            ),
            config=config,
        )
