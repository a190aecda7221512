"""A quality report as tables for people, as JSON, and as metrics for Prometheus."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from prometheus_client import CollectorRegistry, Gauge

from jobs.quality.check import Column, Finding, Report, ViewFound
from jobs.quality.distribution import Distribution
from pagoda import textfile
from pagoda.console import emit_table
from pagoda.settings import Settings

QUANTILES = (0.05, 0.5, 0.95, 1.0)
Row = dict[str, Any]


def as_json(report: Report, findings: Sequence[Finding]) -> Row:
    """For programs."""
    return {
        "at": report.at.isoformat(timespec="seconds"),
        "ok": not any(each.level == "fail" for each in findings),
        "findings": [asdict(each) for each in findings],
        "weeks": asdict(report.weeks),
        "views": view_rows(report),
        "columns": column_rows(report),
        "streams": [asdict(each) for each in report.backlogs],
        "newest_event": _moment(report.newest_event_ms),
        "unreachable": dict(report.unreachable),
        "seconds": report.seconds,
    }


def tables(report: Report, findings: Sequence[Finding]) -> None:
    """On stdout."""
    weeks = report.weeks
    emit_table(view_rows(report), title="Freshness")
    emit_table(
        column_rows(report),
        title=f"Columns, {weeks.first} to {weeks.last} against {weeks.reference_first} to "
        f"{weeks.reference_last}",
    )
    if report.backlogs:
        emit_table([asdict(each) for each in report.backlogs], title="Kafka: what waits")
    if findings:
        emit_table([asdict(each) for each in findings], title="Findings")


def view_rows(report: Report) -> list[Row]:
    """A row a view."""
    return [
        {
            "view": found.view.name,
            "rows this week": found.rows,
            "newest row": _moment(found.newest_ms),
            "age h": _rounded(report.age_h(found.newest_ms), 1),
            "behind events h": _rounded(found.behind_h, 1),
            **_online_row(report, found),
        }
        for found in report.views
    ]


def _online_row(report: Report, found: ViewFound) -> Row:
    seen = found.online
    return {
        "online rows": seen.rows if seen else None,
        "online newest": _moment(seen.newest_ms) if seen else None,
        "online age h": _rounded(report.age_h(seen.newest_ms), 1) if seen else None,
        "expired": seen.expired if seen else None,
    }


def column_rows(report: Report) -> list[Row]:
    """A row a column; rates are shares from 0 to 1."""
    return [
        {
            "column": f"{found.view.name}.{column.name}",
            "by": column.measure,
            "null": _rounded(column.current.null_rate),
            "empty": _rounded(column.empty_rate(column.current)),
            **{f"p{level * 100:g}": _quantile(column, level) for level in QUANTILES},
            "PSI": _rounded(column.psi),
            "online null": _rounded(column.online.null_rate) if column.online else None,
            "online empty": _rounded(column.empty_rate(column.online)),
        }
        for found in report.views
        for column in found.columns
    ]


class _Gauges:
    """Gauges of one registry."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

    def __call__(self, name: str, help_text: str, *labels: str) -> Gauge:
        return Gauge(f"pagoda_quality_{name}", help_text, labels, registry=self.registry)


def publish(settings: Settings, report: Report, findings: Sequence[Finding]) -> None:
    """As metrics."""
    gauge = _Gauges()
    _publish_views(gauge, report)
    _publish_columns(gauge, report)
    waiting = gauge("waiting_records", "Records a reader has not read", "reader", "topic")
    waited = gauge("waited_seconds", "How long the oldest of them has waited", "reader", "topic")
    for each in report.backlogs:
        waiting.labels(each.reader, each.topic).set(each.records)
        waited.labels(each.reader, each.topic).set(each.waited_s)
    levels = gauge("findings", "Limits exceeded", "level")
    for level in ("fail", "warn"):
        levels.labels(level).set(sum(each.level == level for each in findings))
    gauge("checked_timestamp_seconds", "When this was looked at").set(report.at.timestamp())
    textfile.write(settings, "quality", gauge.registry)


def _publish_views(gauge: _Gauges, report: Report) -> None:
    rows = gauge("rows", "Rows: offline of this week, online of the keys seen", "view", "store")
    age = gauge("newest_row_age_seconds", "Age of a view's newest row", "view", "store")
    for name, store, count, newest_ms in _stores(report):
        rows.labels(name, store).set(count)
        if (hours := report.age_h(newest_ms)) is not None:
            age.labels(name, store).set(hours * 3600)


def _publish_columns(gauge: _Gauges, report: Report) -> None:
    nulls = gauge("null_ratio", "Share of rows without a value", "column", "store")
    empty = gauge("empty_ratio", "Share of rows with an empty list or text", "column", "store")
    for where, store, column, held in _held(report):
        nulls.labels(where, store).set(held.null_rate or 0)
        if (share := column.empty_rate(held)) is not None:
            empty.labels(where, store).set(share)
    length = gauge("length", "Quantiles of the lengths of sequences", "column", "quantile")
    drift = gauge("psi", "Drift against the reference week", "column")
    for where, column in _columns(report):
        for level in QUANTILES if column.measure == "length" else ():
            if (quantile := column.current.quantile(level)) is not None:
                length.labels(where, f"{level:g}").set(quantile)
        if column.psi is not None:
            drift.labels(where).set(column.psi)


def _stores(report: Report) -> Iterator[tuple[str, str, int, int | None]]:
    """View, store, rows and newest row."""
    for found in report.views:
        yield found.view.name, "offline", found.rows, found.newest_ms
        if found.online:
            yield found.view.name, "online", found.online.rows, found.online.newest_ms


def _held(report: Report) -> Iterator[tuple[str, str, Column, Distribution]]:
    """Column by name, store, the column, and its rows there where there are any."""
    for where, column in _columns(report):
        for store, held in (("offline", column.current), ("online", column.online)):
            if held and held.total:
                yield where, store, column, held


def _columns(report: Report) -> Iterator[tuple[str, Column]]:
    for found in report.views:
        for column in found.columns:
            yield f"{found.view.name}.{column.name}", column


def _quantile(column: Column, level: float) -> float | None:
    return None if column.measure == "kind" else column.current.quantile(level)


def _rounded(value: float | None, digits: int = 4) -> float | None:
    return None if value is None else round(value, digits)


def _moment(ms: int | None) -> str | None:
    if ms is None:
        return None
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(sep=" ", timespec="minutes")[:16]
