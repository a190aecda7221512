"""The share of a ranking that is good by people's labels.

P_good@K (Li et al., KDD 2021, section 4) asks which share of the top K is relevant to the query, by
a judge that is not the retrieval model. People have labelled some pairs only. So it is taken over
those that they have, never with the others as bad ones, and stands beside how many they are.

Shape legend: B lines, N candidates, P pairs of a line and a judged candidate, J of them of a line.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np
import numpy.typing as npt

from pagoda.bundle import Metric
from pagoda.errors import NothingToDo
from pagoda.ids import keys_of
from training.data.lines import Week
from training.evaluation.intervals import intervals
from training.evaluation.metrics import KS, Gains, Ranks
from training.evaluation.scores import Columns, Scores
from training.evaluation.trial import Trial
from training.labels import Labels

ROWS = "labelled queries"


class JudgedPairs:
    """Each line with each of its query's labelled candidates; reads their ranks.

    Attributes:
        line_P: ascending. column_P: the candidate. good_P: whether people call it good.
        rank_P: by the scores that were read.
    """

    def __init__(self, trial: Trial, labels: Labels) -> None:
        """Raises: NothingToDo: no line's query has a labelled candidate."""
        judged = cache(lambda query: _judged(trial, labels, query))
        of_line = [judged(query) for query in trial.examples.queries]
        lengths_B = [len(column_J) for column_J, _ in of_line]
        if not any(lengths_B):
            raise NothingToDo(
                "no judged query has a labelled item among the candidates",
                expected=f"queries such as {next(iter(trial.examples.queries), '')!r}",
                found=f"labels of {next(iter(labels.good), '')!r}",
                next_step="Candidates have a title and an event before the judged week.",
            )
        self.line_P = np.repeat(np.arange(len(of_line)), lengths_B)
        self.column_P = np.concatenate([column_J for column_J, _ in of_line])
        self.good_P = np.concatenate([good_J for _, good_J in of_line])
        self.rank_P: Ranks = np.empty(len(self.line_P), np.int64)
        self._trial = trial

    def read(self, lines: Columns, score_BN: Scores) -> None:
        """As `training.evaluation.scores.Reader` has it."""
        starts, ends = (self.line_P.searchsorted(lines, side) for side in ("left", "right"))
        for at in np.flatnonzero(starts < ends):
            rank_N = np.empty(score_BN.shape[1], np.int64)
            rank_N[np.argsort(-score_BN[at], kind="stable")] = np.arange(len(rank_N))
            pairs = slice(starts[at], ends[at])
            self.rank_P[pairs] = rank_N[self.column_P[pairs]]

    def metrics(self, ranks: Mapping[str, Ranks], *, week: Week) -> list[Metric]:
        """Of every method, by its ranks of the pairs, over the lines that have some.

        Each metric is the mean over the lines that have it. `coverage`: the share of all lines
        that count.
        """
        trial = self._trial
        lines, starts = np.unique(self.line_P, return_index=True)
        good = np.split(self.good_P, starts[1:])
        found = []
        for method, rank_P in ranks.items():
            gained = [
                judged_gains(rank_J, good_J, pool=len(trial.candidates))
                for rank_J, good_J in zip(np.split(rank_P, starts[1:]), good, strict=True)
            ]
            told = {
                metric: _mean(np.array([each[metric] for each in gained]), trial.users[lines])
                for metric in gained[0]
            }
            values = {metric: mean for metric, (mean, _) in told.items() if mean is not None}
            found.append(
                Metric(
                    week=week,
                    method=method,
                    rows=ROWS,
                    count=len(lines),
                    values={"coverage": len(lines) / trial.examples.lines} | values,
                    intervals={metric: ends for metric, (_, ends) in told.items() if ends},
                )
            )
        return found


def _judged(trial: Trial, labels: Labels, query: str) -> tuple[Columns, npt.NDArray[np.bool_]]:
    """A query's judged candidates and whether they are good, both [J]."""
    of_query = labels.of(query)
    column = trial.columns_of(keys_of("item", of_query))
    good = np.fromiter(of_query.values(), bool, len(of_query))
    return column[column >= 0], good[column >= 0]


def _mean(gain_B: Gains, user_B: Columns) -> tuple[float | None, tuple[float, float] | None]:
    """The mean over the lines that have it, and its interval, each None where there is none."""
    known_B = ~np.isnan(gain_B)
    if not known_B.any():
        return None, None
    drawn = intervals(gain_B[known_B, None], user_B[known_B])
    ends = None if drawn is None else (float(drawn[0, 0]), float(drawn[0, 1]))
    return float(gain_B[known_B].mean()), ends


def judged_gains(
    rank_J: Ranks, good_J: npt.NDArray[np.bool_], *, pool: int, ks: Sequence[int] = KS
) -> dict[str, float]:
    """One line's metrics, from the ranks of its judged candidates.

    `judged@k`: share of the top k that is judged. `p_good@k`: share of these that is good, NaN for
    none. `p_good_condensed@k`: share of the first k judged that is good, however deep they stand
    (the condensed list of Sakai, SIGIR 2007), NaN for none.

    Args:
        pool: how many candidates there are; the top k has no more.
    """
    ordered = good_J[np.argsort(rank_J)]
    found = {}
    for k in ks:
        inside_J = rank_J < k
        found[f"judged@{k}"] = inside_J.sum() / min(k, pool)
        found[f"p_good@{k}"] = _share(good_J[inside_J])
        found[f"p_good_condensed@{k}"] = _share(ordered[:k])
    return found


def _share(good: npt.NDArray[np.bool_]) -> float:
    return float(good.mean()) if len(good) else np.nan
