"""Pages that commands write: one HTML file each, with `report.css` inside."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined


def environment(templates: Path) -> Environment:
    """Templates of a folder, and the style sheet that all pages share: `report.css`."""
    return Environment(
        loader=FileSystemLoader((templates, Path(__file__).parent)),
        autoescape=True,
        undefined=StrictUndefined,
    )
