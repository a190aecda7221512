"""Graded labels of (query, item) pairs by people, and the share of a ranking that is good by them.

P_good@K (Li et al., KDD 2021, section 4) asks which share of the top K is relevant to the query, by
a judge that is not the retrieval model. People have labelled some pairs only. So it is taken over
those that they have, never with the others as bad ones, and stands beside how many they are.

Shape legend: B lines, N candidates, J judged candidates of a line.
"""

from __future__ import annotations

import csv
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pagoda.bundle import Metric
from pagoda.errors import InputError, NothingToDo
from pagoda.ids import keys_of
from training.intervals import intervals
from training.lines import Week
from training.metrics import KS, Gains, Ranks
from training.trial import Trial
from training.unseen import Scored

ROWS = "labelled queries"
COLUMNS = ("query", "item_id", "label")
# Best first: Reddy et al. 2022 (ESCI: exact, substitute, complement, irrelevant), Chen et al. 2022.
FORMS = {"ESCI": ("E", "S", "C", "I"), "WANDS": ("Exact", "Partial", "Irrelevant")}


@dataclass(frozen=True)
class Labels:
    """Whether each labelled item is good, by item id, by query as `_plain` writes it."""

    good: dict[str, dict[str, bool]]

    @classmethod
    def read(cls, path: Path, good: Collection[str] = ()) -> Labels:
        """Read a CSV file with the columns query, item_id and label; tabs for `.tsv`.

        Args:
            good: the labels that count as good; none: the form's best.

        Raises:
            InputError: for a file that is not of one form, with every line that is not, and for
                good labels that the form does not have.
        """
        if not path.is_file():
            raise InputError("there is no such file of labels", where=str(path))
        try:
            label_of, places, problems = _lines(path)
        except (UnicodeDecodeError, csv.Error) as error:
            raise InputError(
                "this is not CSV in UTF-8", where=str(path), found=str(error)
            ) from None
        # The form that knows most of the labels: what it does not know is the mistake.
        form = max(FORMS, key=lambda each: len(places.keys() & set(FORMS[each])))
        problems += [
            f"line {line}: {label!r} is no label of {form} (first of its kind)"
            for label, line in places.items()
            if label not in FORMS[form]
        ]
        problems += [
            f"{each!r} cannot be good: it is no label of {form}"
            for each in good
            if each not in FORMS[form]
        ]
        if problems:
            raise InputError(
                "these labels cannot be used",
                where=str(path),
                expected=" or ".join(f"{name} ({', '.join(of)})" for name, of in FORMS.items()),
                problems=problems,
            )
        chosen = set(good) or {FORMS[form][0]}
        found: dict[str, dict[str, bool]] = {}
        for (query, item), label in label_of.items():
            found.setdefault(query, {})[item] = label in chosen
        return cls(found)

    def of(self, query: str) -> dict[str, bool]:
        """The query's labelled items, and whether each is good."""
        return self.good.get(_plain(query), {})


def _lines(path: Path) -> tuple[dict[tuple[str, str], str], dict[str, int], list[str]]:
    """The label of each (query, item id), the first line of each label, and what is wrong."""
    label_of: dict[tuple[str, str], str] = {}
    places: dict[str, int] = {}
    problems = []
    with path.open(encoding="utf-8-sig", newline="") as file:
        lines = csv.reader(file, delimiter="\t" if path.suffix == ".tsv" else ",")
        header = next(lines, [])
        if tuple(header) != COLUMNS:
            raise InputError(
                "this is not a file of labels",
                where=f"{path}:1",
                expected=", ".join(COLUMNS),
                found=", ".join(header) or "nothing",
            )
        for fields in lines:
            if len(fields) != len(COLUMNS) or not all(each.strip() for each in fields):
                problems.append(f"line {lines.line_num}: needs {', '.join(COLUMNS)}")
                continue
            query, item, label = _plain(fields[0]), fields[1], fields[2]
            before = label_of.setdefault((query, item), label)
            if before != label:
                problems.append(
                    f"line {lines.line_num}: {query!r}, {item!r} is {label}, was {before} above"
                )
            places.setdefault(label, lines.line_num)
    return label_of, places, problems


def _plain(query: str) -> str:
    return " ".join(query.casefold().split())


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


def p_good(
    trial: Trial, labels: Labels, scored: Iterable[Scored], *, week: Week, name: str
) -> Metric:
    """The metrics of a method's rankings, over the lines whose query has labelled candidates.

    Each is the mean over the lines that have it. `coverage`: the share of all lines that count.

    Raises:
        NothingToDo: no line's query has a labelled candidate.
    """
    judged = _judged(trial, labels)
    lines = []
    found: list[dict[str, float]] = []
    for some, score_BN in scored:
        for line, score_N in zip(some.tolist(), score_BN, strict=True):
            column_J, good_J = judged[trial.examples.queries[line]]
            if not len(column_J):
                continue
            rank_N = np.empty(len(score_N), np.int64)
            rank_N[np.argsort(-score_N, kind="stable")] = np.arange(len(score_N))
            lines.append(line)
            found.append(judged_gains(rank_N[column_J], good_J, pool=len(score_N)))
    if not lines:
        raise NothingToDo(
            "no judged query has a labelled item among the candidates",
            expected=f"queries such as {next(iter(trial.examples.queries), '')!r}",
            found=f"labels of {next(iter(labels.good), '')!r}",
            next_step="Candidates have a title and an event before the judged week.",
        )
    users = trial.users[lines]
    values = {"coverage": len(lines) / trial.examples.lines}
    ends = {}
    for metric in found[0]:
        gain_B: Gains = np.array([each[metric] for each in found])
        known_B = ~np.isnan(gain_B)
        if not known_B.any():
            continue
        values[metric] = float(gain_B[known_B].mean())
        drawn = intervals(gain_B[known_B, None], users[known_B])
        if drawn is not None:
            low, high = drawn[0].tolist()
            ends[metric] = (low, high)
    return Metric(
        week=week, method=name, rows=ROWS, count=len(lines), values=values, intervals=ends
    )


def _judged(
    trial: Trial, labels: Labels
) -> dict[str, tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]]:
    """Of each query the judged candidates' places and whether they are good, both [J]."""
    found = {}
    for query in set(trial.examples.queries):
        of_query = labels.of(query)
        column = trial.columns_of(keys_of("item", of_query))
        good = np.fromiter(of_query.values(), bool, len(of_query))
        found[query] = column[column >= 0], good[column >= 0]
    return found
