"""Judge vectors over all candidates, beside the baselines; `pagoda evaluate` does it for a bundle.

Shape legend: N candidates, B lines, D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import numpy.typing as npt
import torch
import typer

from pagoda import ranker as rankers
from pagoda import settings as settings_module
from pagoda.bundle import Bundle, Metric
from pagoda.console import emit_json, emit_table, people, run, watched
from pagoda.errors import InputError
from pagoda.metric_table import DISPLAYED, first_rows, table
from pagoda.models.base import TwoTowers
from pagoda.settings import Settings
from training import baselines, curve, displayed, graded, held_out, splits
from training import funnel as funnels
from training.bundle_rows import bundle_of, dataset_of, examples_of
from training.funnel import Funnel
from training.graded import Labels
from training.intervals import intervals
from training.lines import Week, events_before, judged_span, week_of
from training.metrics import KS, Gains, Ranks, gains, ranks_of
from training.row_sets import row_sets
from training.trial import Trial
from training.unseen import Columns, Scored
from training.vectors import encode_lines

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_CANDIDATES_PER_PASS = 100_000
_BY_KIND = (
    tuple(f"recall@{k}" for k in KS),
    tuple(f"ndcg@{k}" for k in KS),
    ("mrr", "p@1", "auc"),
)
_FIRST_GRADED = ("p_good@10", "judged@10", "p_good_condensed@10", "coverage")
_GRADED = (
    tuple(f"p_good@{k}" for k in KS),
    tuple(f"judged@{k}" for k in KS),
    tuple(f"p_good_condensed@{k}" for k in KS),
    ("coverage",),
)
_APART = (graded.ROWS, funnels.ROWS)  # shown in tables of their own

app = typer.Typer(help="Judge a bundle beside the baselines.")


def judge(
    trial: Trial,
    model: TwoTowers,
    item_vectors: npt.NDArray[np.float32],
    *,
    week: Week,
    name: str,
    labels: Labels | None = None,
    funnel: Funnel | None = None,
) -> list[Metric]:
    """The towers under `name`, then every baseline.

    Of users who have a line each also the ranks among what they have not had; with labels also
    which share of the towers' first candidates is good; with a funnel also how many of every
    method's first candidates come through it. Where it is what searches displayed that is judged,
    its order and nothing else.

    Raises: InputError for labels or a funnel there, and for a funnel where there are no queries.
    """
    if trial.displayed is not None:
        for option, given in (("--labels", labels), ("--funnel", funnel)):
            if given is not None:
                raise InputError(
                    "it judges the first of all candidates, here what searches displayed is ranked",
                    where=option,
                )
        return _judge_displayed(trial, model, item_vectors, week=week, name=name)
    if funnel is not None and not any(trial.examples.queries):
        raise InputError("relevance control needs queries, and there are none", where="--funnel")
    ranks = {name: judge_towers(trial, model, item_vectors), **judge_baselines(trial)}
    found = metrics(week, ranks, trial)
    if trial.starts_ms is None:
        everyone = np.ones(trial.examples.lines, bool)
        among = held_out.ranks(trial, name, _scores(trial, model, item_vectors))
        for rows, of_method in among.items():
            told = _metrics_over(everyone, of_method, trial, week=week, rows=rows, pool=None)
            found += told.values()
    if labels is not None:
        scored = _scores(trial, model, item_vectors)
        found.append(graded.p_good(trial, labels, scored, week=week, name=name))
    if funnel is not None:
        scored = _scores(trial, model, item_vectors)
        lines, gained = funnels.gains(trial, funnel, scored, name=name)
        told = _told(gained, trial.users[lines], week=week, rows=funnels.ROWS)
        found += told.values()
    return found


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
    for lines, some_BD in _user_vectors(trial, model):
        user_BD[lines] = some_BD.numpy()
    line_C = lists.line_L[lists.list_C]
    score_C = np.full(len(line_C), -np.inf, np.float32)
    known = np.flatnonzero((line_C >= 0) & (lists.item_C > 0))
    for some in np.array_split(known, len(known) // _CANDIDATES_PER_PASS + 1):
        score_C[some] = np.einsum(
            "cd,cd->c", user_BD[line_C[some]], item_vectors[lists.item_C[some] - 1]
        )
    return score_C


def judge_baselines(trial: Trial) -> dict[str, Ranks]:
    """Ranks of every baseline by name."""
    popular = {"most popular": baselines.most_popular(trial.targets)}
    if not any(trial.examples.queries):
        return popular
    return {
        **popular,
        **baselines.by_words(
            trial.index,
            trial.examples.queries,
            trial.owned,
            trial.targets,
            watched=lambda queries: watched(queries, "baselines, by query"),
        ),
    }


def judge_towers(
    trial: Trial,
    model: TwoTowers,
    item_vectors: npt.NDArray[np.float32],
) -> Ranks:
    """Each line's rank by the towers' inner product, over all candidates.

    Args:
        item_vectors: of the whole catalogue, row = item number - 1.
    """
    rank_B = np.empty(trial.examples.lines, np.int64)
    for lines, score_BN in _scores(trial, model, item_vectors):
        rank_B[lines] = ranks_of(score_BN, trial.targets[lines])
    return rank_B


def _scores(
    trial: Trial, model: TwoTowers, item_vectors: npt.NDArray[np.float32]
) -> Iterator[Scored]:
    """Some lines and their scores of all candidates, until every line had its turn."""
    item_ND = torch.from_numpy(item_vectors)[torch.from_numpy(trial.candidates - 1).long()]
    for lines, user_BD in _user_vectors(trial, model):
        yield lines, (user_BD @ item_ND.T).numpy()


def _user_vectors(trial: Trial, model: TwoTowers) -> Iterator[tuple[Columns, torch.Tensor]]:
    return encode_lines(
        model,
        trial.examples,
        trial.catalogue,
        watched=lambda passes: watched(passes, "towers, by requests"),
    )


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


@app.command()
def evaluate(
    name: Annotated[
        str | None, typer.Argument(metavar="BUNDLE", help="A bundle's name; default: the newest.")
    ] = None,
    every_set: Annotated[
        bool, typer.Option("--sets", help="All sets of rows: repeats, queries, items, history.")
    ] = False,
    everything: Annotated[
        bool, typer.Option("--all", help="All sets of rows and all metrics.")
    ] = False,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Draw recall against K, as SVG, into this file."),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Labels of (query, item) by people: adds P_good."),
    ] = None,
    good: Annotated[
        list[str] | None,
        typer.Option(metavar="LABEL", help="A label that counts as good; default: the best."),
    ] = None,
    with_funnel: Annotated[
        bool,
        typer.Option("--funnel", help="How many of the first pass relevance control, and ranking."),
    ] = False,
    ranked: Annotated[
        int, typer.Option(metavar="M", min=1, help="With --funnel: how many items enter ranking.")
    ] = 200,
    as_json: Annotated[bool, typer.Option("--json", help="Everything, as JSON.")] = False,
) -> None:
    """Judge a bundle as it is served, on the week that it was not trained on.

    Intervals are 95 %, by resampling users. docs/models says what rows and metrics are.
    """
    settings = settings_module.load()
    bundle = bundle_of(settings, name)
    if plot and not plot.parent.is_dir():
        raise InputError("there is no such folder", where=str(plot.parent))
    if good and labels is None:
        raise InputError("--good says which labels are good", next_step="Give --labels FILE too.")
    read = Labels.read(labels, good or ()) if labels else None
    funnel = _funnel(settings, bundle, ranked) if with_funnel else None
    found = judge_bundle(settings, bundle, labels=read, funnel=funnel)
    if plot and found[0].rows == DISPLAYED:
        raise InputError("no recall to draw: what searches displayed was ranked", where="--plot")
    if plot:
        plot.write_text(curve.recall_curves(first_rows(found), title=bundle.name))
    if as_json:
        emit_json({"bundle": bundle.name, "metrics": [each.model_dump() for each in found]})
    else:
        _tell(bundle, found, every_set=every_set, everything=everything)


def _tell(bundle: Bundle, found: list[Metric], *, every_set: bool, everything: bool) -> None:
    """Tables for people, and what the queries are."""
    title = f"{bundle.name}, {found[0].week} week"
    apart = {rows: [each for each in found if each.rows == rows] for rows in _APART}
    found = [each for each in found if each.rows not in apart]
    people.print(f"queries: {bundle.manifest.dataset['query_protocol']}")
    if everything:
        measured = {name for each in found for name in each.values}
        for names in _BY_KIND:
            if there := [name for name in names if name in measured]:
                emit_table(table(found, there), title=title)
    else:
        emit_table(table(found if every_set else first_rows(found)), title=title)
    if by_people := apart[graded.ROWS]:
        for names in _GRADED if everything else (_FIRST_GRADED,):
            emit_table(table(by_people, names), title=title)
    if through := apart[funnels.ROWS]:
        emit_table(table(through, list(through[0].values)), title=title)


def _funnel(settings: Settings, bundle: Bundle, ranked: int) -> Funnel:
    """The stages behind this bundle's towers."""
    there = rankers.load(bundle)
    if there is None:
        people.print(f"no pre-ranker, so no num_rank: `pagoda ranker {bundle.name}` trains one")
    return Funnel(
        min_relevant=settings.serving.min_relevant,
        pre_ranker=there[0] if there else None,
        ranked=ranked,
    )


def judge_bundle(
    settings: Settings,
    bundle: Bundle,
    *,
    labels: Labels | None = None,
    funnel: Funnel | None = None,
    session: SparkSession | None = None,
) -> list[Metric]:
    """Metrics of a bundle's own weights and vectors, on rows fetched anew from Feast."""
    dataset = dataset_of(settings, bundle)
    week = week_of(str(bundle.manifest.recipe_config.get("week")))
    span = judged_span(dataset, week)
    judged = splits.lines_of(settings, dataset, span, week)
    with examples_of(settings, bundle, judged, span, session=session) as examples:
        trial = Trial(
            examples=examples,
            catalogue=bundle.catalogue,
            history=events_before(settings, span.end),
            starts_ms=splits.starts_ms(dataset, span),
            displayed=splits.displayed(settings, dataset, span),
        )
        return judge(
            trial,
            bundle.model,
            bundle.item_vectors,
            week=week,
            name=bundle.manifest.recipe,
            labels=labels,
            funnel=funnel,
        )


if __name__ == "__main__":
    run(app)
