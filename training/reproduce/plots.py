"""Charts as inline SVG, coloured by the page's style sheet; every mark says what it is.

One kind: points on two axes, joined or not, with bars for intervals.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from pagoda import svg

_WIDE, _TALL = 420.0, 260.0  # of the axes
_LEFT, _TOP, _RIGHT, _BOTTOM = 56.0, 14.0, 12.0, 46.0
_NEXT = 18.0  # between lines of the legend
_LETTER, _ROW, _OFF = 6.5, 13.0, 8.0  # of labels: a letter's width, a row's height, off the point
_ROWS = 10  # up or down that a label may stand from its point
_COLOURS = 7  # of the style sheet's classes c0, c1, ...
_TICKS = 5

Range = tuple[float, float]
Place = tuple[float, float]
Box = tuple[float, float, float, float]  # left, upper, right, lower


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
    placed = [
        [(across.place(point.x), _TALL - upward.place(point.y)) for point in each.points]
        for each in series
    ]
    beside = _beside(
        [
            (*place, point.label)
            for each, places in zip(series, placed, strict=True)
            for point, place in zip(each.points, places, strict=True)
            if point.label
        ]
    )
    for at, (each, places) in enumerate(zip(series, placed, strict=True)):
        parts.append(_drawn(each, f"c{at % _COLOURS}", places, across, upward, beside))
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


def _drawn(
    series: Series,
    style: str,
    places: Sequence[Place],
    across: _Axis,
    upward: _Axis,
    beside: Mapping[tuple[float, float, str], Place],
) -> str:
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
            left, base = beside[x, y, point.label]
            middle = base - _ROW / 3
            if abs(middle - y) > _ROW:
                near = left if left > x else left + _LETTER * len(point.label)
                parts.append(svg.line("leader", [(x, y), (near, middle)]))
            parts.append(svg.text("label", left, base, point.label))
    return f'<g class="{style}">{"".join(parts)}</g>'


def _beside(
    labels: Sequence[tuple[float, float, str]],
) -> dict[tuple[float, float, str], Place]:
    """Where each label begins: as near to its point as no point and no other label is.

    Args:
        labels: each point's place and what is to be written beside it.
    """
    taken = [(x - _OFF / 2, y - _OFF / 2, x + _OFF / 2, y + _OFF / 2) for x, y, _ in labels]
    found: dict[tuple[float, float, str], Place] = {}
    rows = sorted(range(-_ROWS, _ROWS + 1), key=abs)
    for x, y, said in labels:
        width = _LETTER * len(said)
        offers = [
            (left, y + row * _ROW - _ROW / 2, left + width, y + row * _ROW + _ROW / 2)
            for row in rows
            for left in (x + _OFF, x - _OFF - width)
        ]
        inside = [
            box
            for box in offers
            if min(box[:2]) >= 0 and box[2] <= _WIDE + _RIGHT and box[3] <= _TALL
        ]
        free = [box for box in inside if not any(_meet(box, other) for other in taken)]
        box = (free or offers)[0]
        taken.append(box)
        found[x, y, said] = (box[0], box[3] - _ROW / 6)
    return found


def _meet(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


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
