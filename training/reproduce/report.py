"""The report of a reproduction: one HTML file that loads nothing, and its figures as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from markupsafe import Markup

from pagoda import page
from pagoda.bench import machine
from training.reproduce import charts
from training.reproduce.claims import RELEVANCE, Asked, asked
from training.reproduce.findings import Found, Value
from training.reproduce.ground import MEANT
from training.reproduce.tables import Row, columns, longer, tables, zero_shares
from training.reproduce.variants import SOFTMAX

_MARKS = {"agrees": "good", "says otherwise": "fail", "within noise": "plain"}


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What page, figures and terminal show, computed once: every interval is a bootstrap.

    Attributes:
        tables, zeros: of each part, in order.
    """

    parts: Sequence[Found]
    asked: Sequence[Asked]
    tables: Sequence[Sequence[tuple[str, str, list[Row]]]]
    zeros: Sequence[list[dict[str, Any]]]


def contents(parts: Sequence[Found]) -> Contents:
    """The contents of a report on these parts."""
    return Contents(
        parts=parts,
        asked=asked(parts),
        tables=[tables(each) for each in parts],
        zeros=[zero_shares(each) for each in parts],
    )


def render(told: Contents, *, size: str, seeds: int) -> str:
    """The whole document."""
    parts = told.parts
    noisy = [each for each in parts if each.part.noise is not None]
    runs = [run for each in parts for of_variant in each.runs.values() for run in of_variant]
    environment = page.environment(Path(__file__).parent)
    environment.filters |= {
        "relative": relative,
        "share": share,
        "signed": signed,
        "spread": spread,
        "mistakes": mistakes,
    }
    return environment.get_template("report.html.j2").render(
        at=datetime.now(UTC),
        machine=machine(),
        size=size,
        seeds=seeds,
        seconds=sum(sum(run.seconds.values()) for run in runs),
        runs=len(runs),
        width=", ".join(sorted({str(run.recipe["model"]["width"]) for run in runs})),
        parts=parts,
        asked=told.asked,
        longer=[(each, steps) for each in parts if (steps := longer(each))],
        marks=_MARKS,
        cards=list(zip(parts, told.tables, strict=True)),
        columns=columns,
        convergence=[
            (each, *charts.learning(each)) for each in parts if len(charts.traced(each)) > 1
        ],
        paretos=[(each, drawn) for each in parts if (drawn := charts.pareto(each))],
        noise=charts.by_noise(noisy) if len(noisy) > 1 else (),
        hard=[(each, _hard(each)) for each in noisy if SOFTMAX in each.runs],
        zeros=[(each, rows) for each, rows in zip(parts, told.zeros, strict=True) if rows],
        bar=_bar,
    )


def figures(told: Contents, *, size: str, seeds: int) -> dict[str, Any]:
    """Every figure of the tables, for programs: claims, shares, differences, the zero vector.

    A share or a difference is `mean`, `seeds` (that of each) and `interval` (95 % over users).
    """
    return {
        "at": datetime.now(UTC),
        "machine": machine(),
        "size": size,
        "seeds": seeds,
        "facts": {each.part.name: each.ground.facts.model_dump() for each in told.parts},
        "claims": told.asked,
        "tables": [
            {
                "part": found.part.name,
                "table": title,
                "beside": reference or None,
                "variant": row.name,
                "metric": column.label,
                "rows": column.rows,
                "share": value,
                "difference": difference,
            }
            for found, given in zip(told.parts, told.tables, strict=True)
            for title, reference, rows in given
            for row in rows
            for column, value, difference in zip(
                columns(found), row.values, row.differences, strict=True
            )
            if value
        ],
        "zero vector": {
            each.part.name: rows for each, rows in zip(told.parts, told.zeros, strict=True)
        },
    }


def _hard(found: Found) -> float:
    """What share of what a model without I_mix ranks highest is on the wanted shelf."""
    return found.values([SOFTMAX], RELEVANCE)[SOFTMAX].mean


def mistakes(found: Found) -> float | None:
    """The share of the judged clicks that were mistakes; None where nobody knows."""
    meant = found.ground.sets.get(MEANT)
    return None if meant is None else 1 - sum(meant) / len(meant)


def _bar(value: float) -> Markup:
    """A share as a bar with its number."""
    return Markup('<span class="share" style="width:{:.1f}rem"></span>{}').format(
        8 * value, share(value)
    )


def share(value: float) -> str:
    """Three digits, without the zero before the point."""
    return f"{value:.3f}".removeprefix("0") if value < 0.9995 else "1.000"


def signed(value: float) -> str:
    """The same of a difference."""
    return f"{'+' if value >= 0 else '−'}{share(abs(value))}"


def relative(value: float) -> str:
    """A relative change."""
    return f"{'+' if value >= 0 else '−'}{abs(value):.1%}".replace("%", " %")


def spread(value: Value) -> float:
    """Half of what seeds differ by at most."""
    return (max(value.seeds) - min(value.seeds)) / 2
