"""The report of a reproduction: one HTML file, plots and styles inside, nothing loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from pagoda import page
from pagoda.bench import machine
from training.reproduce import charts
from training.reproduce.findings import (
    CLAIMS,
    RECALL,
    RELEVANCE,
    Claim,
    Found,
    Value,
    Verdict,
    verdict,
)
from training.reproduce.ground import MEANT
from training.reproduce.variants import (
    BASE,
    BASELINE,
    CORRECTED,
    FURTHER,
    LEAVE_ONE_OUT,
    LONGER,
    OWN,
    PAIRWISE,
    PLUS_ONE,
    SOFTMAX,
    SWEPT,
    TAUS,
)

BARE = next(iter(PLUS_ONE))
SMALLEST, LARGEST = LONGER  # of τ, with more epochs
# Tables of a part: title, variants, and whom each is compared with.
GROUPS: Sequence[tuple[str, Sequence[str], str]] = (
    ("One of the four left out", (BASE.name, BASELINE, *LEAVE_ONE_OUT), BASE.name),
    ("A plain model, and one of the four alone", tuple(PLUS_ONE), BARE),
    ("Pairwise instead of softmax", (SOFTMAX, *PAIRWISE), SOFTMAX),
    ("Sweeps of τ and α", (BASE.name, *SWEPT), BASE.name),
    ("I_mix corrected by log q as the taken item is", (SOFTMAX, *CORRECTED), SOFTMAX),
    ("The ends of the sweep of τ, four epochs", tuple(LONGER), SMALLEST),
    ("Further switches", (BASE.name, *FURTHER), BASE.name),
    ("Ours, beside the paper's form", (BASE.name, OWN), BASE.name),
)
_MARKS = {"agrees": "good", "says otherwise": "fail", "within noise": "plain"}


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of a part's tables."""

    label: str
    metric: str
    rows: str


@dataclass(frozen=True, kw_only=True)
class Row:
    """A line of a table: each column's value, and how much more than the reference that is."""

    name: str
    values: Sequence[Value | None]
    differences: Sequence[Value | None]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a part says of a claim; `relative` to what the model without has."""

    difference: Value
    relative: float
    verdict: Verdict


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A claim and each part's answer, None where nobody ran it."""

    claim: Claim
    answers: Sequence[Answer | None]


def render(parts: Sequence[Found], *, size: str, seeds: int) -> str:
    """The whole document."""
    noisy = [each for each in parts if each.part.noise is not None]
    runs = [run for each in parts for of_variant in each.runs.values() for run in of_variant]
    asked = [
        Asked(claim=claim, answers=[answer(each, claim) for each in parts]) for claim in CLAIMS
    ]
    asked = [each for each in asked if any(each.answers)]
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
        asked=asked,
        otherwise=[(each, found) for each in asked if (found := _otherwise(each, parts))],
        longer=[(each, told) for each in parts if (told := longer(each))],
        marks=_MARKS,
        cards=[(each, tables(each)) for each in parts],
        columns=columns,
        convergence=[
            (each, *charts.learning(each)) for each in parts if len(charts.traced(each)) > 1
        ],
        paretos=[(each, drawn) for each in parts if (drawn := charts.pareto(each))],
        noise=charts.by_noise(noisy) if len(noisy) > 1 else (),
        hard=[(each, _hard(each)) for each in noisy if SOFTMAX in each.runs],
        zeros=[(each, rows) for each in parts if (rows := zero_shares(each))],
        bar=_bar,
    )


def answer(found: Found, claim: Claim) -> Answer | None:
    """What the part says of the claim, if it has both models."""
    one, other = claim.pair
    if not {one, other} <= found.runs.keys():
        return None
    difference = found.differences({"": claim.pair}, claim.metric)[""]
    before = found.values([other], claim.metric)[other].mean
    return Answer(
        difference=difference,
        relative=difference.mean / before if before else 0.0,
        verdict=verdict(claim.expected, difference.direction),
    )


def _otherwise(asked: Asked, parts: Sequence[Found]) -> list[tuple[Found, Answer]]:
    """The parts that say otherwise."""
    told = zip(parts, asked.answers, strict=True)
    return [(part, one) for part, one in told if one and one.verdict == "says otherwise"]


def longer(found: Found) -> list[tuple[str, Value, Value]]:
    """By measure: what the largest τ has more than the smallest, after one epoch and after more."""
    of_epochs = {"one": (TAUS[max(TAUS)], TAUS[min(TAUS)]), "more": (LARGEST, SMALLEST)}
    if not {name for pair in of_epochs.values() for name in pair} <= found.runs.keys():
        return []
    told = []
    for label, metric in (("recall@100", RECALL), (f"{found.ground.relevance}@100", RELEVANCE)):
        differences = found.differences(of_epochs, metric)
        told.append((label, differences["one"], differences["more"]))
    return told


def columns(found: Found) -> list[Column]:
    """What the tables of a part show."""
    metrics = ("recall@10", "recall@100")
    shown = [
        Column(
            label=name.replace("recall", "R"),
            metric=name,
            rows=rows,
        )
        for rows in found.ground.sets
        for name in metrics
    ]
    return shown + [
        Column(label=f"{found.ground.relevance}@{k}", metric=f"good@{k}", rows="all")
        for k in (10, 100)
    ]


def tables(found: Found) -> list[tuple[str, str, list[Row]]]:
    """Title, reference and rows of each table that the part has runs for; baselines first."""
    baselines = _rows(found, list(found.ground.baselines), None)
    given = [("Methods without training", "", baselines)]
    for title, names, reference in GROUPS:
        there = [name for name in names if name in found.runs]
        if reference not in found.runs or len(there) < 2:
            continue
        given.append((title, reference, _rows(found, there, reference)))
    return given


def _rows(found: Found, names: Sequence[str], reference: str | None) -> list[Row]:
    pairs = {name: (name, reference) for name in names if reference and name != reference}
    of_column = [
        (
            found.values(names, column.metric, column.rows),
            found.differences(pairs, column.metric, column.rows),
        )
        for column in columns(found)
    ]
    return [
        Row(
            name=name,
            values=[values.get(name) for values, _ in of_column],
            differences=[differences.get(name) for _, differences in of_column],
        )
        for name in names
    ]


def zero_shares(found: Found) -> list[dict[str, Any]]:
    """By sequence: the zero vector's mean weight over seeds, with and without related events."""
    runs = found.runs.get(BASE.name, ())
    rows = []
    for sequence in dict.fromkeys(each.sequence for run in runs for each in run.zero):
        of_runs = [
            {each.related: each for each in run.zero if each.sequence == sequence} for run in runs
        ]
        pairs = [(each[True], each[False]) for each in of_runs if len(each) == 2]
        if not pairs:
            continue
        related, unrelated = zip(*pairs, strict=True)
        differences = [other.share - one.share for one, other in pairs]
        told: Verdict = "within noise"
        if len(differences) > 1 and (min(differences) > 0 or max(differences) < 0):
            told = "agrees" if min(differences) > 0 else "says otherwise"
        rows.append(
            {
                "sequence": sequence,
                "related": float(np.mean([each.share for each in related])),
                "unrelated": float(np.mean([each.share for each in unrelated])),
                "lines": (related[0].lines, unrelated[0].lines),
                "empty": float(np.mean([run.empty[sequence] for run in runs])),
                "verdict": told,
            }
        )
    return rows


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
