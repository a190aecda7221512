"""Recall against K as an SVG: a panel for each set of rows, a line for each method."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from pagoda.bundle import Metric

_WIDE, _TALL = 300, 220  # of a panel's axes
_LEFT, _TOP, _RIGHT, _BOTTOM = 40, 50, 150, 40
_NEXT = 14  # between names at the lines' ends
# Okabe and Ito's colours, which colour-blind people can tell apart.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
_STYLE = (
    "text{font:11px sans-serif;fill:#333}.title{font-weight:bold;font-size:13px}"
    ".grid{stroke:#ddd}polyline{fill:none;stroke-width:2}"
)


def recall_curves(metrics: Sequence[Metric], *, title: str) -> str:
    """The whole file; bars are the 95 % intervals, where there are any."""
    sets = list(dict.fromkeys(each.rows for each in metrics if each.values))
    methods = list(dict.fromkeys(each.method for each in metrics))
    colour_of = {name: _COLOURS[at % len(_COLOURS)] for at, name in enumerate(methods)}
    step = _LEFT + _WIDE + _RIGHT
    panels = [
        f'<g transform="translate({at * step + _LEFT},{_TOP})">'
        f"{_panel([each for each in metrics if each.rows == rows], rows, colour_of)}</g>"
        for at, rows in enumerate(sets)
    ]
    width, height = max(len(sets), 1) * step, _TOP + _TALL + _BOTTOM
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}"><style>{_STYLE}</style>'
        f'<rect width="100%" height="100%" fill="#fff"/>'
        f"{_text(_LEFT, 16, title, style='title')}{''.join(panels)}</svg>\n"
    )


def _panel(metrics: Sequence[Metric], rows: str, colour_of: dict[str, str]) -> str:
    ks = sorted({k for each in metrics for k in _recalls(each)})
    span = math.log(ks[-1] / ks[0]) or 1.0
    x_of = {k: _WIDE * math.log(k / ks[0]) / span for k in ks}
    parts = [_text(0, -12, f"{rows}: {metrics[0].count:,} lines, recall at K")]
    for tenth in range(0, 11, 2):
        y = _y(tenth / 10)
        parts.append(f'<line class="grid" x1="0" x2="{_WIDE}" y1="{y}" y2="{y}"/>')
        parts.append(_text(-6, y + 4, f"{tenth / 10:.1f}", anchor="end"))
    parts += [_text(x, _TALL + 16, f"{k:,}", anchor="middle") for k, x in x_of.items()]
    free = -math.inf  # names go below each other where lines end close together
    for each in sorted(metrics, key=lambda each: -each.values[f"recall@{ks[-1]}"]):
        colour, recalls = colour_of[each.method], _recalls(each)
        points = " ".join(f"{x_of[k]:.1f},{_y(value)}" for k, value in recalls.items())
        parts.append(f'<polyline stroke="{colour}" points="{points}"/>')
        parts += [_mark(each, k, x_of[k], colour) for k in recalls]
        free = max(free + _NEXT, _y(recalls[ks[-1]]) + 4)
        parts.append(_text(_WIDE + 8, free, each.method, fill=colour))
    return "".join(parts)


def _mark(metric: Metric, k: int, x: float, colour: str) -> str:
    """A point that says its value when pointed at, with its interval as a bar."""
    name = f"recall@{k}"
    value = metric.values[name]
    low, high = metric.intervals.get(name, (value, value))
    said = escape(f"{metric.method}, {name}: {value:.3f} ({low:.3f}–{high:.3f})")
    return (
        f'<line stroke="{colour}" x1="{x:.1f}" x2="{x:.1f}" y1="{_y(low)}" y2="{_y(high)}"/>'
        f'<circle fill="{colour}" cx="{x:.1f}" cy="{_y(value)}" r="3">'
        f"<title>{said}</title></circle>"
    )


def _recalls(metric: Metric) -> dict[int, float]:
    """Recall by K, ascending."""
    found = {
        int(name.removeprefix("recall@")): value
        for name, value in metric.values.items()
        if name.startswith("recall@")
    }
    return dict(sorted(found.items()))


def _y(share: float) -> float:
    return round(_TALL * (1 - share), 1)


def _text(
    x: float, y: float, text: str, *, anchor: str = "start", style: str = "", fill: str = ""
) -> str:
    colour = f' style="fill:{fill}"' if fill else ""
    return (
        f'<text class="{style}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{colour}>'
        f"{escape(text)}</text>"
    )
