"""`pagoda ranker [BUNDLE]`: train the pre-ranker that judges what a bundle's towers find.

It is fitted on pairs of a line and an item: what the line took, and items that its request did not
take. These are some of what the request was shown in vain, where the data say what was shown; what
is still wanting is drawn evenly from the pool. Log loss tells the two apart. The towers' vectors
and scores are never read.

It passes once over the rows that the towers were fitted on: a loss is of lines that were not yet
trained on. An interrupted training begins anew.

Shape legend: B lines, P pairs of a line and an item, K items that a line has not taken, U requests,
O lines of these requests.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

import numpy as np
import numpy.typing as npt
import torch
import typer
from torch.nn import functional

from pagoda import ranker as rankers
from pagoda import settings as settings_module
from pagoda.bundle import Bundle, as_json
from pagoda.console import emit_json, emit_table, people, run, watched
from pagoda.models.bst import Bst, BstConfig, Pairs
from pagoda.models.catalogue import Catalogue
from pagoda.models.inputs import item_batch
from pagoda.models.tables import Sizes
from pagoda.ranker import Record
from pagoda.settings import Settings
from training.data import splits
from training.data.batches import Examples
from training.data.bundle_rows import bundle_of, dataset_of, examples_of
from training.data.lines import not_taken, of_items, trained_span, week_of
from training.negatives import Numbers, draw_of_each, taken_by
from training.optimisers import AdagradConfig, descend

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_PAIRS_PER_PASS = 1_024

app = typer.Typer(add_completion=False, help="Train a bundle's pre-ranker.")


@dataclass(frozen=True, kw_only=True)
class RankerConfig:
    """All that decides on a pre-ranker, beside the data.

    Attributes:
        lines_per_batch: with three others each they are the paper's batch of 256.
        others: items a line that its request has not taken.
        optimiser: the paper's one rate for everything; from an accumulator of 0 the first steps,
            which are the rate's whole length, make the wide layers overshoot.
    """

    model: BstConfig = field(default_factory=BstConfig)
    epochs: int = 1
    lines_per_batch: int = 64
    others: int = 3
    optimiser: AdagradConfig = field(
        default_factory=lambda: AdagradConfig(embedding_lr=0.01, initial_accumulator=1e-3)
    )
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.epochs, self.lines_per_batch, self.others) < 1:
            raise ValueError("epochs, lines_per_batch and others must be at least 1")


def train(
    model: Bst,
    examples: Examples,
    catalogue: Catalogue,
    config: RankerConfig,
    *,
    watched: Callable[[Sequence[tuple[int, int]]], Iterable[tuple[int, int]]] = iter,
) -> list[float]:
    """Train in place; the losses of all steps.

    Args:
        watched: goes through the steps and may show how far it is.

    Raises: CheckFailed before the step whose loss is not finite.
    """
    torch.manual_seed(config.seed)
    optimiser = config.optimiser.build(model)
    starts = range(0, examples.lines, config.lines_per_batch)
    losses = []
    model.train()
    for epoch, start in watched([(epoch, at) for epoch in range(config.epochs) for at in starts]):
        if not start:
            order = np.random.default_rng([config.seed, epoch]).permutation(examples.lines)
        line_P, item_P, taken_P = drawn_pairs(
            examples,
            order[start : start + config.lines_per_batch],
            pool=len(catalogue),
            others=config.others,
            seed=(config.seed, epoch, start),
        )
        loss = functional.binary_cross_entropy_with_logits(
            model(pairs_of(examples, catalogue, line_P=line_P, item_P=item_P)),
            torch.from_numpy(taken_P.astype(np.float32)),
        )
        descend(
            model,
            optimiser,
            loss,
            clip_norm=config.optimiser.clip_norm,
            where=f"epoch {epoch}, lines from {start}",
        )
        losses.append(loss.item())
    model.eval()
    return losses


def drawn_pairs(
    examples: Examples,
    lines: npt.NDArray[np.int64],
    *,
    pool: int,
    others: int,
    seed: tuple[int, ...],
) -> tuple[Numbers, Numbers, npt.NDArray[np.bool_]]:
    """Each pair's line, its item's number, and whether the line took it, [P]; taken ones first.

    Lines of one request share what was shown. What is drawn from the pool and was taken is left
    out, so that a line may have fewer than `others`. The same seed draws the same.

    Args:
        lines: of the examples, each once.
    """
    requests, request_B = np.unique(examples.request_B[lines], return_inverse=True)
    shown_UK = draw_of_each(examples.impressed.take(requests), others, seed=(*seed, 1))
    shown_BK = shown_UK[request_B]
    from_pool_BK = np.random.default_rng(seed).integers(1, pool + 1, shown_BK.shape)
    other_BK = np.where(shown_BK > 0, shown_BK, from_pool_BK)
    request_O, lines_O = examples.lines_of(requests)
    taken = request_O, examples.item_B[lines_O]
    left_BK = ~taken_by(request_B, other_BK, taken, pool=pool)
    return (
        np.concatenate([lines, lines[left_BK.nonzero()[0]]]),
        np.concatenate([examples.item_B[lines], other_BK[left_BK]]),
        np.arange(len(lines) + left_BK.sum()) < len(lines),
    )


def pairs_of(
    examples: Examples, catalogue: Catalogue, *, line_P: Numbers, item_P: Numbers
) -> Pairs:
    """Pairs as the model takes them, from lines of the examples and items of the catalogue."""
    lines, line_at_P = np.unique(line_P, return_inverse=True)
    requests, request_B = np.unique(examples.request_B[lines], return_inverse=True)
    items, item_at_P = np.unique(item_P, return_inverse=True)
    return Pairs(
        user=examples.user_batch(requests, lines, catalogue, request_B=request_B),
        targets=item_batch(items, catalogue),
        line_P=torch.from_numpy(line_at_P),
        target_P=torch.from_numpy(item_at_P),
    )


def scores(
    model: Bst, examples: Examples, catalogue: Catalogue, *, line: int, items: Numbers
) -> npt.NDArray[np.float32]:
    """The log odds that a line takes each of some items, by a model that is not being trained."""
    found = np.empty(len(items), np.float32)
    for start in range(0, len(items), _PAIRS_PER_PASS):
        some = items[start : start + _PAIRS_PER_PASS]
        pairs = pairs_of(examples, catalogue, line_P=np.full(len(some), line), item_P=some)
        with torch.inference_mode():
            found[start : start + len(some)] = model(pairs).numpy()
    return found


def train_ranker(
    settings: Settings,
    bundle: Bundle,
    config: RankerConfig,
    *,
    force: bool = False,
    session: SparkSession | None = None,
) -> tuple[Record, bool]:
    """Train a bundle's pre-ranker and write it beside; what it is, and whether it was trained now.

    Lines are read from the snapshots that the bundle was trained on; their rows are fetched anew.

    Args:
        session: a Spark session to use for Feast's join, else one is started for it.

    Raises: BundleRefused if there is one that cannot be used; InputError if features are missing.
    """
    if not force and (there := rankers.load(bundle)):
        return there[1], False
    dataset = dataset_of(settings, bundle)
    recipe, at = bundle.manifest.recipe_config, bundle.manifest.snapshots
    span = trained_span(dataset, week_of(str(recipe.get("week"))), int(recipe["train_days"]))
    lines = of_items(
        splits.lines_of(settings, dataset, span, "train", at), bundle.catalogue.table["item_key"]
    )
    shown = not_taken(settings, span, at)
    with examples_of(settings, bundle, lines, span, not_taken=shown, session=session) as examples:
        started = time.perf_counter()
        torch.manual_seed(config.seed)
        model = config.model.build(Sizes.read(bundle.manifest.model.sizes))
        losses = train(
            model,
            examples,
            bundle.catalogue,
            config,
            watched=lambda steps: watched(steps, "pre-ranker, by batches"),
        )
        record = rankers.save(
            bundle,
            model,
            Record(
                fingerprint=bundle.manifest.fingerprint,
                config=dict(as_json(config)),
                counts={
                    "lines": examples.lines,
                    "requests_with_impressions": int((examples.impressed.lengths > 0).sum()),
                    "steps": len(losses),
                    "loss_of_the_last_tenth": float(np.mean(losses[-(len(losses) // 10 + 1) :])),
                    "seconds": round(time.perf_counter() - started, 1),
                },
            ),
        )
    return record, True


@app.command()
def ranker(
    name: Annotated[
        str | None, typer.Argument(metavar="BUNDLE", help="A bundle's name; default: the newest.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Train even if the bundle has a pre-ranker.")
    ] = False,
    as_json_: Annotated[bool, typer.Option("--json", help="The result as JSON.")] = False,
) -> None:
    """Train the pre-ranker of a bundle, on the rows that its towers were trained on."""
    settings = settings_module.load()
    bundle = bundle_of(settings, name)
    record, fresh = train_ranker(settings, bundle, RankerConfig(), force=force)
    if as_json_:
        emit_json({"bundle": bundle.name, "trained": fresh, "counts": record.counts})
        return
    people.print(
        f"{'trained' if fresh else 'already trained:'} [bold]{bundle.name}[/]'s pre-ranker"
    )
    emit_table([record.counts])


if __name__ == "__main__":
    run(app)
