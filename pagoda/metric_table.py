"""A bundle's metrics for people: few columns and sets of rows first, more on demand."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from pagoda.bundle import Metric

DISPLAYED = "displayed"  # the rows where what searches displayed is ranked, and nothing else
FIRST_METRICS = ("recall@10", "recall@100", "ndcg@10")
FIRST_METRICS_DISPLAYED = ("mrr", "p@1", "ndcg@10")
FIRST_ROWS = ("all", "non-repeats", "among unseen", "among 100 unseen", DISPLAYED)


def first_rows(metrics: Iterable[Metric]) -> list[Metric]:
    """Those over the sets of rows that are looked at first."""
    return [each for each in metrics if each.rows in FIRST_ROWS]


def table(metrics: Iterable[Metric], names: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Values of these names, else of those that are looked at first, with their 95 % intervals:
    methods below each other, set by set.

    Sets without rows are left out.
    """
    metrics = [each for each in metrics if each.count]
    if names is None:
        ranked = any(each.rows == DISPLAYED for each in metrics)
        names = FIRST_METRICS_DISPLAYED if ranked else FIRST_METRICS
    sets = list(dict.fromkeys(each.rows for each in metrics))
    return [
        {
            "rows": each.rows,
            "lines": each.count,
            "method": each.method,
            **{_short(name): _value(each, name) for name in names},
        }
        for each in sorted(metrics, key=lambda each: sets.index(each.rows))
    ]


def _short(name: str) -> str:
    return name.replace("recall@", "R@").replace("ndcg@", "NDCG@").replace("p@", "P@")


def _value(metric: Metric, name: str) -> str | None:
    if name not in metric.values:
        return None
    value = _digits(metric.values[name])
    if name not in metric.intervals:
        return value
    low, high = map(_digits, metric.intervals[name])
    return f"{value} ({low}–{high})"


def _digits(value: float) -> str:
    """Three digits of a share, one of a large count."""
    return f"{value:.1f}" if value >= 10 else f"{value:.3f}".removeprefix("0")
