"""`make mutate`, of what mutmut leaves alone: the SQL of the join and of item statistics.

Not collected with the suite: Spark runs every law again for every mutant, some seconds each.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from pyspark.errors import PySparkException

from jobs.batch import item_stats
from pagoda import asof
from tests.features import test_point_in_time as laws
from tests.features.test_point_in_time import Built, built

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

__all__ = ["built"]  # the laws' own fixture
# What is written, and what in its place would be a mistake.
CHANGES = (
    (r"<=", "<"),
    (r">=", ">"),
    (r"(?<![<>])<(?![=<>])", "<="),
    (r"(?<![<>-])>(?![=>])", ">="),
    (r"(?i)\bmax\(", "min("),
    (r"(?i)\bmin\(", "max("),
    (r"(?i)\bgreatest\(", "least("),
    (r"(?i)\bleast\(", "greatest("),
    (r"\bAND\b", "OR"),
    (r"\bDISTINCT ", ""),
    (r"\bLEFT JOIN\b", "JOIN"),
    (r", 1\)", ", 0)"),
    (r" - 1\b", ""),
    (r"\bcount_if\(", "count("),
    (r"\bsum\(", "max("),
    (r"(?<=, )row IS NULL ROWS", "row IS NOT NULL ROWS"),
)
# Mutants that change nothing that anybody could notice, by the lines that change. Rows are left out
# early only to read less: the join asks again, of each request.
EQUIVALENT = frozenset(
    {
        "AND {{ view.date_partition_column }} <= DATE('{{ view.max_event_timestamp }}')",
        "AND {{ view.timestamp_field }} >= '{{ view.min_event_timestamp }}'",
        "AND {{ view.date_partition_column }} >= DATE('{{ view.min_event_timestamp }}')",
    }
)


def mutants(sql: str) -> Iterator[tuple[str, str]]:
    """(What changes, the whole changed text), without the equivalent ones."""
    for written, mistake in CHANGES:
        for found in re.finditer(written, sql):
            changed = sql[: found.start()] + mistake + sql[found.end() :]
            number = sql.count("\n", 0, found.start())
            before, after = sql.split("\n")[number].strip(), changed.split("\n")[number].strip()
            if not (found[0] == "AND" and before in EQUIVALENT):
                yield f"{before} => {after}", changed


def each(sql: str) -> list[object]:
    return [pytest.param(changed, id=name) for name, changed in mutants(sql)]


@pytest.mark.parametrize("changed", each(asof._QUERY))
def test_a_changed_join_is_noticed(
    built: Built, changed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asof, "_QUERY", changed)
    with pytest.raises((AssertionError, PySparkException)):
        hold_of_the_join(built)


@pytest.mark.parametrize("changed", each(item_stats._SQL))
def test_changed_item_statistics_are_noticed(
    built: Built, spark: SparkSession, changed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(item_stats, "_SQL", changed)
    with pytest.raises((AssertionError, PySparkException)):
        hold_of_item_statistics(built, spark)


def test_the_laws_hold_without_a_change(built: Built, spark: SparkSession) -> None:
    hold_of_the_join(built)
    hold_of_item_statistics(built, spark)


def hold_of_the_join(built: Built) -> None:
    laws.test_a_row_is_seen_from_its_midnight_to_the_last_moment_of_its_life(built)
    laws.test_user_statistics_equal_a_naive_count(built)
    laws.test_training_rows_equal_a_naive_replay(built)
    laws.test_item_statistics_equal_a_naive_count(built)


def hold_of_item_statistics(built: Built, spark: SparkSession) -> None:
    laws.test_item_statistics_row_by_row(spark)
    laws.test_any_declared_statistic_of_an_item_equals_a_naive_count(spark, built)


def test_what_is_listed_is_still_there() -> None:
    lines = {line.strip() for line in asof._QUERY.split("\n")}
    assert lines >= EQUIVALENT
