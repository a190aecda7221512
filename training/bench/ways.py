"""What `pagoda bench train` lets run: an epoch of a model on made-up rows, one thread, in a way.

    python -m training.bench.ways WAY MODEL ...

    pagoda    `training.loop`, as it is
    plain     the same loop, model and batches, but nothing is shared: each line's behaviour, query
              and items are gathered and encoded anew, and gradients of tables are dense

Lists are as long as those of the demo's households, and a request has as many lines. `sasrec`
is trained on the interactions that another project can read (`training.bench.sequences`), each a
request of its own. Without dropout both compute the same: their losses are equal, step by step.

Shape legend: B lines, U requests, T events of a sequence.
"""

from __future__ import annotations

import cProfile
import inspect
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal
from unittest import mock

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
import typer
from torch import Tensor, nn

from pagoda.console import run
from pagoda.models.alpha_dnn import AlphaDnn, AlphaDnnConfig
from pagoda.models.base import TwoTowers
from pagoda.models.behaviour import Behaviour, Owned, stats_width
from pagoda.models.catalogue import ATTRIBUTES, FIELDS, SCHEMA, Catalogue
from pagoda.models.inputs import Bags, ItemBatch, Padded, TextBatch, UserBatch
from pagoda.models.mgdspr import Mgdspr, MgdsprConfig
from pagoda.models.parts import ClsFusion, attend
from pagoda.models.ragged import Ragged
from pagoda.models.sasrec import Block, SasrecConfig
from pagoda.models.tables import ItemTower, Sizes
from pagoda.models.towers import Config
from pagoda.schemas import ACTIONS
from pagoda.text import Tokenizer
from pagoda.watch import measured
from pagoda.windows import LONG_TERM_ACTIONS
from training import losses, optimisers
from training.bench import sequences
from training.bench.sequences import Samples
from training.data.batches import Batch, Examples, batches
from training.loop import train
from training.loop_config import LoopConfig, Precision
from training.optimisers import AdagradConfig

Way = Literal["pagoda", "plain"]
Kind = Literal["mgdspr", "alpha_dnn", "sasrec"]
LINES = 10  # of a request; the demo's have 9.5
_T0 = 1_790_000_000_000
_WORDS, _QUERIES, _QUERY_WORDS, _TITLE_WORDS = 5_000, 2_000, 3, 6
_VALUES = {"leaf": 300, "first": 30, "brand": 2_000, "shop": 1}
# Mean and most events of a sequence, as the demo's households have them.
_EVENTS = {"real_time": (40, 50), "short_term": (30, 100), "click": (60, 100), "buy": (60, 100)}
_PAST_QUERIES, STATS = 10, 7
# Whose time is a part's: `lstm` is within `sequences`, `attention` within these and `query`,
# `gather` within both towers. Not the loader: a profiler would count its many small calls dear.
PARTS: Mapping[str, Callable[..., Any]] = {
    "gather": ItemTower.embed,
    "user": AlphaDnn.encode_user,
    "query": Mgdspr.query_rows,
    "sequences": Mgdspr._attend_sequence,
    "lstm": nn.LSTM.forward,
    "attention": attend,
    "long term": Mgdspr._attend_long_term,
    "fusion": ClsFusion.forward,
    "blocks": Block.forward,
    "items": ItemTower.forward,
    "softmax": losses.sampled_softmax,
    "backward": Tensor.backward,
    "clip": optimisers.clip_gradients,
    "optimiser": inspect.unwrap(torch.optim.Adagrad.step),
}

app = typer.Typer(add_completion=False)


@app.command()
def main(
    way: Annotated[Way, typer.Argument()],
    kind: Annotated[Kind, typer.Argument()],
    width: Annotated[int, typer.Option()] = 64,
    lines_per_batch: Annotated[int, typer.Option()] = 1_024,
    steps: Annotated[int, typer.Option()] = 20,
    items: Annotated[int, typer.Option()] = 70_000,
    seed: Annotated[int, typer.Option()] = 0,
    folder: Annotated[
        Path | None, typer.Option(help="Interactions to train on, for sasrec.")
    ] = None,
    profile: Annotated[bool, typer.Option("--profile")] = False,
) -> None:
    """One epoch, on one thread; its losses, or which share each part has, beside what it took."""
    torch.set_num_threads(1)
    beside: dict[str, str] = {}
    if folder:
        requests = lines_per_batch
        made, rows = interactions(sequences.read(folder))
        beside["rows"] = digest(rows)
    else:
        requests = max(lines_per_batch // LINES, 1)
        made = catalogue(items, seed=seed)
        rows = examples(made, requests=requests * steps, seed=seed)
    model = built(kind, made, width=width, seed=seed)
    if way == "plain":
        model = Plain(model)
    loop = loop_of(requests, seed=seed)
    train(model, first(rows, requests), made, loop)  # what is loaded and allocated only once
    spent: list[float] = []
    parts: dict[str, float] = {}
    profiler = cProfile.Profile() if profile else None
    loading: list[float] = []
    with (
        measured(losses=spent, parts=parts, loading=loading, samples=rows.lines, **beside),
        mock.patch("training.loop.batches", timed(loading)),
    ):
        if profiler:
            profiler.enable()
        spent += train(model, rows, made, loop)
        if profiler:
            profiler.disable()
            parts |= shares(profiler)
    assert len(loading) == len(spent), "a batch came by another way"


def timed(
    seconds: list[float], clock: Callable[[], float] = time.process_time
) -> Callable[..., Iterator[Batch]]:
    """`training.data.batches` with a clock: the time of each batch, titles asked for included.

    It takes its place while the bench runs: the loop itself has no reason to time anything.
    """

    def asked(gather: Callable[[], Tensor]) -> Tensor:
        began = clock()
        gathered = gather()
        seconds[-1] += clock() - began
        return gathered

    def with_clock(items: ItemBatch) -> ItemBatch:
        uncompiled = torch.compiler.disable(asked)  # type: ignore[no-untyped-call]
        return replace(items, title_words=partial(uncompiled, items.title_words))

    def clocked(*given: Any, **named: Any) -> Iterator[Batch]:
        coming = batches(*given, **named)
        began = clock()
        for batch in coming:
            seconds.append(clock() - began)
            user = replace(batch.user, items=with_clock(batch.user.items))
            yield replace(batch, items=with_clock(batch.items), user=user)
            began = clock()

    return clocked


def shares(profiler: cProfile.Profile) -> dict[str, float]:
    """The share of all time that was spent under each part's function; parts that ran only."""
    entries = profiler.getstats()
    total = sum(each.inlinetime for each in entries)
    spent = {each.code: each.totaltime for each in entries}
    return {
        name: round(spent[function.__code__] / total, 4)
        for name, function in PARTS.items()
        if function.__code__ in spent
    }


def config(kind: Kind, width: int) -> Config:
    """The recipes' models at that width, without dropout: both ways compute the same."""
    match kind:
        case "mgdspr":
            return MgdsprConfig(width=width, dropout=0.0)
        case "sasrec":
            return SasrecConfig(width=width, dropout=0.0)
        case "alpha_dnn":
            return AlphaDnnConfig(width=width)


def built(kind: Kind, made: Catalogue, *, width: int, seed: int) -> TwoTowers:
    """Such a model of these items, new."""
    torch.manual_seed(seed)
    return config(kind, width).build(Sizes.of(made, made.tokenizer, stats=["s"] * STATS))


def loop_of(requests: int, *, seed: int, precision: Precision = "fp32") -> LoopConfig:
    """One epoch of batches of so many requests.

    Whole steps blow alpha-DNN up on made-up rows: then sums in another order give other losses.
    """
    return LoopConfig(
        requests_per_batch=requests,
        seed=seed,
        precision=precision,
        optimiser=AdagradConfig(dense_lr=0.001),
    )


class Plain(TwoTowers):
    """Another model's towers, nothing shared between lines, with dense gradients."""

    def __init__(self, inner: TwoTowers) -> None:
        super().__init__()
        self.inner = inner
        for each in inner.modules():
            if isinstance(each, nn.Embedding):
                each.sparse = False

    def encode_user(self, batch: UserBatch) -> Tensor:
        """As the model does, of a batch in which every line stands alone."""
        return self.inner.encode_user(alone(batch))

    def encode_item(self, items: ItemBatch) -> Tensor:
        """As the model does."""
        return self.inner.encode_item(items)


def alone(batch: UserBatch) -> UserBatch:
    """The same lines, each with a request, a text and items of its own."""
    request_B = batch.request_B
    lines = torch.arange(len(request_B))
    padded = [
        _of_lines(each, request_B) for each in (batch.real_time, batch.short_term, batch.owned)
    ]
    bags = {action: _bags_of_lines(each, request_B) for action, each in batch.long_term.items()}
    places = [each.at_UT.flatten() for each in padded] + [each.at for each in bags.values()]
    # Place 0 stays that of the unknown item.
    ends = (1 + np.cumsum([0] + [len(each) for each in places])).tolist()
    own = [torch.arange(start, end) for start, end in pairwise(ends)]
    real_time, short_term, owned = (
        Padded(at_UT=at.view_as(each.at_UT), mask_UT=each.mask_UT)
        for at, each in zip(own, padded, strict=False)
    )
    queries = _of_lines(batch.queries, request_B)
    asked = queries.at_UT.flatten()
    texts = batch.texts
    return UserBatch(
        items=batch.items.take(torch.cat([torch.zeros(1, dtype=torch.int64), *places])),
        texts=TextBatch(
            words_XN=texts.words_XN[batch.text_B],
            bigrams_XN=texts.bigrams_XN[batch.text_B],
            trigrams_XN=texts.trigrams_XN[batch.text_B],
        ),
        past_words_YN=batch.past_words_YN[asked],
        request_B=lines,
        text_B=lines,
        real_time=real_time,
        short_term=short_term,
        long_term={
            action: Bags(at=at, starts_U=each.starts_U)
            for (action, each), at in zip(bags.items(), own[3:], strict=True)
        },
        queries=Padded(
            at_UT=torch.arange(len(asked)).view_as(queries.at_UT), mask_UT=queries.mask_UT
        ),
        owned=owned,
        owned_times_UJ=batch.owned_times_UJ[request_B],
        owned_age_days_UJ=batch.owned_age_days_UJ[request_B],
        stats_UF=batch.stats_UF[request_B],
        real_time_age_s_UT=batch.real_time_age_s_UT[request_B],
    )


def _of_lines(rows: Padded, request_B: Tensor) -> Padded:
    return Padded(at_UT=rows.at_UT[request_B], mask_UT=rows.mask_UT[request_B])


def _bags_of_lines(bags: Bags, request_B: Tensor) -> Bags:
    rows = Ragged.from_lengths(bags.at.numpy(), bags.lengths.numpy()).take(request_B.numpy())
    return Bags(at=torch.from_numpy(rows.values), starts_U=torch.from_numpy(rows.offsets[:-1]))


# Rows -------------------------------------------------------------------------------------------


def catalogue(items: int, *, seed: int) -> Catalogue:
    """So many made-up items: six words, a value of each attribute, no other field."""
    dice = np.random.default_rng([seed, 0])
    tokenizer = Tokenizer.fit([f"w{number}" for number in range(_WORDS)], buckets=100)
    first_word = tokenizer.words.size - _WORDS
    words = dice.integers(first_word, tokenizer.words.size, items * _TITLE_WORDS, np.int32)
    offsets = np.arange(0, len(words) + 1, _TITLE_WORDS).astype(np.int32)
    numbers = {
        f"{name}_number": dice.integers(1, count + 1, items, np.int32)
        for name, count in _VALUES.items()
    }
    known = {
        "item_key": pa.array(np.arange(1, items + 1)),
        "item_id": pa.array(np.arange(1, items + 1)).cast(pa.string()),
        "title_words": pa.ListArray.from_arrays(pa.array(offsets), pa.array(words)),
        **{name: pa.array(each) for name, each in numbers.items()},
    }
    columns = [
        known[field.name].cast(field.type) if field.name in known else pa.nulls(items, field.type)
        for field in SCHEMA
    ]
    assert set(_VALUES) == set(ATTRIBUTES)
    return Catalogue(pa.Table.from_arrays(columns, schema=SCHEMA), tokenizer)


def examples(made: Catalogue, *, requests: int, seed: int) -> Examples:
    """So many requests of LINES lines each; popular items come more often, by Zipf's law."""
    dice = np.random.default_rng([seed, 1])
    pool = len(made)

    def drawn(count: int) -> npt.NDArray[np.int32]:
        return np.asarray(pool ** dice.random(count), np.int32)  # the n-th as often as 1/n

    def sequence(name: str) -> Ragged:
        mean, most = _EVENTS.get(name, (0, 0))
        lengths = np.minimum(dice.poisson(mean, requests), most)
        return Ragged.from_lengths(drawn(int(lengths.sum())), lengths)

    real_time = sequence("real_time")
    words = [f"w{dice.integers(_WORDS)}" for _ in range(_QUERIES * _QUERY_WORDS)]
    queries = [" ".join(words[at::_QUERIES]) for at in range(_QUERIES)]
    lines = requests * LINES
    item_B = drawn(lines)
    return Examples(
        behaviour=Behaviour(
            real_time=real_time,
            real_time_age_s=Ragged.from_lengths(
                dice.integers(1, 10**6, len(real_time.values)), real_time.lengths
            ),
            short_term=sequence("short_term"),
            long_term={action: sequence(action) for action in LONG_TERM_ACTIONS},
            queries=Ragged.from_lengths(
                dice.integers(_QUERIES, size=requests * _PAST_QUERIES, dtype=np.int32),
                np.full(requests, _PAST_QUERIES),
            ),
            owned=Owned.nothing(requests),
            stats_UF=dice.random((requests, stats_width(["s"] * STATS))).astype(np.float32),
        ),
        texts=made.tokenizer.encode(queries),
        text_list=queries,
        user_key_U=np.arange(requests),
        t_ms_U=np.full(requests, _T0),
        request_B=np.repeat(np.arange(requests, dtype=np.int32), LINES),
        text_B=dice.integers(_QUERIES, size=lines, dtype=np.int32),
        item_B=item_B,
        item_key_B=made.keys[item_B - 1],
        action_B=np.full(lines, ACTIONS.index("buy")),
        impressed=Ragged.from_lengths(np.empty(0, np.int32), np.zeros(requests, np.int64)),
    )


def interactions(read: Samples) -> tuple[Catalogue, Examples]:
    """Items and requests as an import without a catalogue has them: ids for titles, no queries."""
    keys = pa.array(np.arange(1, read.items + 1))
    known = {"item_key": keys, "item_id": keys.cast(pa.string()), "title": keys.cast(pa.string())}
    columns = [known.get(field.name, pa.nulls(read.items, field.type)) for field in FIELDS]
    items = pa.Table.from_arrays(columns, schema=FIELDS)
    made = Catalogue.build(items, Tokenizer.fit(items["title"].to_pylist()))
    samples = len(read.taken_S)
    own = np.arange(samples, dtype=np.int32)
    item_E = read.item_E.astype(np.int32)
    lengths = read.taken_S - read.start_S
    ends = np.cumsum(lengths)
    ages_s = np.repeat(ends, lengths) - np.arange(lengths.sum())  # an event a second
    none = Ragged.from_lengths(np.empty(0, np.int32), np.zeros(samples, np.int64))
    return made, Examples(
        behaviour=Behaviour(
            real_time=Ragged.from_lengths(
                item_E[np.repeat(read.taken_S, lengths) - ages_s], lengths
            ),
            real_time_age_s=Ragged.from_lengths(ages_s, lengths),
            short_term=none,
            long_term=dict.fromkeys(LONG_TERM_ACTIONS, none),
            queries=none,
            owned=Owned.nothing(samples),
            stats_UF=np.zeros((samples, stats_width(["s"] * STATS)), np.float32),
        ),
        texts=made.tokenizer.encode([""]),
        text_list=[""],
        user_key_U=own.astype(np.int64),
        t_ms_U=np.full(samples, _T0),
        request_B=own,
        text_B=np.zeros(samples, np.int32),
        item_B=item_E[read.taken_S],
        item_key_B=made.keys[item_E[read.taken_S] - 1],
        action_B=np.full(samples, ACTIONS.index("click")),
        impressed=none,
    )


def digest(rows: Examples) -> str:
    """Of what is trained on: each item taken, and the items before it."""
    before, _ = rows.behaviour.real_time.padded(at_least=sequences.MOST)
    return sequences.digest(before, rows.item_B)


def first(rows: Examples, requests: int) -> Examples:
    """The first requests with their lines."""
    lines = slice(0, int(rows.request_B.searchsorted(requests)))
    return replace(
        rows,
        behaviour=rows.behaviour.take(np.arange(requests)),
        user_key_U=rows.user_key_U[:requests],
        t_ms_U=rows.t_ms_U[:requests],
        request_B=rows.request_B[lines],
        text_B=rows.text_B[lines],
        item_B=rows.item_B[lines],
        item_key_B=rows.item_key_B[lines],
        action_B=rows.action_B[lines],
        impressed=rows.impressed.take(np.arange(requests)),
    )


if __name__ == "__main__":
    run(app)
