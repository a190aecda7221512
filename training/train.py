"""`pagoda train RECIPE`: rows from Feast, towers, evaluation, a bundle.

The model is fitted on rows before the judged week and judged on it once: on the test week, or on
the validation week where a choice is to be made. The same recipe on the same content gives the
bundle that is already there. `--from BUNDLE` goes on from a bundle instead of beginning anew, on
the days that it was not trained on (`training.parents`).

Under torchrun the first process does all of that, and the others train with it from the moment that
it has prepared everything (`training.processes`).
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import torch
import typer
from filelock import FileLock
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from pagoda import bundle as bundles
from pagoda import dataset as datasets
from pagoda import features, pins, registry
from pagoda import settings as settings_module
from pagoda.bundle import Bundle, Manifest, ModelSpec, as_json
from pagoda.console import emit_json, emit_table, people, run
from pagoda.errors import BundleRefused, Conflict, NothingToDo
from pagoda.forgotten import copying
from pagoda.metric_table import first_rows, table
from pagoda.models.base import TwoTowers
from pagoda.models.catalogue import Catalogue
from pagoda.models.tables import Sizes
from pagoda.models.towers import kind_of
from pagoda.settings import Settings
from training import devices, loop, parents, processes
from training.data import rows, scratch, splits
from training.data.batches import Examples, prepare
from training.data.lines import events_before, week_of
from training.evaluation import judging
from training.evaluation.trial import Trial
from training.inputs import Inputs, Plan, inputs_of, plan, require_same_features
from training.overrides import overridden
from training.recipes import RECIPES, recipe
from training.vectors import encode_items

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

app = typer.Typer(add_completion=False, help="Train a recipe and write a bundle.")


def train_recipe(
    settings: Settings,
    chosen: Plan,
    *,
    force: bool = False,
    session: SparkSession | None = None,
) -> tuple[Path, bool]:
    """Train and write a bundle; (its folder, whether it was trained now).

    Args:
        session: a Spark session to use for Feast's join, else one is started for it.
    Raises: NothingToDo without lines; InputError if features are missing; MachineError if the
        device of the settings is not there; Conflict if an import moved the plan's days meanwhile.
    """
    if datasets.load(settings) != chosen.dataset:
        raise Conflict(
            "the data set was imported anew since the days were planned",
            where=str(settings.home),
            next_step="Train again.",
        )
    with copying(settings):
        return _train_recipe(settings, chosen, force, session)


def _train_recipe(
    settings: Settings,
    chosen: Plan,
    force: bool,
    session: SparkSession | None,
) -> tuple[Path, bool]:
    clock, device = Clock(), devices.chosen(settings)
    with clock.part("read the lake"):
        inputs = inputs_of(settings, chosen)
    found = None if force else _existing(settings, inputs.fingerprint)
    if found:
        processes.from_first(None)  # nothing to train with
        return found, False
    created_at = datetime.now(UTC)
    wished = f"{chosen.recipe.name}_{created_at:%Y%m%dT%H%M%S}_{inputs.fingerprint[:8]}"
    with scratch.held(settings, f"train-{inputs.fingerprint}") as folder:
        with named(settings, wished, inputs.snapshots) as name:
            made = _bundle(
                settings, chosen, inputs, name, created_at, clock, session, device, folder
            )
        shutil.rmtree(folder, ignore_errors=True)  # the bundle is there: no failure of the training
        return made, True


@contextmanager
def named(settings: Settings, wished: str, snapshots: Mapping[str, int]) -> Iterator[str]:
    """A bundle's name that nobody else has, its snapshots tagged (`pagoda.pins`).

    Two of one content and second would have the same, and the later one's tags would be the
    earlier one's: it is called WISHED_2 then, and so on. A name is taken by its tags before there
    is a folder.
    """
    names = chain([wished], (f"{wished}_{number}" for number in count(2)))
    with ExitStack() as held:
        with FileLock(settings.bundles / ".names.lock"):
            name = next(each for each in names if _is_free(settings, each))
            held.enter_context(pins.held(settings, name, snapshots))
        yield name


def _is_free(settings: Settings, name: str) -> bool:
    return not (settings.bundles / name).exists() and not pins.tables_of(settings, name)


def _bundle(
    settings: Settings,
    chosen: Plan,
    inputs: Inputs,
    name: str,
    created_at: datetime,
    clock: Clock,
    session: SparkSession | None,
    device: torch.device,
    folder: Path,
) -> Path:
    with clock.part("items and words"):
        parent = chosen.parent
        tokenizer = parent.tokenizer if parent else inputs.tokenizer(chosen.recipe)
        catalogue = Catalogue.build(inputs.items, tokenizer)
    service = features.service(chosen.recipe.service)
    stats = service.columns_of(features.USER_STATS)
    with clock.part("features from Feast"):
        fetched = rows.fetch(settings, service, inputs.requests, folder, session=session)
        require_same_features(settings, chosen, inputs)
    with clock.part("cut and encode"):
        examples, judged = (
            prepare(
                rows.read(fetched, some),
                some,
                catalogue,
                tokenizer,
                spec=chosen.recipe.windows,
                stats=stats,
                folder=folder / part,
                not_taken=shown,
            )
            for part, some, shown in (
                ("train", inputs.train_lines, inputs.not_taken),
                ("judged", inputs.judged_lines, None),
            )
        )
    sizes = Sizes.of(catalogue, tokenizer, stats=stats, schemes=chosen.recipe.schemes)
    torch.manual_seed(chosen.recipe.loop.seed)
    model = chosen.recipe.model.build(sizes)
    if parent:
        parents.inherit(model, catalogue, parent)
    model.to(device)
    with clock.part("train"):
        losses = _train(model, examples, catalogue, chosen, folder)
    with clock.part("encode items"):
        vectors = encode_items(model, catalogue)
    with clock.part("evaluate"):
        metrics = judging.judge(
            Trial(
                examples=judged,
                catalogue=catalogue,
                history=events_before(settings, chosen.judged.end, inputs.snapshots),
                starts_ms=splits.starts_ms(chosen.dataset, chosen.judged),
                displayed=inputs.displayed,
            ),
            model,
            vectors,
            week=chosen.week,
            name=chosen.recipe.name,
        )
    manifest = Manifest(
        name=name,
        recipe=chosen.recipe.name,
        changed=list(chosen.changed),
        recipe_config=dict(as_json(chosen.recipe)) | {"week": chosen.week},
        fingerprint=inputs.fingerprint,
        created_at=created_at,
        model=ModelSpec(
            kind=kind_of(chosen.recipe.model),
            config=dict(as_json(chosen.recipe.model)),
            sizes=dict(as_json(sizes)),
        ),
        width=vectors.shape[1],
        feature_service=chosen.recipe.service,
        schema_hash=service.schema_hash,
        windows=chosen.recipe.windows,
        counts={
            "train_lines": examples.lines,
            "train_requests": examples.requests,
            "judged_lines": judged.lines,
            "judged_requests": judged.requests,
            "items": len(catalogue),
            "steps": len(losses),
            "last_loss": losses[-1],
            **{f"seconds: {part}": round(seconds, 1) for part, seconds in clock.seconds.items()},
        },
        snapshots=inputs.snapshots,
        dataset=chosen.dataset.model_dump(mode="json"),
        metrics=metrics,
        parent=parent.name if parent else None,
        device=str(device),
    )
    return bundles.save(
        settings.bundles,
        manifest,
        model=model,
        tokenizer=tokenizer,
        catalogue=catalogue,
        item_vectors=vectors,
    )


class Clock:
    """Says which part is at work, and how long each took."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Time one part."""
        people.print(f"[dim]{name} …[/]")
        started = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - started


def _existing(settings: Settings, fingerprint: str) -> Path | None:
    """The newest whole bundle of that fingerprint."""
    for path in sorted(settings.bundles.glob("*/"), reverse=True):
        try:
            if bundles.read_manifest(path).fingerprint == fingerprint:
                return Bundle.load(path).path
        except BundleRefused:
            continue
    return None


def _train(
    model: TwoTowers, examples: Examples, catalogue: Catalogue, chosen: Plan, folder: Path
) -> list[float]:
    checkpoint = folder / "checkpoint.safetensors"
    config = chosen.recipe.loop
    fit = processes.from_first(
        partial(loop.train, model, examples, catalogue, config, checkpoint=checkpoint)
    )
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.3f}  {task.fields[speed]:,.0f} rows/s"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=people) as progress:
        task = progress.add_task(chosen.recipe.name, total=None, loss=0.0, speed=0.0)
        seen, started, smooth = 0, time.perf_counter(), None

        def show(step: loop.Step) -> None:
            nonlocal seen, smooth
            seen += step.lines
            smooth = step.loss if smooth is None else 0.98 * smooth + 0.02 * step.loss
            speed = seen / (time.perf_counter() - started)
            progress.update(task, total=step.of, completed=step.step, loss=smooth, speed=speed)
            # Logs have no bar: a line every tenth.
            tenth = step.step * 10 // step.of
            if not people.is_terminal and tenth > (step.step - 1) * 10 // step.of:
                people.print(f"step {step.step}/{step.of}  loss {smooth:.3f}  {speed:,.0f} rows/s")

        return fit(on_step=show)


@app.command()
def train(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="RECIPE",
            help=f"One of: {', '.join(RECIPES)}; see docs/models.",
            show_default="setting training.recipe",
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Train even if this was trained already.")
    ] = False,
    week: Annotated[
        str,
        typer.Option(
            help="Which week to judge, test or validation; only days before it are trained on."
        ),
    ] = "test",
    parent: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="BUNDLE",
            help="Go on from this bundle of the recipe, on the days since its training ended; "
            "live: from the one that serves.",
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            min=0, max=2**32, help="Of first weights, batches and draws; default: the recipe's."
        ),
    ] = None,
    changed: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="Another setting of the recipe, e.g. loop.epochs=2 or model.zero=false; "
            "repeatable.",
        ),
    ] = None,
    show_plan: Annotated[
        bool, typer.Option("--plan", help="Only show the days whose features are needed.")
    ] = False,
    as_json_: Annotated[bool, typer.Option("--json", help="The result as JSON.")] = False,
) -> None:
    """Train a recipe and write a bundle."""
    settings = settings_module.load()
    dataset = datasets.load(settings)
    given = [*(changed or ()), *([f"loop.seed={seed}"] if seed is not None else ())]
    named_recipe = recipe(name or settings.training.recipe)
    chosen = plan(overridden(named_recipe, given), dataset, week_of(week))
    chosen = replace(chosen, changed=tuple(given))
    if parent is not None:
        started_from = Bundle.load(registry.require(settings, _live(settings, parent)))
        chosen = parents.going_on(chosen, dataset, started_from)
        parent = started_from.name
    if show_plan:
        planned = {
            "recipe": chosen.recipe.name,
            "features_from": str(chosen.whole.first),
            "features_to": str(chosen.whole.last),
            "trained_from": str(chosen.train.first),
            "trained_to": str(chosen.train.last),
            "judged_from": str(chosen.judged.first),
            "feature_service": chosen.recipe.service,
            "parent": parent,
        }
        if as_json_:
            emit_json(planned)
        else:
            emit_table([planned])
        return
    with processes.joined():
        devices.chosen(settings)  # refused by each: the others wait for the first
        if processes.rank():
            processes.follow()
            return
        if parent is not None:
            days = f"{chosen.train.first} to {chosen.train.last}"
            people.print(f"from [bold]{parent}[/], on the days {days}")
        path, fresh = train_recipe(settings, chosen, force=force)
    manifest = bundles.read_manifest(path)
    result: dict[str, Any] = {
        "bundle": manifest.name,
        "path": str(path),
        "trained": fresh,
        "parent": manifest.parent,
        "metrics": [each.model_dump() for each in manifest.metrics],
        "counts": manifest.counts,
    }
    if as_json_:
        emit_json(result)
        return
    people.print(f"{'trained' if fresh else 'already trained:'} [bold]{manifest.name}[/]")
    people.print(f"queries: {manifest.dataset['query_protocol']}", markup=False)
    emit_table(table(first_rows(manifest.metrics)), title=f"{chosen.week} week")


def _live(settings: Settings, name: str) -> str:
    """The bundle that `live` means now, every other name as it is."""
    if name != "live":
        return name
    current = registry.current(settings)
    if current is None:
        raise NothingToDo(
            "no bundle is live to go on from",
            next_step="Train without --from first, then `pagoda index`.",
        )
    return current


if __name__ == "__main__":
    run(app)
