"""Recipes: functions that return a whole typed configuration.

`demo` and `alpha_dnn` are for real data on two cores; `smoke` only shows that everything runs.
Choices were made on the validation week (`pagoda train RECIPE --week validation`); what was tried
is in docs/models.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from pagoda.errors import InputError
from pagoda.features import SEQUENCES_STATS_V1, SEQUENCES_V1
from pagoda.models.alpha_dnn import AlphaDnnConfig
from pagoda.models.mgdspr import MgdsprConfig
from pagoda.models.towers import Config
from pagoda.windows import WindowSpec
from training.loop import LoopConfig


@dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    """How the vocabulary is fitted on queries and titles of the training days."""

    min_count: int = 2
    buckets: int = 1_000


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All that decides on a model, beside the data.

    Attributes:
        service: the feature service that the user tower reads.
        train_days: days before the judged week that rows are taken from.
        windows: how sequences are cut, in training and in serving.
    """

    name: str
    model: Config
    service: str
    train_days: int
    windows: WindowSpec = field(default_factory=lambda: WindowSpec(queries=10))
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)

    def __post_init__(self) -> None:
        if self.train_days < 1:
            raise ValueError("train_days must be at least 1")


def demo() -> Recipe:
    """MGDSPR on twelve weeks, one epoch: a few minutes on two cores."""
    return Recipe(name="demo", model=MgdsprConfig(), service=SEQUENCES_V1.name, train_days=84)


def alpha_dnn() -> Recipe:
    """The paper's baseline on the same weeks."""
    return Recipe(
        name="alpha_dnn", model=AlphaDnnConfig(), service=SEQUENCES_STATS_V1.name, train_days=84
    )


def next_item() -> Recipe:
    """MGDSPR without queries: the item clicked last stands in for one."""
    return Recipe(
        name="next_item",
        model=MgdsprConfig(query="last_item"),
        service=SEQUENCES_V1.name,
        train_days=84,
        # Titles that are ids stand in one item each.
        tokenizer=TokenizerConfig(min_count=1),
    )


def smoke() -> Recipe:
    """A tiny MGDSPR on two weeks: seconds; its results mean nothing."""
    return Recipe(
        name="smoke",
        model=MgdsprConfig(width=16, attribute_width=8, heads=2),
        service=SEQUENCES_V1.name,
        train_days=14,
        tokenizer=TokenizerConfig(buckets=100),
        loop=LoopConfig(requests_per_batch=32),
    )


RECIPES: dict[str, Callable[[], Recipe]] = {
    recipe.__name__: recipe for recipe in (demo, alpha_dnn, next_item, smoke)
}


def recipe(name: str) -> Recipe:
    """The recipe of that name. Raises: InputError with the names there are."""
    if name not in RECIPES:
        raise InputError(
            f"no recipe {name!r}",
            expected=f"one of {', '.join(RECIPES)}",
            next_step="See docs/models.",
        )
    return RECIPES[name]()
