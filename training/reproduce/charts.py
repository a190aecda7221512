"""What is drawn of the runs of a part: recall against relevance, learning, noise."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup

from training.reproduce.claims import RECALL, RELEVANCE
from training.reproduce.findings import Found, Value, reached
from training.reproduce.ground import MEANT
from training.reproduce.plots import Point, Series, chart
from training.reproduce.record import RunRecord
from training.reproduce.runs import TRACED
from training.reproduce.variants import (
    ALPHAS,
    BASE,
    BASELINE,
    CORRECTED_ALPHAS,
    HINGE,
    LEAVE_ONE_OUT,
    SOFTMAX,
    TAUS,
)

_LOSSES = (BASE.name, BASELINE, "without mgs", "without trm", SOFTMAX)


def pareto(found: Found) -> Markup:
    """Recall against relevance as τ and α vary; empty if neither does."""
    taus = {f"τ={tau:g}": name for tau, name in TAUS.items() if name in found.runs}
    alphas = {
        "no I_mix" if alpha == "none" else f"α={alpha}": name
        for alpha, name in ALPHAS.items()
        if name in found.runs
    }
    corrected = {
        f"α={alpha}, corrected": name
        for alpha, name in CORRECTED_ALPHAS.items()
        if name in found.runs
    }
    swept = {"τ varies": taus, "α of I_mix varies": alphas, "α, corrected by log q": corrected}
    swept = {title: names for title, names in swept.items() if len(names) > 2}
    names = {name for labelled in swept.values() for name in labelled.values()}
    recall, relevance = (found.values(names, metric) for metric in (RECALL, RELEVANCE))
    return chart(
        [
            Series(
                name=title,
                points=[
                    Point(
                        x=relevance[name].mean,
                        y=recall[name].mean,
                        label=label,
                        x_range=_spread(relevance[name]),
                        y_range=_spread(recall[name]),
                    )
                    for label, name in labelled.items()
                ],
            )
            for title, labelled in swept.items()
        ],
        title="Recall against relevance as τ and α vary",
        x=f"{found.ground.relevance}@100",
        y="recall@100",
    )


def _spread(value: Value) -> tuple[float, float]:
    return min(value.seeds), max(value.seeds)


def traced(found: Found) -> list[str]:
    """Variants whose recall was measured while they learned."""
    return [name for name in TRACED if any(run.recalls for run in found.runs.get(name, ()))]


def learning(found: Found) -> tuple[Markup, Markup, str]:
    """Losses by step, recall by step, and when the softmax passes where the hinge ends."""
    losses = chart(
        [
            Series(name=name, points=_mean_curve(runs, "losses", ranges=False), marked=False)
            for name in _LOSSES
            if (runs := found.runs.get(name))
        ],
        title="Loss by step",
        x="step",
        y="loss, nats",
        log_x=True,
    )
    recalls = chart(
        [
            Series(name=name, points=_mean_curve(found.runs[name], "recalls"))
            for name in traced(found)
        ],
        title="Recall by step",
        x="step",
        y="recall@100, some judged lines",
        log_x=True,
    )
    said = ""
    if {SOFTMAX, HINGE} <= set(traced(found)):
        pairs = list(zip(found.runs[SOFTMAX], found.runs[HINGE], strict=False))
        steps = [reached(softmax, hinge) for softmax, hinge in pairs]
        last = pairs[0][1].recalls[-1][0]
        told = ", ".join("never" if each is None else f"at step {each}" for each in steps)
        said = (
            f"The softmax reaches the recall that the hinge has at its last step ({last}), "
            f"seed by seed, of the steps measured: {told}."
        )
    return losses, recalls, said


def _mean_curve(runs: Sequence[RunRecord], curve: str, *, ranges: bool = True) -> list[Point]:
    """The mean over seeds at each step, with the range of the seeds if it is asked for."""
    by_seed = np.array([getattr(run, curve) for run in runs])  # [S, points, 2]
    if not by_seed.size:
        return []
    return [
        Point(
            x=float(step),
            y=float(of_step.mean()),
            y_range=(of_step.min(), of_step.max()) if ranges else None,
        )
        for step, of_step in zip(by_seed[0, :, 0], by_seed[:, :, 1].T, strict=True)
    ]


def by_noise(parts: Sequence[Found]) -> list[tuple[str, Markup]]:
    """Charts over the chance of a click by mistake."""
    names = [
        name
        for name in (BASE.name, BASELINE, *LEAVE_ONE_OUT)
        if all(name in each.runs for each in parts)
    ]
    drawn = []
    for title, metric, rows in (
        (f"{parts[0].ground.relevance}@100", RELEVANCE, "all"),
        ("recall@100 of all clicks", RECALL, "all"),
        (f"recall@100 of {MEANT}", RECALL, MEANT),
    ):
        values = [each.values(names, metric, rows) for each in parts]
        series = [
            Series(
                name=name,
                points=[
                    Point(
                        x=each.part.noise or 0.0,
                        y=of_part[name].mean,
                        y_range=_spread(of_part[name]),
                    )
                    for each, of_part in zip(parts, values, strict=True)
                    if name in of_part
                ],
            )
            for name in names
        ]
        drawn.append((title, chart(series, title=title, x="chance of a click by mistake", y=title)))
    return drawn
