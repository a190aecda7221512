"""The tables of a report: what is shown of a part, and what each line is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from training.reproduce.claims import RECALL, RELEVANCE, Verdict
from training.reproduce.findings import Found, Value
from training.reproduce.variants import (
    BASE,
    BASELINE,
    CORRECTED,
    FURTHER,
    LEAVE_ONE_OUT,
    LONGER,
    PAIRWISE,
    PLAIN_BASELINE,
    PLUS_ONE,
    POOLED,
    SOFTMAX,
    SWEPT,
    TAUS,
)

BARE = next(iter(PLUS_ONE))
SMALLEST, LARGEST = LONGER  # of τ, with more epochs
# Tables of a part: title, variants, and whom each is compared with.
GROUPS: Sequence[tuple[str, Sequence[str], str]] = (
    ("One of the four left out", (BASE.name, BASELINE, PLAIN_BASELINE, *LEAVE_ONE_OUT), BASE.name),
    ("A plain model, and one of the four alone", tuple(PLUS_ONE), BARE),
    ("Pairwise instead of softmax", (SOFTMAX, *PAIRWISE), SOFTMAX),
    ("The paper's own negatives: of the pool, no log q", tuple(POOLED), next(iter(POOLED))),
    ("Sweeps of τ and α", (BASE.name, *SWEPT), BASE.name),
    ("I_mix corrected by log q as the taken item is", (SOFTMAX, *CORRECTED), SOFTMAX),
    ("The ends of the sweep of τ, four epochs", tuple(LONGER), SMALLEST),
    ("Further switches", (BASE.name, *FURTHER, *POOLED), BASE.name),
)


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
