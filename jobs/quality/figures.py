"""Figures as inline SVG: drawn here from numbers, coloured by the page's style sheet.

Each has a text for those who cannot see it, and every mark says its value when pointed at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape

from jobs.quality.distribution import Distribution, Floats
from pagoda import svg

NO_FIGURE = Markup("")
_BINS = 24
_LINE = 22.0  # height of a line in a bar chart
_TALL, _WIDE = 34.0, 180.0  # of a small figure, without its axis
_GAP = 12.0  # between the weeks
_LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One line of a bar chart; `text` stands behind the bar."""

    label: str
    value: float
    text: str
    style: str = ""


def bars(
    lines: Sequence[Bar], *, limits: Sequence[tuple[float, str]], title: str, top: float
) -> Markup:
    """Horizontal bars on one scale from 0 to `top`, with a line at each limit (value, name)."""
    left, width, right = 190.0, 330.0, 110.0
    height = _LINE * len(lines) + 20
    scale = width / top
    parts = []
    for value, name in limits:
        x = left + scale * value
        parts += [
            svg.line("limit", [(x, 14), (x, height)]),
            svg.text("tick", x, 10, name, "middle"),
        ]
    for number, bar in enumerate(lines):
        y = 20 + number * _LINE
        end = left + scale * min(bar.value, top)
        said = f"{bar.label}: {bar.text}"
        parts += [
            svg.text("label", left - 8, y + 12, bar.label, "end"),
            _rect(f"bar {bar.style}", left, y + 2, max(end - left, 1), _LINE - 8, said),
            svg.text("value", end + 6, y + 12, f"▸ {bar.text}" if bar.value > top else bar.text),
        ]
    return svg.drawing(left + width + right, height, title, parts, style="chart")


def columns(days: Sequence[tuple[str, int]], *, split: int, title: str) -> Markup:
    """Rows per day as columns; the first `split` days are of the reference week, and lighter."""
    width, tall, gap = 420.0, 62.0, 24.0
    most = max((rows for _, rows in days), default=0) or 1
    step = (width - gap) / max(len(days), 1)
    parts = []
    for number, (day, rows) in enumerate(days):
        x = number * step + (gap if number >= split else 0)
        high = tall * rows / most
        style = "bar" if number >= split else "bar old"
        parts.append(_rect(style, x, tall - high, step - 3, high, f"{day}: {rows:,} rows"))
        if number in (0, split):
            parts.append(svg.text("tick", x, tall + 14, day[5:]))
    return svg.drawing(width, tall + 18, title, parts, style="chart")


def histogram(current: Distribution, reference: Distribution, *, title: str) -> Markup:
    """This week as columns, the reference week as an outline; shares of the filled rows."""
    filled = [each for each in (current, reference) if each.filled]
    if not filled:
        return NO_FIGURE
    edges = _edges(filled)
    bins = len(edges) - 1
    now, then = _shares(current, edges), _shares(reference, edges)
    scale = _TALL / max(now.max(), then.max())
    step = _WIDE / bins
    parts = [
        _rect(
            "now",
            n * step,
            _TALL - scale * now[n],
            step - 0.5,
            scale * now[n],
            f"from {_short(edges[n])}: {now[n]:.1%}, {then[n]:.1%} then",
        )
        for n in range(bins)
    ]
    if reference.filled:
        heights = _TALL - scale * then.repeat(2)
        across = np.arange(bins + 1).repeat(2)[1:-1] * step
        corners = [(0, _TALL), *zip(across, heights, strict=True), (_WIDE, _TALL)]
        parts.append(svg.line("then", corners))
    for at, x, anchor in ((0, 0, "start"), (bins // 2, bins // 2, "middle"), (-2, bins, "end")):
        parts.append(svg.text("tick", x * step, _TALL + 11, _short(edges[at]), anchor))
    return svg.drawing(_WIDE, _TALL + 14, title, parts, style="mini")


def mix(current: Distribution, reference: Distribution, *, title: str) -> Markup:
    """Shares of the kinds, the most frequent of the reference week first."""
    kinds = np.union1d(current.values, reference.values)
    if not len(kinds):
        return NO_FIGURE
    shares = [
        np.array([each.share(kind) or 0.0 for kind in kinds]) for each in (current, reference)
    ]
    order = np.argsort(-shares[1], kind="stable")[:_BINS]
    now, then = (share[order] for share in shares)
    scale = _TALL / (max(now.max(), then.max()) or 1)
    step = _WIDE / len(order)
    parts = []
    for n in range(len(order)):
        x, wide, level = n * step, max(step - 1, 0.5), _TALL - scale * then[n]
        said = f"{now[n]:.1%}, {then[n]:.1%} then"
        parts += [
            _rect("now", x, _TALL - scale * now[n], wide, scale * now[n], said),
            svg.line("then", [(x, level), (x + wide, level)]),
        ]
    return svg.drawing(_WIDE, _TALL + 2, title, parts, style="mini")


def band(days: Sequence[tuple[str, Distribution]], *, split: int, title: str) -> Markup:
    """Quantiles by day: 5 to 95 % light, 25 to 75 % dark, the median as a line.

    The first `split` days are of the reference week.
    """
    filled = [(n, day, each) for n, (day, each) in enumerate(days) if each.filled]
    if not filled:
        return NO_FIGURE
    top = max(each.quantile(_LEVELS[-1]) or 0 for _, _, each in filled) or 1.0
    step = (_WIDE - _GAP) / len(days)
    parts, medians = [], []
    for n, day, each in filled:
        found = [each.quantile(level) or 0.0 for level in _LEVELS]
        p5, p25, p50, p75, p95 = (_TALL - _TALL * value / top for value in found)
        x = n * step + (_GAP if n >= split else 0)
        said = f"{day}: " + " · ".join(_short(value) for value in found)
        parts += [
            _rect("wide", x, p95, step - 1, max(p5 - p95, 0.5), said),
            _rect("narrow", x, p75, step - 1, max(p25 - p75, 0.5), said),
        ]
        medians.append(svg.line("median", [(x, p50), (x + step - 1, p50)]))
    parts += [*medians, svg.text("tick", 0, _TALL + 11, f"0 to {_short(top)}")]
    return svg.drawing(_WIDE, _TALL + 14, title, parts, style="mini")


def _edges(filled: Sequence[Distribution]) -> Floats:
    """Where bins begin, and where the last one ends: a bin a number if they are few.

    Otherwise the axis has more room where values are small (square root), since most are.
    """
    low = min(float(each.values[0]) for each in filled)
    high = max(low + 1, *(each.quantile(0.995) or 0.0 for each in filled))
    whole = all((each.values == each.values.round()).all() for each in filled)
    if whole and high - low < _BINS:
        return np.arange(low, high + 2)
    edges: Floats = np.square(np.linspace(0, np.sqrt(high - low), _BINS + 1)) + low
    return edges


def _shares(distribution: Distribution, edges: Floats) -> Floats:
    """Share of the filled rows in each bin; what lies beyond the last counts in it."""
    inside = np.clip(distribution.values, edges[0], edges[-1])
    rows, _ = np.histogram(inside, edges, weights=distribution.rows)
    shares: Floats = rows / max(distribution.filled, 1)
    return shares


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 10 or value == round(value) else f"{value:.1f}"


def _rect(style: str, x: float, y: float, width: float, height: float, said: str) -> str:
    return (
        f'<rect class="{style}" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}">'
        f"<title>{escape(said)}</title></rect>"
    )
