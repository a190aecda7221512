from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl
import pytest
import torch

from jobs.batch.build import Days, build_all
from pagoda import store
from pagoda.models.catalogue import Catalogue
from pagoda.models.inputs import UserBatch
from pagoda.models.tables import Sizes
from pagoda.settings import Lake, Settings
from pagoda.text import Tokenizer
from pagoda.windows import WindowSpec
from tests.training import shop as shops
from tests.training import toy
from tests.training.small import whole
from training.data.batches import Examples, prepare
from training.data.lines import SHOWN_COLUMNS
from training.train import train_recipe

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

MakeExamples = Callable[..., Examples]
SHOWN = dict.fromkeys(SHOWN_COLUMNS, pl.Int64)


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Tensors are tiny here: threads would only wait for each other."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shop(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """An installation with six weeks of purchases, in a namespace of its own."""
    home = tmp_path_factory.mktemp("training")
    (home / "lake").symlink_to(settings.lake_folder)
    (home / "jars").symlink_to(settings.jars)
    made = settings.model_copy(update={"home": home, "lake": Lake(namespace="training")})
    shops.fill(made)
    return made


@pytest.fixture(scope="session")
def built(shop: Settings, spark: SparkSession) -> Settings:
    """The shop with the features that `smoke` needs, and Feast knowing them."""
    build_all(spark, shop, Days(first=shops.smoke(shop).whole.first, last=shops.LAST))
    store.apply(shop)
    return shop


@pytest.fixture(scope="session")
def trained(built: Settings, spark: SparkSession) -> Path:
    """The bundle of `smoke`."""
    path, fresh = train_recipe(built, shops.smoke(built), session=spark)
    assert fresh
    return path


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    titles = toy.items()["title"].to_pylist()
    return Tokenizer.fit([*titles, *toy.SHELVES], buckets=20)


@pytest.fixture(scope="session")
def catalogue(tokenizer: Tokenizer) -> Catalogue:
    return Catalogue.build(toy.items(), tokenizer)


@pytest.fixture(scope="session")
def sizes(catalogue: Catalogue, tokenizer: Tokenizer) -> Sizes:
    return Sizes.of(catalogue, tokenizer)


@pytest.fixture(scope="session")
def make_examples(
    tmp_path_factory: pytest.TempPathFactory, catalogue: Catalogue, tokenizer: Tokenizer
) -> MakeExamples:
    def make(baskets: list[toy.Basket]) -> Examples:
        return prepare(
            [toy.record_batch(baskets)],
            pl.DataFrame(toy.lines(baskets)),
            catalogue,
            tokenizer,
            spec=WindowSpec(queries=10),
            stats=(),
            folder=Path(tmp_path_factory.mktemp("examples")),
            not_taken=pl.DataFrame(toy.not_taken(baskets), schema=SHOWN),
        )

    return make


@pytest.fixture(scope="session")
def examples(make_examples: MakeExamples) -> Examples:
    """48 baskets of 12 users, two or three lines each."""
    return make_examples(toy.baskets(48))


@pytest.fixture
def batch(examples: Examples, catalogue: Catalogue) -> UserBatch:
    """All of them."""
    return whole(examples, catalogue)
