"""The quality report as one HTML file: figures inside, nothing loaded from anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

import polars as pl
from markupsafe import Markup

from jobs.quality import counts, figures
from jobs.quality.check import Column, Finding, Report, ViewFound
from jobs.quality.figures import Bar
from jobs.quality.show import QUANTILES
from pagoda.page import environment as page_environment
from pagoda.settings import Quality

_MOST_DRIFTED = 16


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A line of a view's table: a column, or the columns of a sequence together.

    Attributes:
        columns: all of them; the first stands for their lengths.
        level: of the worst finding about it, empty if none.
        shape, over_time: figures, empty where they would say nothing.
    """

    name: str
    columns: Sequence[Column]
    level: str
    shape: Markup
    over_time: Markup

    @property
    def first(self) -> Column:
        """The one that stands for all."""
        return self.columns[0]

    @property
    def null_rate(self) -> float | None:
        """The worst."""
        return max((each.current.null_rate or 0 for each in self.columns), default=None)


@dataclass(frozen=True, kw_only=True)
class Card:
    """A view in the report."""

    found: ViewFound
    per_day: Markup
    subjects: Sequence[Subject]


def page(report: Report, findings: Sequence[Finding], limits: Quality) -> str:
    """The whole document."""
    environment = page_environment(Path(__file__).parent)
    environment.filters["percent"] = _percent
    environment.filters["amount"] = _amount
    cards = [_card(report, found, findings) for found in report.views]
    return environment.get_template("report.html.j2").render(
        report=report,
        findings=findings,
        failed=[each for each in findings if each.level == "fail"],
        limits=limits,
        cards=cards,
        ages=_ages(report, limits),
        drift=_drift(cards, limits),
        quantiles=QUANTILES,
    )


def _card(report: Report, found: ViewFound, findings: Sequence[Finding]) -> Card:
    weeks = report.weeks
    reference = _days(weeks.reference_first, weeks.reference_last)
    days = [*reference, *(day for day in _days(weeks.first, weeks.last) if day not in reference)]
    stays = found.view.ttl_days is None
    of_first = found.counted.filter(pl.col("column") == found.columns[0].name)
    rows = dict(of_first.group_by("day").agg(pl.sum("rows")).iter_rows())
    return Card(
        found=found,
        per_day=figures.NO_FIGURE
        if stays
        else figures.columns(
            [(day.isoformat(), rows.get(day, 0)) for day in days],
            split=len(reference),
            title=f"Rows of {found.view.name} per day",
        ),
        subjects=[
            _subject(found, name, columns, days, len(reference), findings)
            for name, columns in found.subjects()
        ],
    )


def _subject(
    found: ViewFound,
    name: str,
    columns: Sequence[Column],
    days: Sequence[date],
    split: int,
    findings: Sequence[Finding],
) -> Subject:
    first = columns[0]
    names = {f"{found.view.name}.{each.name}" for each in columns}
    names |= {f"{name} online" for name in names} | {f"{found.view.name}.{name}"}
    levels = {each.level for each in findings if each.where in names}
    title = f"{name}: this week beside the reference week"
    shape = figures.mix if first.measure == "kind" else figures.histogram
    over_time = figures.NO_FIGURE
    if first.measure != "kind" and found.view.ttl_days is not None:
        by_day = [
            (day.isoformat(), counts.distribution(found.counted, first.name, first=day, last=day))
            for day in days
        ]
        over_time = figures.band(by_day, split=split, title=f"{name} by day")
    return Subject(
        name=name,
        columns=columns,
        level="fail" if "fail" in levels else "warn" if levels else "",
        shape=shape(first.current, first.reference, title=title),
        over_time=over_time,
    )


def _ages(report: Report, limits: Quality) -> Markup:
    """How old the newest rows are that should be renewed daily, and how far others are behind."""
    rows = []
    for found in report.views:
        if found.view.ttl_days is None:
            continue
        sides = {"offline": report.age_h(found.newest_ms)}
        limit = limits.max_age_hours
        if found.view.online_writer == "stream":
            sides, limit = {"behind events": found.behind_h}, limits.max_behind_hours
        elif found.online:
            sides["online"] = report.age_h(found.online.newest_ms)
        rows += [
            Bar(
                label=f"{found.view.name} {side}",
                value=0.0 if hours is None else hours,
                text="no rows" if hours is None else f"{hours:.1f} h",
                style="fail" if hours is None or hours > limit else "",
            )
            for side, hours in sides.items()
        ]
    limit = max(limits.max_age_hours, limits.max_behind_hours)
    return figures.bars(
        rows,
        limits=[(limits.max_age_hours, f"limit {limits.max_age_hours:g} h")],
        title="Age of the newest row of each view",
        top=1.5 * limit,
    )


def _drift(cards: Sequence[Card], limits: Quality) -> Markup:
    """The columns that have drifted most."""
    drifted = [
        (subject.first.psi, f"{card.found.view.name}.{subject.name}")
        for card in cards
        for subject in card.subjects
        if subject.first.psi is not None
        and min(subject.first.current.total, subject.first.reference.total) >= limits.min_rows
    ]
    if not drifted:
        return figures.NO_FIGURE
    limit, look = limits.psi_fail, limits.psi_warn
    lines = [
        Bar(
            label=name,
            value=value,
            text=f"{value:.3f}",
            style="fail" if value >= limit else "warn" if value >= look else "",
        )
        for value, name in sorted(drifted, reverse=True)[:_MOST_DRIFTED]
    ]
    return figures.bars(
        lines,
        limits=[(look, f"look {look:g}"), (limit, f"limit {limit:g}")],
        title="Drift of the columns that have drifted most",
        top=1.4 * limit,
    )


def _days(first: date, last: date) -> list[date]:
    return [first + timedelta(days=n) for n in range((last - first).days + 1)]


def _percent(share: float | None) -> str:
    if share is None:
        return "–"
    return f"{share:.0%}" if share in (0, 1) or share >= 0.1 else f"{share:.2%}"


def _amount(value: float | None) -> str:
    return "–" if value is None else f"{value:,.4g}"
