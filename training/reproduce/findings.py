"""What runs say: means over seeds, intervals over users, differences line by line.

A difference counts as found if every seed, of two at least, agrees on its sign and the interval
over users of its mean excludes zero; otherwise it is within noise. Seeds stand for what training
does by chance, users for who happened to be judged.

Shape legend: S seeds, B judged lines.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from pagoda.errors import NothingToDo
from training.evaluation.intervals import intervals
from training.reproduce import record
from training.reproduce.plan import Part
from training.reproduce.record import GroundRecord, RunRecord
from training.reproduce.runs import runs_of

Direction = Literal["up", "down", "within noise"]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Value:
    """A mean, by what it could have been otherwise.

    Attributes:
        seeds: of each seed. interval: 95 % over users; None for fewer than two users.
    """

    mean: float
    seeds: tuple[float, ...]
    interval: tuple[float, float] | None

    @property
    def direction(self) -> Direction:
        """Of a difference: whether it was found; one seed alone finds nothing."""
        if len(self.seeds) < 2:
            return "within noise"
        low, high = self.interval or (0.0, 0.0)
        if low > 0 and min(self.seeds) > 0:
            return "up"
        if high < 0 and max(self.seeds) < 0:
            return "down"
        return "within noise"


@dataclass(frozen=True, kw_only=True, eq=False)
class Found:
    """A part's runs, by variant in the plan's order, each by seed."""

    part: Part
    ground: GroundRecord
    runs: Mapping[str, Sequence[RunRecord]]

    def gains(self, method: str, metric: str) -> Floats:
        """What each line has of a metric by each seed, [S, B].

        `recall@k`: whether its item is in the top k. `good@k`: the share of the top k that is on
        the wanted shelf.
        """
        kind, k = metric.split("@")
        if kind == "good":
            return np.array([run.good[int(k)] for run in self.runs[method]], np.float64) / int(k)
        ranks = (
            [self.ground.baselines[method]]
            if method in self.ground.baselines
            else [run.ranks for run in self.runs[method]]
        )
        rank_SB = np.array(ranks)
        return ((rank_SB >= 0) & (rank_SB < int(k))).astype(np.float64)

    def values(self, methods: Iterable[str], metric: str, rows: str = "all") -> dict[str, Value]:
        """A metric's mean over some rows, by method; baselines have one seed and no `good`."""
        known = self.runs if metric.startswith("good") else {**self.runs, **self.ground.baselines}
        gains = {each: self.gains(each, metric) for each in methods if each in known}
        return self._told(gains, metric, rows)

    def differences(
        self, pairs: Mapping[str, tuple[str, str]], metric: str, rows: str = "all"
    ) -> dict[str, Value]:
        """How much more the first of each pair has than the second, line by line, seed by seed."""
        gains = {}
        for name, (one, other) in pairs.items():
            one_SB, other_SB = self.gains(one, metric), self.gains(other, metric)
            seeds = min(len(one_SB), len(other_SB))
            gains[name] = one_SB[:seeds] - other_SB[:seeds]
        return self._told(gains, metric, rows)

    def _told(self, gains: Mapping[str, Floats], metric: str, rows: str) -> dict[str, Value]:
        if not gains:
            return {}
        chosen_B = np.array(self.ground.sets[rows], bool)
        if metric.startswith("good"):
            chosen_B &= np.array(self.ground.shelved, bool)
        if not chosen_B.any():
            return {}
        mean_BC = np.stack([gain_SB[:, chosen_B].mean(0) for gain_SB in gains.values()], axis=1)
        ends = intervals(mean_BC, np.array(self.ground.user)[chosen_B])
        return {
            name: Value(
                mean=float(gain_SB[:, chosen_B].mean()),
                seeds=tuple(gain_SB[:, chosen_B].mean(1).tolist()),
                interval=None if ends is None else (float(ends[at, 0]), float(ends[at, 1])),
            )
            for at, (name, gain_SB) in enumerate(gains.items())
        }


def read(folder: Path, part: Part, seeds: int) -> Found | None:
    """What there is of a part, on the rows that were used last; None if nothing is."""
    ground = record.newest_ground(folder, part.name)
    if ground is None:
        return None
    runs: dict[str, list[RunRecord]] = {}
    for each in record.read_runs(run.path for run in runs_of(part, ground, seeds)):
        runs.setdefault(each.variant, []).append(each)
    ordered = {name: runs[name] for name in part.variants if name in runs}
    return Found(part=part, ground=record.read_ground(ground), runs=ordered) if ordered else None


def read_all(folder: Path, parts: Sequence[Part], seeds: int) -> list[Found]:
    """What there is of each part that has a run. Raises: NothingToDo."""
    there = [found for part in parts if (found := read(folder, part, seeds))]
    if not there:
        raise NothingToDo("no run has finished", where=str(folder))
    return there


def reached(one: RunRecord, other: RunRecord) -> int | None:
    """The first measured step at which one is as good as the other is at its end, if ever."""
    goal = other.recalls[-1][1]
    return next((step for step, recall in one.recalls if recall >= goal), None)
