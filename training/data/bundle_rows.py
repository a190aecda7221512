"""A bundle that is there already and rows for it, fetched anew: to judge it, or to add to it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from pagoda import dataset as datasets
from pagoda import registry
from pagoda.bundle import Bundle
from pagoda.console import people
from pagoda.dataset import Dataset
from pagoda.errors import InputError
from pagoda.features import USER_STATS
from pagoda.forgotten import copying
from pagoda.settings import Settings
from training.data import rows
from training.data.batches import Examples, prepare
from training.data.lines import Span

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


def bundle_of(settings: Settings, name: str | None) -> Bundle:
    """The bundle of that name, or the newest.

    Raises: NothingToDo without any; InputError if there is none of that name; BundleRefused.
    """
    return Bundle.load(registry.require(settings, name or registry.latest(settings)))


def dataset_of(settings: Settings, bundle: Bundle) -> Dataset:
    """The data set that is there. Raises: InputError if the bundle was trained on another one."""
    dataset = datasets.load(settings)
    trained_on = bundle.manifest.dataset
    now = dataset.model_dump(mode="json")
    if now | trained_on != now:
        raise InputError(
            "this bundle was trained on another data set",
            where=bundle.name,
            expected=str(trained_on.get("fingerprint")),
            found=dataset.fingerprint,
            next_step="Train again: the week to judge on may have been trained on.",
        )
    return dataset


@contextmanager
def examples_of(
    settings: Settings,
    bundle: Bundle,
    lines: pl.DataFrame,
    span: Span,
    *,
    not_taken: pl.DataFrame | None = None,
    session: SparkSession | None = None,
) -> Iterator[Examples]:
    """These days' lines with their rows as Feast has them now, in the bundle's own numbers.

    They lie in files that go when the block ends.

    Args:
        lines, not_taken: as `training.data.batches.prepare` takes them.
        session: a Spark session to use for Feast's join, else one is started for it.

    Raises: InputError if features of these days were not built.
    """
    rows.require_built(settings, bundle.service, span, bundle.manifest.windows)
    people.print("[dim]features from Feast …[/]")
    with copying(settings), tempfile.TemporaryDirectory(dir=settings.scratch) as folder:
        requests = lines.select("user_key", "t_ms").unique().sort("t_ms", "user_key")
        fetched = rows.fetch(settings, bundle.service, requests, Path(folder), session=session)
        yield prepare(
            rows.read(fetched, lines),
            lines,
            bundle.catalogue,
            bundle.tokenizer,
            spec=bundle.manifest.windows,
            stats=bundle.service.columns_of(USER_STATS),
            folder=Path(folder) / "encoded",
            not_taken=not_taken,
        )
