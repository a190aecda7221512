"""What the limits of `[quality]` say of a report: every one that is exceeded, by name."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from jobs.quality.check import Column, Finding, Level, Report, ViewFound
from jobs.quality.distribution import Distribution
from pagoda.settings import Quality


def judge(report: Report, limits: Quality) -> list[Finding]:
    """Failures first, then warnings; empty if all is well."""
    found = [
        *_servers(report),
        *_streams(report, limits),
        *(finding for view in report.views for finding in _view(report, view, limits)),
    ]
    return sorted(found, key=lambda finding: finding.level != "fail")


def _fail(where: str, what: str, found: str, limit: str) -> Finding:
    return Finding(level="fail", where=where, what=what, found=found, limit=limit)


def _servers(report: Report) -> Iterator[Finding]:
    for name, reason in report.unreachable.items():
        yield _fail(name, "cannot be asked", reason, "answers")


def _streams(report: Report, limits: Quality) -> Iterator[Finding]:
    for each in report.backlogs:
        if each.waited_s > limits.max_wait_s:
            yield _fail(
                f"{each.reader}, topic {each.topic}",
                "its oldest record waits",
                f"{each.waited_s:.0f} s, {each.records} records",
                f"{limits.max_wait_s:.0f} s",
            )
    age_h = report.age_h(report.newest_event_ms)
    limit_h = limits.max_event_age_hours
    if limit_h and (age_h is None or age_h > limit_h):
        yield _fail("lake", "newest event", _hours(age_h), f"{limit_h:g} h")


def _view(report: Report, found: ViewFound, limits: Quality) -> Iterator[Finding]:
    yield from _freshness(report, found, limits)
    yield from _damage(found)
    view = found.view
    for column in found.columns:
        # The build leaves sequences at most empty, and counts at most 0.
        whole = column.measure == "length" or view.columns[column.name] == pa.int64()
        yield from _nulls(f"{view.name}.{column.name}", column, limits, whole=whole)
    for name, columns in found.subjects():
        yield from _drift(f"{view.name}.{name}", columns[0], limits)


def _freshness(report: Report, found: ViewFound, limits: Quality) -> Iterator[Finding]:
    name = found.view.name
    if found.view.online_writer == "materialise" and found.view.ttl_days is not None:
        yield from _age(f"{name} offline", report.age_h(found.newest_ms), limits)
        if found.online:
            yield from _age(f"{name} online", report.age_h(found.online.newest_ms), limits)
    elif found.newest_ms is None and report.newest_event_ms is not None:
        yield _fail(f"{name} offline", "newest row", "none", "some")
    if found.behind_h is not None and found.behind_h > limits.max_behind_hours:
        limit = f"{limits.max_behind_hours:g} h"
        yield _fail(
            f"{name} offline", "older than the newest event", f"{found.behind_h:.1f} h", limit
        )


def _damage(found: ViewFound) -> Iterator[Finding]:
    name = found.view.name
    for sequence, rows in found.ragged.items():
        if rows:
            yield _fail(f"{name}.{sequence}", "lists of different lengths", f"{rows} rows", "0")
    if found.online and found.online.damaged:
        yield _fail(f"{name} online", "damaged rows", str(found.online.damaged), "0")


def _age(where: str, age_h: float | None, limits: Quality) -> Iterator[Finding]:
    if age_h is None or age_h > limits.max_age_hours:
        yield _fail(where, "newest row", _hours(age_h), f"{limits.max_age_hours:g} h")


def _nulls(where: str, column: Column, limits: Quality, *, whole: bool) -> Iterator[Finding]:
    sides: dict[str, Distribution | None] = {"": column.current, " online": column.online}
    for side, held in sides.items():
        if held is None or held.null_rate is None:
            continue
        before = column.reference.null_rate
        if whole and held.null_rate > limits.max_null_rate:
            yield _fail(
                where + side, "nulls", f"{held.null_rate:.2%}", f"{limits.max_null_rate:.2%}"
            )
        elif before is not None and held.null_rate > before + limits.max_null_rise:
            yield _fail(
                where + side,
                "more nulls than in the reference week",
                f"{held.null_rate:.2%}, {before:.2%} then",
                f"{limits.max_null_rise:.2%} more",
            )


def _drift(where: str, column: Column, limits: Quality) -> Iterator[Finding]:
    rows = min(column.current.total, column.reference.total)
    if column.psi is None or rows < limits.min_rows:
        return
    levels: dict[Level, float] = {"fail": limits.psi_fail, "warn": limits.psi_warn}
    level = next((level for level, limit in levels.items() if column.psi >= limit), None)
    if level:
        yield Finding(
            level=level,
            where=where,
            what="drift of lengths" if column.measure == "length" else "drift",
            found=f"PSI {column.psi:.3f}",
            limit=f"{levels[level]:g}",
        )


def _hours(age_h: float | None) -> str:
    return "none" if age_h is None else f"{age_h:.1f} h old"
