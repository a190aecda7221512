from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
import torch

from pagoda.models.catalogue import Catalogue
from pagoda.text import Tokenizer
from pagoda.windows import WindowSpec
from tests.training import toy
from training.data import Examples, prepare

MakeExamples = Callable[..., Examples]


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Tensors are tiny here: threads would only wait for each other."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    titles = toy.items()["title"].to_pylist()
    return Tokenizer.fit([*titles, *toy.SHELVES], buckets=20)


@pytest.fixture(scope="session")
def catalogue(tokenizer: Tokenizer) -> Catalogue:
    return Catalogue.build(toy.items(), tokenizer)


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
        )

    return make


@pytest.fixture(scope="session")
def examples(make_examples: MakeExamples) -> Examples:
    """48 baskets of 12 users, two or three lines each."""
    return make_examples(toy.baskets(48))
