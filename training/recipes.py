"""Recipes: functions that return a whole typed configuration.

All are for real data on two cores, but `smoke`, which only shows that everything runs. Choices for
`demo` and `alpha_dnn` were made on the validation week (`pagoda train RECIPE --week validation`);
what was tried is in docs/models. The others follow their papers, but for what their pages say.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from pagoda.errors import InputError
from pagoda.features import SEQUENCES_OWNED_V1, SEQUENCES_STATS_V1, SEQUENCES_V1
from pagoda.models.alpha_dnn import AlphaDnnConfig
from pagoda.models.dssm import DssmConfig
from pagoda.models.mgdspr import MgdsprConfig
from pagoda.models.mgdspr_repeats import MgdsprRepeatsConfig
from pagoda.models.sasrec import SasrecConfig
from pagoda.models.tables import Schemes
from pagoda.models.towers import Config
from pagoda.models.youtube_dnn import YoutubeDnnConfig
from pagoda.models.youtube_two_tower import YoutubeTwoTowerConfig
from pagoda.models.zam import ZamConfig
from pagoda.text import Segmentation
from pagoda.windows import WindowSpec
from training.frequency import FrequencyConfig
from training.loop_config import Finish, LoopConfig, Rewards
from training.negatives import Negatives
from training.optimisers import AdagradConfig

# Papers with a few negatives a line: here one set for all lines of a batch.
UNIFORM = Negatives(batch=False, uniform=1024)


@dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    """How the vocabulary is fitted on queries and titles of the training days."""

    segmentation: Segmentation = "jieba"
    min_count: int = 2
    buckets: int = 1_000

    def __post_init__(self) -> None:
        if min(self.min_count, self.buckets) < 1:
            raise ValueError("min_count and buckets must be at least 1")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All that decides on a model, beside the data.

    Attributes:
        service: the feature service that the user tower reads.
        train_days: days before the judged week that rows are taken from.
        windows: how sequences are cut, in training and in serving.
        schemes: how items and attribute values are embedded.
    """

    name: str
    model: Config
    service: str
    train_days: int
    windows: WindowSpec = field(default_factory=lambda: WindowSpec(queries=10))
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    schemes: Schemes = field(default_factory=Schemes)
    loop: LoopConfig = field(default_factory=LoopConfig)

    def __post_init__(self) -> None:
        if not 1 <= self.train_days <= 36_525:
            raise ValueError("train_days must be at least 1 and at most a century")


def demo() -> Recipe:
    """MGDSPR on twelve weeks, one epoch and a finish: a few minutes on two cores."""
    return Recipe(
        name="demo",
        model=MgdsprConfig(),
        service=SEQUENCES_V1.name,
        train_days=84,
        # What drawn items and the finish add: docs/models, "Choices".
        loop=LoopConfig(negatives=Negatives(uniform=1024), finish=Finish(days=28)),
    )


def alpha_dnn() -> Recipe:
    """The paper's baseline on the same weeks, trained alike."""
    return Recipe(
        name="alpha_dnn",
        model=AlphaDnnConfig(),
        service=SEQUENCES_STATS_V1.name,
        train_days=84,
        loop=demo().loop,
    )


def mgdspr_year() -> Recipe:
    """MGDSPR on fifty weeks, two epochs and the last twelve weeks once more."""
    base = demo()
    loop = replace(base.loop, epochs=2, finish=Finish(days=84))
    return replace(base, name="mgdspr_year", train_days=350, loop=loop)


def mgdspr_repeats() -> Recipe:
    """MGDSPR with a memory of what the user had within a year: our addition, not the paper's."""
    return Recipe(
        name="mgdspr_repeats",
        model=MgdsprRepeatsConfig(),
        service=SEQUENCES_OWNED_V1.name,
        train_days=84,
        loop=demo().loop,
    )


def mgdspr_repeats_year() -> Recipe:
    """The same as `mgdspr_year` is trained."""
    return replace(
        mgdspr_year(),
        name="mgdspr_repeats_year",
        model=MgdsprRepeatsConfig(),
        service=SEQUENCES_OWNED_V1.name,
    )


def alpha_dnn_year() -> Recipe:
    """The paper's baseline on the same fifty weeks, trained alike."""
    loop = mgdspr_year().loop
    return replace(alpha_dnn(), name="alpha_dnn_year", train_days=350, loop=loop)


def youtube_two_tower() -> Recipe:
    """Cosine towers that follow the days, with log q estimated from the stream."""
    return Recipe(
        name="youtube_two_tower",
        model=YoutubeTwoTowerConfig(),
        service=SEQUENCES_V1.name,
        train_days=84,
        loop=LoopConfig(
            order="stream",
            temperature=0.05,
            negatives=Negatives(uniform=1024),
            frequency=FrequencyConfig(rate=0.05),  # some 280 steps: .01 would hardly have begun
            rewards=Rewards(),
            # At .01, as elsewhere, R@10 is a quarter less, and another for each seed.
            optimiser=AdagradConfig(dense_lr=0.003),
        ),
    )


def youtube_dnn() -> Recipe:
    """Mean of query and clicks through a DNN; two epochs, to compare with `cbns`."""
    return Recipe(
        name="youtube_dnn",
        model=YoutubeDnnConfig(),
        service=SEQUENCES_V1.name,
        train_days=84,
        loop=LoopConfig(epochs=2, temperature=1.0),
    )


def cbns() -> Recipe:
    """YouTube DNN with the items of four batches before as negatives, after some 280 steps."""
    base = youtube_dnn()
    remembering = Negatives(memory=4, memory_after=280)  # about an epoch of the twelve weeks
    return replace(base, name="cbns", loop=replace(base.loop, negatives=remembering))


def dssm() -> Recipe:
    """Letters of query and title, nothing of the user."""
    return Recipe(
        name="dssm",
        model=DssmConfig(),
        service=SEQUENCES_V1.name,
        train_days=84,
        loop=LoopConfig(temperature=0.1, negatives=UNIFORM, log_q="off"),
    )


def zam() -> Recipe:
    """The query and the purchases that it attends to."""
    return Recipe(
        name="zam",
        model=ZamConfig(),
        service=SEQUENCES_V1.name,
        train_days=84,
        loop=LoopConfig(temperature=1.0, negatives=UNIFORM, log_q="off"),
    )


def next_item() -> Recipe:
    """MGDSPR without queries: the item clicked last stands in for one.

    Choices on the validation lines of Amazon's video games: docs/models, "Each user's last item".
    """
    return Recipe(
        name="next_item",
        model=MgdsprConfig(query="last_item", embedding_dropout=0.5),
        service=SEQUENCES_V1.name,
        train_days=84,
        # Fifty clicks in all, as SASRec has them: an LSTM over the newest, attention over the rest.
        windows=WindowSpec(real_time=20, short_term=30, queries=10),
        # Titles that are ids stand in one item each.
        tokenizer=TokenizerConfig(min_count=1),
        loop=LoopConfig(
            epochs=8,  # with a dropout of .3 validation stands still from the fourth
            requests_per_batch=512,  # a request is one line here, not a basket
            negatives=Negatives(uniform=1024),
            # NDCG@10 among 100 after two epochs is .507 so, and .476 at .01 (item dropout .3).
            optimiser=AdagradConfig(dense_lr=0.03),
        ),
    )


def sasrec() -> Recipe:
    """SASRec: what a user's clicks say, the last of which asks; no query is read.

    Choices on the validation lines of Amazon's video games: docs/models, "Each user's last item".
    """
    return Recipe(
        name="sasrec",
        # After four epochs NDCG@10 among 100 is .539 so, and .529 causal.
        model=SasrecConfig(causal=False),
        service=SEQUENCES_V1.name,
        train_days=84,
        windows=WindowSpec(real_time=50, short_term=0, long_term=50, queries=0),
        loop=LoopConfig(
            epochs=14,
            requests_per_batch=512,  # a request is one line here, not a basket
            negatives=Negatives(uniform=1024),
            temperature=1.0,
            optimiser=AdagradConfig(embedding_lr=0.05),
        ),
    )


def jdsearch() -> Recipe:
    """MGDSPR on a year of JDsearch: terms are numbers, so their letters say nothing."""
    return Recipe(
        name="jdsearch",
        model=MgdsprConfig(drop_rows=("gram_1",)),
        service=SEQUENCES_V1.name,
        train_days=365,
        tokenizer=TokenizerConfig(segmentation="characters"),
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
    recipe.__name__: recipe
    for recipe in (
        demo,
        alpha_dnn,
        mgdspr_year,
        alpha_dnn_year,
        mgdspr_repeats,
        mgdspr_repeats_year,
        youtube_two_tower,
        youtube_dnn,
        cbns,
        dssm,
        zam,
        next_item,
        sasrec,
        jdsearch,
        smoke,
    )
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


def seeded(recipe: Recipe, seed: int) -> Recipe:
    """The same with other weights to begin with, another order of batches, other draws."""
    return replace(recipe, loop=replace(recipe.loop, seed=seed))
