"""Judge vectors over all candidates, beside the baselines.

Shape legend: B lines, C candidates of lists, D width.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from pagoda.bundle import Metric
from pagoda.console import watched
from pagoda.errors import InputError
from pagoda.metric_table import DISPLAYED
from pagoda.models.base import TwoTowers
from pagoda.relevance import Judge
from training.data.lines import Week
from training.evaluation import (
    baselines,
    displayed,
    held_out,
    p_good,
    same_category,
    scores,
    zero_share,
)
from training.evaluation import funnel as funnels
from training.evaluation.channels import Channels
from training.evaluation.funnel import Funnel
from training.evaluation.graded import JudgedPairs
from training.evaluation.intervals import intervals
from training.evaluation.metrics import Gains, Ranks, gains
from training.evaluation.row_sets import row_sets
from training.evaluation.same_category import SameCategory
from training.evaluation.scores import Columns, TargetRanks
from training.evaluation.trial import Trial
from training.labels import Labels

_CANDIDATES_PER_PASS = 100_000


def judge(
    trial: Trial,
    model: TwoTowers,
    item_vectors: npt.NDArray[np.float32],
    *,
    week: Week,
    name: str,
    labels: Labels | None = None,
    funnel: Funnel | None = None,
    by_model: Judge | None = None,
) -> list[Metric]:
    """The towers under `name`, then every baseline; of queries also whether the towers read them.

    Of ZAM also how much it attends to nothing. Of users who have a line each also
    the ranks among what they have not had; with labels or a relevance model also which share of
    every method's first candidates is good; with a funnel also how many of them come through it.
    Where it is what searches displayed that is judged, its order and nothing else.

    Raises: InputError for any of these there, and where there are no queries; NothingToDo for
        labels of other queries or items.
    """
    _require_ground(trial, {"--labels": labels, "--funnel": funnel, "--relevance": by_model})
    if trial.displayed is not None:
        return _judge_displayed(trial, model, item_vectors, week=week, name=name)
    own = TargetRanks(trial.targets)
    category = SameCategory(trial) if any(trial.examples.queries) else None
    unseen = held_out.reader(trial) if trial.starts_ms is None else None
    judged = JudgedPairs(trial, labels) if labels is not None else None
    channels = Channels(trial, name=name) if funnel or by_model else None
    readers = [each for each in (own, category, unseen, judged, channels) if each is not None]
    scores.read(scores.by_towers(trial, model, item_vectors), readers)

    lines = np.arange(trial.examples.lines)
    found = metrics(week, {name: own.rank_B, **by_baselines(trial, lines, trial.targets)}, trial)
    if category is not None and category.known_B.any():
        users = trial.users[category.known_B]
        gained = {name: category.gains()}
        found += _told(gained, users, week=week, rows=same_category.ROWS).values()
    for rows, (some, share_B) in zero_share.by_history(trial, model).items():
        gained = {name: {zero_share.METRIC: share_B}}
        found += _told(gained, trial.users[some], week=week, rows=rows).values()
    if unseen is not None:
        everyone = np.ones(len(lines), bool)
        for rows, of_method in held_out.ranks(trial, name, unseen).items():
            told = _metrics_over(everyone, of_method, trial, week=week, rows=rows, pool=None)
            found += told.values()
    if judged is not None:
        ranks = by_baselines(trial, judged.line_P, judged.column_P)
        found += judged.metrics({name: judged.rank_P, **ranks}, week=week)
    if channels is not None:
        users = trial.users[list(channels.orders)]
        if funnel is not None:
            gained = funnels.gains(trial, funnel, channels.orders)
            found += _told(gained, users, week=week, rows=funnels.ROWS).values()
        if by_model is not None:
            gained = p_good.gains(trial, by_model, channels.orders)
            found += _told(gained, users, week=week, rows=p_good.ROWS).values()
    return found


def _require_ground(trial: Trial, asked: Mapping[str, object]) -> None:
    """Raise InputError if there is nothing that an option that was given could judge by."""
    given = [option for option, value in asked.items() if value is not None]
    if trial.displayed is not None and given:
        raise InputError(
            "it judges the first of all candidates, here what searches displayed is ranked",
            where=", ".join(given),
        )
    if given and not any(trial.examples.queries):
        raise InputError("relevance needs queries, and there are none", where=", ".join(given))


def _judge_displayed(
    trial: Trial,
    model: TwoTowers,
    item_vectors: npt.NDArray[np.float32],
    *,
    week: Week,
    name: str,
) -> list[Metric]:
    lists = displayed.lists_of(trial)
    scores = {
        name: _scores_of_lists(lists, trial, model, item_vectors),
        "most popular": lists.events_C,
        "bm25": displayed.bm25(
            lists, trial, watched=lambda numbers: watched(numbers, "bm25, by list")
        ),
    }
    found = {method: displayed.gains(lists, score_C) for method, score_C in scores.items()}
    return list(_told(found, lists.user_L, week=week, rows=DISPLAYED).values())


def _scores_of_lists(
    lists: displayed.Lists,
    trial: Trial,
    model: TwoTowers,
    item_vectors: npt.NDArray[np.float32],
) -> npt.NDArray[np.float32]:
    """The towers' inner product of each candidate with its search, [C].

    What the catalogue lacks has no vector, and a search of which all taken items are such has no
    line: they stand last.
    """
    user_BD = np.zeros((trial.examples.lines, item_vectors.shape[1]), np.float32)
    for lines, some_BD in scores.user_vectors(trial, model):
        user_BD[lines] = some_BD.numpy()
    line_C = lists.line_L[lists.list_C]
    score_C = np.full(len(line_C), -np.inf, np.float32)
    known = np.flatnonzero((line_C >= 0) & (lists.item_C > 0))
    for some in np.array_split(known, len(known) // _CANDIDATES_PER_PASS + 1):
        score_C[some] = np.einsum(
            "cd,cd->c", user_BD[line_C[some]], item_vectors[lists.item_C[some] - 1]
        )
    return score_C


def by_baselines(trial: Trial, line_P: Columns, column_P: Columns) -> dict[str, Ranks]:
    """Every baseline's rank of each candidate for the line beside it, [P], by name.

    Args:
        column_P: -1 for none.
    """
    popular = {"most popular": baselines.most_popular(column_P)}
    queries = trial.examples.queries
    if not any(queries):
        return popular
    return {
        **popular,
        **baselines.by_words(
            trial.index,
            [queries[line] for line in line_P],
            [trial.owned[line] for line in line_P],
            column_P,
            watched=lambda queries: watched(queries, "baselines, by query"),
        ),
    }


def metrics(week: Week, ranks: Mapping[str, Ranks], trial: Trial) -> list[Metric]:
    """One line a method and set of rows."""
    sets = row_sets(trial)
    found = {
        rows: _metrics_over(
            sets[rows], ranks, trial, week=week, rows=rows, pool=len(trial.candidates)
        )
        for rows in watched(list(sets), "intervals, by rows")
    }
    return [found[rows][method] for method in ranks for rows in sets]


def _metrics_over(
    chosen_B: npt.NDArray[np.bool_],
    ranks: Mapping[str, Ranks],
    trial: Trial,
    *,
    week: Week,
    rows: str,
    pool: int | None,
) -> dict[str, Metric]:
    """Every method's, by its ranks."""
    found = {method: gains(rank_B[chosen_B], pool=pool) for method, rank_B in ranks.items()}
    return _told(found, trial.users[chosen_B], week=week, rows=rows)


def _told(
    found: Mapping[str, Mapping[str, Gains]], user_B: Columns, *, week: Week, rows: str
) -> dict[str, Metric]:
    """Means of every method's gains, with their intervals, all on the same draws of users."""
    columns = [gain_B for each in found.values() for gain_B in each.values()]
    drawn = intervals(np.stack(columns, axis=1), user_B)
    ends = iter([] if drawn is None else drawn.tolist())  # of each method in turn
    count = len(user_B)
    return {
        method: Metric(
            week=week,
            method=method,
            rows=rows,
            count=count,
            values={name: float(gain_B.mean()) for name, gain_B in each.items()} if count else {},
            intervals={name: (low, high) for name, (low, high) in zip(each, ends, strict=False)},
        )
        for method, each in found.items()
    }
