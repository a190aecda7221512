"""Charts as inline SVG, coloured by the page's style sheet; every mark says what it is.

One kind: points on two axes, joined or not, with bars for intervals.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from pagoda import svg

_WIDE, _TALL = 420.0, 260.0  # of the axes
_LEFT, _TOP, _RIGHT, _BOTTOM = 56.0, 14.0, 12.0, 46.0
_NEXT = 18.0  # between lines of the legend
_COLOURS = 7  # of the style sheet's classes c0, c1, ...
_TICKS = 5

Range = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Point:
    """Where it stands, with the intervals it may stand in, and what is written beside it."""

    x: float
    y: float
    label: str = ""
    x_range: Range | None = None
    y_range: Range | None = None


@dataclass(frozen=True, kw_only=True)
class Series:
    """Points of one colour; `marked`: each with a dot, otherwise only the line that joins them."""

    name: str
    points: Sequence[Point]
    joined: bool = True
    marked: bool = True


def chart(series: Sequence[Series], *, title: str, x: str, y: str, log_x: bool = False) -> Markup:
    """All series on the same axes; empty where no series has a point.

    Args:
        title: for those who cannot see it. x, y: what the axes are.
        log_x: steps of a training say more on a logarithmic axis.
    """
    series = [each for each in series if each.points]
    if not series:
        return Markup("")
    points = [point for each in series for point in each.points]
    across = _Axis.over(
        [end for each in points for end in (each.x, *(each.x_range or ()))], _WIDE, log=log_x
    )
    upward = _Axis.over(
        [end for each in points for end in (each.y, *(each.y_range or ()))], _TALL, log=False
    )
    parts = []
    for value in upward.ticks:
        at = _TALL - upward.place(value)
        parts.append(svg.line("grid", [(0, at), (_WIDE, at)]))
        parts.append(svg.text("tick", -6, at + 3, _short(value), "end"))
    for value in across.ticks:
        at = across.place(value)
        parts.append(svg.line("grid", [(at, 0), (at, _TALL)]))
        parts.append(svg.text("tick", at, _TALL + 14, _short(value), "middle"))
    parts.append(svg.text("axis", _WIDE / 2, _TALL + 34, x, "middle"))
    parts.append(
        f'<g transform="translate({-_LEFT + 14:g},{_TALL / 2:g}) rotate(-90)">'
        f"{svg.text('axis', 0, 0, y, 'middle')}</g>"
    )
    for at, each in enumerate(series):
        # Labels of every other series go below their points: where two meet, both can be read.
        below = 15 if at % 2 else -7
        parts.append(_drawn(each, f"c{at % _COLOURS}", across, upward, label_y=below))
    legend = [
        f'<g class="c{at % _COLOURS}">{svg.line("key", [(8, _key(at) - 4), (26, _key(at) - 4)])}'
        f"{svg.text('name', 32, _key(at), each.name)}</g>"
        for at, each in enumerate(series)
    ]
    width = _LEFT + _WIDE + _RIGHT
    height = _TOP + _TALL + _BOTTOM + _NEXT * len(series)
    inside = "".join([*parts, *legend])
    moved = f'<g transform="translate({_LEFT:g},{_TOP:g})">{inside}</g>'
    return svg.drawing(width, height, title, [moved], style="chart")


def _key(at: int) -> float:
    return _TALL + _BOTTOM + _NEXT * at


def _drawn(series: Series, style: str, across: _Axis, upward: _Axis, *, label_y: float) -> str:
    places = [(across.place(each.x), _TALL - upward.place(each.y)) for each in series.points]
    parts = [svg.line("join", places)] if series.joined else []
    for point, (x, y) in zip(series.points, places, strict=True):
        if point.x_range:
            parts.append(svg.line("range", [(across.place(end), y) for end in point.x_range]))
        if point.y_range:
            parts.append(
                svg.line("range", [(x, _TALL - upward.place(end)) for end in point.y_range])
            )
        if series.marked:
            said = f"{series.name} {point.label}: {point.x:.4g}, {point.y:.4g}"
            parts.append(
                f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4"><title>{escape(said)}</title></circle>'
            )
        if point.label:
            parts.append(svg.text("label", x + 7, y + label_y, point.label))
    return f'<g class="{style}">{"".join(parts)}</g>'


@dataclass(frozen=True, kw_only=True)
class _Axis:
    low: float
    high: float
    length: float
    log: bool
    ticks: Sequence[float]

    @classmethod
    def over(cls, values: Sequence[float], length: float, *, log: bool) -> _Axis:
        """An axis that all values fit on, between round numbers."""
        low, high = min(values), max(values)
        if log:
            low, high = max(low, 1e-9), max(high, low * 1.01)
            first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
            ticks = [10.0**power * step for power in range(first, last + 1) for step in (1, 2, 5)]
            return cls(
                low=low,
                high=high,
                length=length,
                log=True,
                ticks=[tick for tick in ticks if low <= tick <= high],
            )
        step = _round((high - low) / _TICKS or abs(high) / _TICKS or 1.0)
        low, high = math.floor(low / step) * step, math.ceil(high / step) * step
        if high == low:
            high = low + step
        count = round((high - low) / step)
        return cls(
            low=low,
            high=high,
            length=length,
            log=False,
            ticks=[low + step * number for number in range(count + 1)],
        )

    def place(self, value: float) -> float:
        """How far along the axis a value stands."""
        if self.log:
            return self.length * math.log(value / self.low) / math.log(self.high / self.low)
        return self.length * (value - self.low) / (self.high - self.low)


def _round(step: float) -> float:
    """The next of 1, 2, 5, 10, 20, ..."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(power * each for each in (1, 2, 5, 10) if power * each >= step * (1 - 1e-9))


def _short(value: float) -> str:
    if value and abs(value) < 1:
        return f"{value:.3f}".rstrip("0")
    return f"{value:,.10g}"
