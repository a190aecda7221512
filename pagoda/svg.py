"""Parts of charts as inline SVG, coloured by the page's style sheet; texts are escaped here."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup, escape


def text(style: str, x: float, y: float, said: str, anchor: str = "start") -> str:
    """Words at a place."""
    return (
        f'<text class="{style}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">'
        f"{escape(said)}</text>"
    )


def line(style: str, points: Sequence[tuple[float, float]]) -> str:
    """Points, joined."""
    joined = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline class="{style}" points="{joined}"/>'


def drawing(width: float, height: float, title: str, parts: Sequence[str], *, style: str) -> Markup:
    """The whole of it.

    Args:
        title: for those who cannot see it.
    """
    return Markup(  # noqa: S704 - every text in it was escaped where it was put in
        f'<svg class="{style}" role="img" aria-label="{escape(title)}" '
        f'viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}">'
        f"{''.join(parts)}</svg>"
    )
