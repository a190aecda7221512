"""`pagoda relevance --labels FILE`: train the relevance model that judges `P_good@K`.

It learns from what people said of queries and items, and from generated mismatches
(`training.mismatches`): their words and nothing else, no user, no search that was made, nothing of
a retrieval model. A fifth of the queries is held out; how well it tells those apart, beside the
share of the query's words that the item has, is told and kept with it.

Shape legend: P pairs, G good and B bad ones.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch
import typer
from torch.nn import functional

from pagoda import dataset as datasets
from pagoda import lake
from pagoda import relevance as judges
from pagoda import settings as settings_module
from pagoda.bundle import as_json
from pagoda.console import emit_json, emit_table, people, run, watched
from pagoda.errors import NothingToDo
from pagoda.ids import keys_of
from pagoda.models import catalogue
from pagoda.models.ragged import Ragged
from pagoda.models.relevance import FIELDS, ItemTexts, RelevanceConfig
from pagoda.relevance import Judge, Record, tensors
from pagoda.schemas import ITEMS
from pagoda.settings import Settings
from pagoda.text import Tokenizer, units_of
from training.labels import Labels
from training.mismatches import KINDS, LABELLED, Pair, pairs
from training.optimisers import AdagradConfig, descend

MODEL, IN_COMMON = "relevance model", "words in common"
_HELD_OUT_OF = 5

Ints = npt.NDArray[np.integer]

app = typer.Typer(add_completion=False, help="Train the relevance model that judges P_good.")


@dataclass(frozen=True, kw_only=True)
class JudgeConfig:
    """All that decides on a judge, beside the labels and the items.

    Attributes:
        fewest: labelled pairs of each sort, to learn from and held out each.
    """

    model: RelevanceConfig = field(default_factory=RelevanceConfig)
    epochs: int = 3
    pairs_per_batch: int = 256
    optimiser: AdagradConfig = field(default_factory=AdagradConfig)
    fewest: int = 20
    seed: int = 0


def train(
    items: pa.Table,
    found: Sequence[Pair],
    config: JudgeConfig,
    *,
    watched: Callable[[Sequence[Ints]], Iterable[Ints]] = iter,
) -> Judge:
    """Fit a judge; its threshold is at even odds.

    Args:
        items: that the pairs' rows are of.
        watched: goes through the steps and may show how far it is.

    Raises: CheckFailed before the step whose loss is not finite.
    """
    texts = [text for name in FIELDS for text in items[name].to_pylist() if text]
    queries = sorted({pair.query for pair in found})
    tokenizer = Tokenizer.fit([*queries, *texts], min_count=2)
    torch.manual_seed(config.seed)
    model = config.model.build(tokenizer.words.size)
    judge = Judge(model=model, tokenizer=tokenizer, threshold=0.0)
    query_PN, item_PM = _words(judge, items, found)
    good_P = torch.tensor([float(pair.good) for pair in found])
    optimiser = config.optimiser.build(model)
    steps = [
        some
        for epoch in range(config.epochs)
        for some in np.array_split(
            np.random.default_rng([config.seed, epoch]).permutation(len(found)),
            -(-len(found) // config.pairs_per_batch),
        )
    ]
    model.train()
    for step, some in enumerate(watched(steps)):
        loss = functional.binary_cross_entropy_with_logits(
            model(*tensors(query_PN.take(some), item_PM.take(some))),
            good_P[torch.from_numpy(some)],
        )
        clip = config.optimiser.clip_norm
        descend(model, optimiser, loss, clip_norm=clip, where=f"relevance model, step {step}")
    model.eval()
    return judge


def held_to_labels(
    judge: Judge, items: pa.Table, found: Sequence[Pair]
) -> tuple[Judge, dict[str, dict[str, float]]]:
    """The judge with its threshold, and how well methods tell pairs apart that none learned from.

    The threshold is the break-even point of precision and recall: as many of the labelled pairs
    count as relevant as people call good. `auc`: of labelled pairs. `auc_<kind>`: of the good ones
    from the mismatches of the kind. `precision`: the share of good ones among the labelled pairs
    that count as relevant.
    """
    kind_P = np.array([pair.kind for pair in found])
    good_P = np.array([pair.good for pair in found])
    odds_P = judge.odds(*_words(judge, items, found))
    told = {
        method: {
            "auc" if kind == LABELLED else f"auc_{kind}": auc(score_P[good_P], score_P[bad_P])
            for kind in KINDS
            if (bad_P := (kind_P == kind) & ~good_P).any()
        }
        for method, score_P in ((MODEL, odds_P), (IN_COMMON, in_common(items, found)))
    }
    labelled_P = kind_P == LABELLED
    odds_down = np.sort(odds_P[labelled_P])[::-1]
    threshold = float(odds_down[good_P.sum() - 1 :][:2].mean())
    told[MODEL]["precision"] = float(good_P[labelled_P & (odds_P >= threshold)].mean())
    return replace(judge, threshold=threshold), told


def in_common(items: pa.Table, found: Sequence[Pair]) -> npt.NDArray[np.float64]:
    """The share of each query's words that the item has, [P]: what a judge has to beat."""
    of_row = [
        set(units_of(" ".join(text for text in row.values() if text)).words)
        for row in items.select(FIELDS).to_pylist()
    ]
    asked = [set(units_of(pair.query).words) for pair in found]
    return np.array(
        [
            len(words & of_row[pair.item]) / max(len(words), 1)
            for words, pair in zip(asked, found, strict=True)
        ]
    )


def auc(good_G: npt.NDArray[np.floating], bad_B: npt.NDArray[np.floating]) -> float:
    """The chance that a good pair scores above a bad one; equal ones count half."""
    ordered_B = np.sort(bad_B)
    below_G = ordered_B.searchsorted(good_G, "left") + ordered_B.searchsorted(good_G, "right")
    return float(below_G.mean() / (2 * len(bad_B)))


def parts(labels: Labels, items: pa.Table, *, seed: int) -> tuple[list[Pair], list[Pair]]:
    """The pairs to learn from, and those of held-out queries."""
    learned, left = (
        {query: each for query, each in labels.good.items() if held_out(query) == held}
        for held in (False, True)
    )
    return (
        pairs(replace(labels, good=learned), items, seed=seed),
        pairs(replace(labels, good=left), items, seed=seed),
    )


def held_out(query: str) -> bool:
    """Whether a query is one of the fifth that nothing is learned from."""
    return zlib.crc32(query.encode("utf-8", "surrogatepass")) % _HELD_OUT_OF == 0


def _words(judge: Judge, items: pa.Table, found: Sequence[Pair]) -> tuple[Ragged, ItemTexts]:
    """The pairs as the judge takes them, each text cut once."""
    place_of = {query: place for place, query in enumerate({pair.query: 0 for pair in found})}
    query_P = np.array([place_of[pair.query] for pair in found])
    item_P = np.array([pair.item for pair in found])
    return judge.queries(list(place_of)).take(query_P), judge.items(items).take(item_P)


def train_judge(settings: Settings, labels: Labels, config: JudgeConfig) -> Record:
    """Train a data set's judge on people's labels and write it in the place of an earlier one.

    Raises: NothingToDo if there are too few labels of items of the lake.
    """
    started = time.perf_counter()
    dataset = datasets.load(settings)
    items = labelled_items(settings, labels)
    learned, left = parts(labels, items, seed=config.seed)
    require_enough(learned, left, config.fewest)
    fitted = train(items, learned, config, watched=lambda steps: watched(steps, "relevance model"))
    judge, told = held_to_labels(fitted, items, left)
    record = Record(
        dataset=dataset.name,
        good=labels.called_good,
        config=dict(as_json(config)),
        counts={
            **_counts("learned from", learned),
            **_counts("held out", left),
            "seconds": round(time.perf_counter() - started, 1),
        },
        threshold=judge.threshold,
        held_out=told,
    )
    judges.save(settings, judge, record)
    return record


def labelled_items(settings: Settings, labels: Labels) -> pa.Table:
    """The lake's items that have a label: `pagoda.models.catalogue.FIELDS`, by item_key."""
    keys = keys_of("item", {item for of_query in labels.good.values() for item in of_query})
    fields = tuple(catalogue.FIELDS.names)
    items = lake.open_table(settings, ITEMS).scan(selected_fields=fields).to_arrow()
    there = items.filter(pc.is_in(items["item_key"], pa.array(keys)))
    return there.select(fields).cast(catalogue.FIELDS).sort_by("item_key")


def require_enough(learned: Sequence[Pair], left: Sequence[Pair], fewest: int) -> None:
    """Raise NothingToDo if either part has fewer labelled pairs of either sort."""
    counts = {
        f"{'good' if good else 'bad'} ones {what}": sum(
            pair.good == good for pair in part if pair.kind == LABELLED
        )
        for what, part in (("to learn from", learned), ("of held-out queries", left))
        for good in (True, False)
    }
    if min(counts.values()) < fewest:
        raise NothingToDo(
            "too few labels of items that the lake has",
            expected=f"at least {fewest} pairs of each sort, a fifth of the queries held out",
            found=", ".join(f"{count} {what}" for what, count in counts.items()),
            next_step="Label more queries, good and bad items of each, or import the items.",
        )


def _counts(part: str, found: Sequence[Pair]) -> dict[str, float]:
    return {
        f"queries {part}": len({pair.query for pair in found if pair.kind == LABELLED}),
        f"labelled pairs {part}": sum(pair.kind == LABELLED for pair in found),
        f"mismatches {part}": sum(pair.kind != LABELLED for pair in found),
    }


@app.command()
def relevance(
    labels: Annotated[
        Path, typer.Option(metavar="FILE", help="Labels of (query, item) by people.")
    ],
    good: Annotated[
        list[str] | None,
        typer.Option(
            metavar="LABEL", help="A label that counts as good; repeatable; default: the best."
        ),
    ] = None,
    as_json_: Annotated[bool, typer.Option("--json", help="The result as JSON.")] = False,
) -> None:
    """Train the model that `pagoda evaluate --relevance` judges by, on people's labels.

    It takes the place of the one before, in $PAGODA_HOME/relevance.
    """
    settings = settings_module.load()
    record = train_judge(settings, Labels.read(labels, good or ()), JudgeConfig())
    if as_json_:
        emit_json(told(record))
        return
    people.print(f"trained [bold]{record.dataset}[/]'s relevance model")
    emit_table([record.counts])
    tell(record)


def told(record: Record) -> dict[str, Any]:
    """What a judge says of itself, for programs."""
    return record.model_dump(exclude={"format", "config", "files"})


def tell(record: Record) -> None:
    """How well it judges, for people."""
    rows = [
        {"judge": method, **{name: f"{value:.3f}" for name, value in values.items()}}
        for method, values in record.held_out.items()
    ]
    emit_table(rows, title=f"on labels of held-out queries; good is {', '.join(record.good)}")


if __name__ == "__main__":
    run(app)
