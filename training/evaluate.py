"""`pagoda evaluate`: judge a bundle beside the baselines."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pagoda import ranker as rankers
from pagoda import relevance as judges
from pagoda import settings as settings_module
from pagoda.bundle import Bundle, Metric
from pagoda.console import emit_json, emit_table, people, run
from pagoda.errors import InputError
from pagoda.metric_table import DISPLAYED, first_rows, table
from pagoda.relevance import Judge, Record
from pagoda.settings import Settings
from training import relevance
from training.data import splits
from training.data.bundle_rows import bundle_of, dataset_of, examples_of
from training.data.lines import events_before, judged_span, week_of
from training.evaluation import curve, graded, judging, p_good, same_category, zero_share
from training.evaluation import funnel as funnels
from training.evaluation.funnel import Funnel
from training.evaluation.metrics import KS
from training.evaluation.trial import Trial
from training.labels import Labels

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

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
# Shown in tables of their own.
_OTHERS = (
    (same_category.ROWS,),
    (zero_share.RELATED, zero_share.FOREIGN),
    (funnels.ROWS,),
    (p_good.ROWS,),
)
_APART = (graded.ROWS, *chain.from_iterable(_OTHERS))

app = typer.Typer(add_completion=False, help="Judge a bundle beside the baselines.")


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
        typer.Option(
            metavar="LABEL", help="A label that counts as good; repeatable; default: the best."
        ),
    ] = None,
    with_funnel: Annotated[
        bool,
        typer.Option(
            "--funnel",
            help="How many of each method's first 1,000 pass relevance control, and how many of "
            "these enter ranking (with `pagoda ranker`).",
        ),
    ] = False,
    ranked: Annotated[
        int | None,
        typer.Option(metavar="M", min=1, help="With --funnel: how many enter ranking (200)."),
    ] = None,
    with_model: Annotated[
        bool, typer.Option("--relevance", help="P_good by the model of `pagoda relevance`.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Everything, as JSON.")] = False,
) -> None:
    """Judge a bundle as it is served, on the lines that were held back from its training.

    Intervals are 95 %, by resampling users. docs/models says what rows and metrics are.
    """
    settings = settings_module.load()
    bundle = bundle_of(settings, name)
    if plot and not plot.parent.is_dir():
        raise InputError("there is no such folder", where=str(plot.parent))
    if plot and bundle.manifest.dataset.get("split") == DISPLAYED:
        raise InputError("no recall to draw: what searches displayed is ranked", where="--plot")
    if good and labels is None:
        raise InputError("--good says which labels are good", next_step="Give --labels FILE too.")
    if ranked is not None and not with_funnel:
        raise InputError("--ranked says how many enter ranking", next_step="Give --funnel too.")
    read = Labels.read(labels, good or ()) if labels else None
    funnel = _funnel(settings, bundle, ranked) if with_funnel else None
    judge, record = _judge(settings, bundle, read) if with_model else (None, None)
    found = judge_bundle(settings, bundle, labels=read, funnel=funnel, by_model=judge)
    if plot:
        plot.write_bytes(curve.recall_curves(first_rows(found), title=bundle.name).encode())
    if as_json:
        said = {"relevance": relevance.told(record)} if record else {}
        metrics = [each.model_dump() for each in found]
        emit_json({"bundle": bundle.name, "metrics": metrics, **said})
        return
    _tell(bundle, found, every_set=every_set, everything=everything)
    if record:
        relevance.tell(record)


def _tell(bundle: Bundle, found: list[Metric], *, every_set: bool, everything: bool) -> None:
    """Tables for people, and what the queries are."""
    title = f"{bundle.name}, {found[0].week} week"
    apart = {rows: [each for each in found if each.rows == rows] for rows in _APART}
    found = [each for each in found if each.rows not in apart]
    people.print(f"queries: {bundle.manifest.dataset['query_protocol']}", markup=False)
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
    for sets in _OTHERS:
        if shown := [each for rows in sets for each in apart[rows] if each.values]:
            emit_table(table(shown, list(shown[0].values)), title=title)


def _funnel(settings: Settings, bundle: Bundle, ranked: int | None) -> Funnel:
    """The stages behind this bundle's towers."""
    there = rankers.load(bundle)
    if there is None:
        people.print(f"no pre-ranker, so no num_rank: `pagoda ranker {bundle.name}` trains one")
    return Funnel(
        min_relevant=settings.serving.min_relevant,
        pre_ranker=there[0] if there else None,
        ranked=ranked or Funnel.ranked,
    )


def _judge(settings: Settings, bundle: Bundle, labels: Labels | None) -> tuple[Judge, Record]:
    """The judge of this bundle's data set.

    Raises: NothingToDo without one; InputError if it is of other items, or calls other labels good.
    """
    judge, record = judges.load(settings)
    dataset = str(bundle.manifest.dataset["name"])
    problems = []
    if record.dataset != dataset:
        problems.append(f"it learned from items of {record.dataset}, the bundle is of {dataset}")
    if labels is not None and labels.called_good != record.good:
        called, by_judge = (", ".join(each) for each in (labels.called_good, record.good))
        problems.append(f"good is {called} of these labels, {by_judge} of those it learned from")
    if problems:
        raise InputError(
            "the relevance model says something else",
            where="--relevance",
            problems=problems,
            next_step="Train it with `pagoda relevance --labels FILE [--good LABEL]`.",
        )
    return judge, record


def judge_bundle(
    settings: Settings,
    bundle: Bundle,
    *,
    labels: Labels | None = None,
    funnel: Funnel | None = None,
    by_model: Judge | None = None,
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
        return judging.judge(
            trial,
            bundle.model,
            bundle.item_vectors,
            week=week,
            name=bundle.manifest.recipe,
            labels=labels,
            funnel=funnel,
            by_model=by_model,
        )


if __name__ == "__main__":
    run(app)
