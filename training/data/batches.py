"""Rows as Feast gave them to batches: cut and encoded once, then gathered from mapped files.

Rows stream in by record batch, are cut at their moment (`pagoda.models.behaviour`, the function
that serves) and kept as a few integers each, appended to flat files that batches map: memory does
not grow with the number of rows.

Shape legend: B lines, U requests, P distinct items taken or drawn in a batch, M items of the batch,
K hard negatives of a line.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import torch
from torch import Tensor

from pagoda.models.behaviour import Behaviour, Owned, TextNumbers, encode
from pagoda.models.catalogue import Catalogue
from pagoda.models.inputs import ItemBatch, UserBatch, item_batch, user_batch
from pagoda.models.ragged import Ragged
from pagoda.schemas import ACTIONS
from pagoda.text import Texts, Tokenizer
from pagoda.windows import DAY_MS, LONG_TERM_ACTIONS, WindowSpec
from training import processes
from training.negatives import (
    Chances,
    Negatives,
    Numbers,
    draw,
    draw_for_each,
    draw_of_each,
    log_batch_missed,
    once_each,
    taken_by,
)

SEPARATOR = "__"  # between view and column, as Feast's full feature names have it
IN_BATCH = Negatives()
Order = Literal["shuffled", "stream"]
Requests = npt.NDArray[np.int64]
_INT32S = npt.NDArray[np.int32]


@dataclass(frozen=True, kw_only=True)
class Examples:
    """U requests and their lines.

    Attributes:
        behaviour: of the requests.
        texts, text_list: every query there is, tokenised and as text.
        user_key_U, t_ms_U: whose request, and its moment.
        request_B, text_B, item_B: each line's request, query and taken item, ascending by request;
            an item is its number in the catalogue, 0 if that lacks it: what is trained on has none.
        item_key_B: the same item by key.
        action_B: the strongest action on each line's item, a place in `ACTIONS`.
        impressed: items (numbers) that each request was shown and has not taken, if they were
            asked for.
    """

    behaviour: Behaviour
    texts: Texts
    text_list: list[str]
    user_key_U: npt.NDArray[np.int64]
    t_ms_U: npt.NDArray[np.int64]
    request_B: _INT32S
    text_B: _INT32S
    item_B: _INT32S
    item_key_B: npt.NDArray[np.int64]
    action_B: npt.NDArray[np.int64]
    impressed: Ragged

    @property
    def requests(self) -> int:
        """U."""
        return len(self.behaviour)

    @property
    def lines(self) -> int:
        """B."""
        return len(self.request_B)

    @cached_property
    def queries(self) -> list[str]:
        """Each line's query."""
        return [self.text_list[number] for number in self.text_B]

    def lines_of(self, requests: npt.NDArray[np.integer]) -> tuple[Any, Any]:
        """(place of its request in `requests`, line) of every line of these requests."""
        starts = self.request_B.searchsorted(requests, side="left")
        lengths = self.request_B.searchsorted(requests, side="right") - starts
        place_B = np.repeat(np.arange(len(requests)), lengths)
        within_B = np.arange(len(place_B)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        return place_B, starts[place_B] + within_B

    def latest(self, days: int) -> Requests:
        """The numbers of the requests of the last so many UTC days."""
        first_ms = (int(self.t_ms_U.max()) // DAY_MS + 1 - days) * DAY_MS
        return np.flatnonzero(self.t_ms_U >= first_ms)

    def user_batch(
        self, requests: Numbers, lines: Numbers, catalogue: Catalogue, *, request_B: Numbers
    ) -> UserBatch:
        """Some requests and lines of theirs as the user tower takes them.

        Args:
            request_B: each line's place in `requests`.
        """
        return user_batch(
            self.behaviour.take(requests),
            catalogue,
            self.texts,
            request_B=request_B,
            text_B=self.text_B[lines],
        )


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One step's input.

    Attributes:
        user: the lines and their requests; only those of this process's part, if there are several
            (`training.processes`).
        items: M distinct items: first the P that were taken or drawn, then those that are only
            somebody's hard negatives.
        positive_B: each line's item among the P. action_B: what was done to it, in `ACTIONS`.
        excluded_BP: items that are no negatives of a line: those of its own request, and what
            others have taken where only drawn ones count.
        hard_BK: each line's own negatives among the M, hard or drawn for it; -1 for none.
        number: the batch's number in its epoch.
    """

    user: UserBatch
    items: ItemBatch
    positive_B: Tensor
    action_B: Tensor
    excluded_BP: Tensor
    hard_BK: Tensor
    number: int

    @property
    def columns(self) -> int:
        """P."""
        return self.excluded_BP.shape[1]


def batches(
    examples: Examples,
    catalogue: Catalogue,
    *,
    requests_per_batch: int,
    seed: int,
    epoch: int,
    first: int = 0,
    negatives: Negatives = IN_BATCH,
    mined_LK: Numbers | None = None,
    order: Order = "shuffled",
    among: Requests | None = None,
) -> Iterator[Batch]:
    """One epoch in the order that (seed, epoch) gives, from batch number `first` on.

    Order "stream" keeps the days behind each other and shuffles within a UTC day only.
    What is over, a smaller batch, is left out: its chances of holding an item would be others. In
    the stream's order it is of the oldest day, so that the newest are learned.

    Args:
        mined_LK: hard negatives found for each of the examples' lines, numbers, 0 for none.
        among: the requests that are gone through; None: all.
    """
    count = examples.requests if among is None else len(among)
    size = batch_size(count, requests_per_batch)
    places: Requests = np.random.default_rng([seed, epoch]).permutation(count)
    if among is not None:
        places = among[places]
    if order == "stream":
        places = places[np.argsort(examples.t_ms_U[places] // DAY_MS, kind="stable")][
            count % size :
        ]
    for number in range(first, steps_per_epoch(count, requests_per_batch)):
        chosen = np.sort(places[number * size : (number + 1) * size])
        yield _batch(examples, catalogue, chosen, negatives, mined_LK, seed=(seed, epoch, number))


def batch_size(requests: int, requests_per_batch: int) -> int:
    """Requests in a batch: as many as wanted, or all there are. Raises: ValueError for none."""
    if not requests:
        raise ValueError("there are no requests to batch")
    return min(requests_per_batch, requests)


def steps_per_epoch(requests: int, requests_per_batch: int) -> int:
    """Whole batches in an epoch."""
    return requests // batch_size(requests, requests_per_batch)


def chances(
    examples: Examples,
    requests_per_batch: int,
    pool: int,
    negatives: Negatives,
    *,
    among: Requests | None = None,
) -> Chances:
    """How likely each item is to be among the columns of the batches of these requests."""
    taken, count = _taken(examples, pool, among)
    return Chances(
        taken,
        requests=count,
        requests_per_batch=batch_size(count, requests_per_batch),
        pool=pool,
        negatives=negatives,
    )


def in_batches(
    examples: Examples, requests_per_batch: int, pool: int, *, among: Requests | None = None
) -> npt.NDArray[np.float64]:
    """By item number: the chance that a batch of these requests has taken the item, [pool + 1]."""
    taken, count = _taken(examples, pool, among)
    log_missed = log_batch_missed(taken, batch_size(count, requests_per_batch), count)
    chance: npt.NDArray[np.float64] = -np.expm1(log_missed)
    return chance


def _taken(
    examples: Examples, pool: int, among: Requests | None
) -> tuple[npt.NDArray[np.int64], int]:
    """By item number, how many of the requests have taken the item; and how many there are."""
    pairs = np.unique(np.stack([examples.request_B, examples.item_B]), axis=1)
    count = examples.requests
    if among is not None:
        pairs, count = pairs[:, np.isin(pairs[0], among)], len(among)
    return np.bincount(pairs[1], minlength=pool + 1), count


def _batch(
    examples: Examples,
    catalogue: Catalogue,
    requests: Requests,
    negatives: Negatives,
    mined_LK: Numbers | None,
    *,
    seed: tuple[int, int, int],
) -> Batch:
    """Args: requests: ascending. seed: the loop's, the epoch, the batch's number in it."""
    request_B, lines = examples.lines_of(requests)
    item_B = examples.item_B[lines]
    drawn = draw(negatives.uniform, pool=len(catalogue), seed=seed)
    items_P = np.union1d(item_B, drawn)
    positive_B = items_P.searchsorted(item_B)
    taken_UP = np.zeros((len(requests), len(items_P)), bool)
    taken_UP[request_B, positive_B] = True
    excluded_BP = taken_UP[request_B]
    if not negatives.batch:
        excluded_BP |= ~np.isin(items_P, drawn)
    excluded_BP[np.arange(len(lines)), positive_B] = False
    shown_UK = draw_of_each(examples.impressed.take(requests), negatives.impressed, seed=(*seed, 1))
    hard_BK = shown_UK[request_B]
    if mined_LK is not None:
        hard_BK = once_each(np.concatenate([hard_BK, mined_LK[lines]], axis=1))
    if negatives.each:
        hard_BK = draw_for_each(len(lines), negatives.each, pool=len(catalogue), seed=(*seed, 2))
        hard_BK[taken_by(request_B, hard_BK, (request_B, item_B), pool=len(catalogue))] = 0
    items_M, at_BK = _with_hard(items_P, hard_BK)
    own = processes.part(len(requests))
    of_own = slice(*request_B.searchsorted([own.start, own.stop]))
    return Batch(
        user=examples.user_batch(
            requests[own], lines[of_own], catalogue, request_B=request_B[of_own] - own.start
        ),
        items=item_batch(items_M, catalogue),
        positive_B=torch.from_numpy(positive_B.astype(np.int64)),
        action_B=torch.from_numpy(examples.action_B[lines]),
        excluded_BP=torch.from_numpy(excluded_BP),
        hard_BK=torch.from_numpy(at_BK),
        number=seed[-1],
    )


def _with_hard(items_P: Numbers, hard_BK: Numbers) -> tuple[Numbers, Numbers]:
    """The items and behind them the hard negatives among no others, and where each hard one is.

    Args: hard_BK: item numbers, 0 for none. Returns: places are -1 for none.
    """
    if not hard_BK.size:
        return items_P, hard_BK
    items_M = np.concatenate([items_P, np.setdiff1d(hard_BK[hard_BK > 0], items_P)])
    order_M = np.argsort(items_M)
    at_BK = order_M[np.searchsorted(items_M, hard_BK, sorter=order_M)]
    return items_M, np.where(hard_BK > 0, at_BK, -1)


def prepare(
    rows: Iterable[pa.RecordBatch],
    lines: pl.DataFrame,
    catalogue: Catalogue,
    tokenizer: Tokenizer,
    *,
    spec: WindowSpec,
    stats: Sequence[str],
    folder: Path,
    not_taken: pl.DataFrame | None = None,
) -> Examples:
    """Cut and encode feature rows into files in `folder`, and join the lines to them.

    Args:
        rows: `user_key`, `t_ms` and feature columns `view__column`; one row a request, in any
            order.
        lines: `training.data.lines.LINE_COLUMNS`.
        stats: the user statistics among the columns, in the service's order.
        not_taken: `training.data.lines.SHOWN_COLUMNS`, if negatives are drawn from them.
    Raises: ValueError if a line has no row or two rows are of one request.
    """
    folder.mkdir(parents=True, exist_ok=True)
    numbers = TextNumbers()
    files = _Files(folder)
    keys: list[npt.NDArray[np.int64]] = []
    for batch in rows:
        t_ms = batch.column("t_ms").to_numpy()
        keys.append(np.stack([batch.column("user_key").to_numpy(), t_ms]))
        requests = zip(_requests(batch), t_ms.tolist(), strict=True)
        files.append(encode(requests, catalogue, numbers, spec=spec, stats=stats))
    user_key_U, t_ms_U = np.concatenate(keys, axis=1) if keys else np.empty((2, 0), np.int64)
    moments = pl.DataFrame(
        {"user_key": user_key_U, "t_ms": t_ms_U, "request": np.arange(len(t_ms_U))}
    )
    joined = _join(lines, moments, catalogue)
    text_B = np.array([numbers[text] for text in joined["query"].to_list()], np.int32)
    return Examples(
        behaviour=files.read(),
        texts=tokenizer.encode(numbers.texts),
        text_list=numbers.texts,
        user_key_U=user_key_U,
        t_ms_U=t_ms_U,
        request_B=joined["request"].to_numpy().astype(np.int32),
        text_B=text_B,
        item_B=joined["item"].to_numpy().astype(np.int32),
        item_key_B=joined["item_key"].to_numpy(),
        action_B=np.array([ACTIONS.index(action) for action in joined["action"]], np.int64),
        impressed=_impressed(not_taken, moments, joined, catalogue),
    )


def _requests(batch: pa.RecordBatch) -> Iterator[dict[str, dict[str, Any]]]:
    """Each row's features by view and column; list columns as numpy arrays or None."""
    columns = [
        (*name.split(SEPARATOR, 1), _values(batch.column(name)))
        for name in batch.schema.names
        if SEPARATOR in name
    ]
    views = {view for view, _, _ in columns}
    for at in range(len(batch)):
        row: dict[str, dict[str, Any]] = {view: {} for view in views}
        for view, column, values in columns:
            row[view][column] = values[at]
        yield row


def _values(column: Any) -> list[Any]:
    if not pa.types.is_list(column.type):
        return list(column.to_pylist())
    if not pa.types.is_integer(column.type.value_type):
        return list(column.to_pylist())
    flat = column.values.to_numpy(zero_copy_only=False)
    valid = column.is_valid().to_pylist()
    bounds = pairwise(column.offsets.to_pylist())
    return [flat[start:end] if ok else None for (start, end), ok in zip(bounds, valid, strict=True)]


def _join(lines: pl.DataFrame, requests: pl.DataFrame, catalogue: Catalogue) -> pl.DataFrame:
    """Lines with `request` and `item` numbers, ascending by request."""
    if requests.select("user_key", "t_ms").is_duplicated().any():
        raise ValueError("two feature rows are of one request")
    joined = lines.join(requests, on=["user_key", "t_ms"], how="left")
    lost = joined["request"].null_count()
    if lost:
        raise ValueError(f"{lost} lines have no feature row")
    item = catalogue.numbers(joined["item_key"].to_numpy())
    return joined.with_columns(item=pl.Series(item)).sort("request", "item", "item_key")


def _impressed(
    not_taken: pl.DataFrame | None,
    requests: pl.DataFrame,
    lines: pl.DataFrame,
    catalogue: Catalogue,
) -> Ragged:
    """Numbers of the items that each request was shown, but for those of its lines."""
    if not_taken is None:
        return Ragged.from_rows([[]] * len(requests))
    shown = not_taken.join(requests, on=["user_key", "t_ms"])
    shown = (
        shown.with_columns(item=pl.Series(catalogue.numbers(shown["item_key"].to_numpy())))
        .filter(pl.col("item") > 0)
        .join(lines, on=["request", "item"], how="anti")
        .sort("request", "item")
    )
    lengths = np.bincount(shown["request"].to_numpy(), minlength=len(requests))
    return Ragged.from_lengths(shown["item"].to_numpy(), lengths)


class _Files:
    """Behaviour on disk: flat values appended per sequence, lengths kept in memory."""

    _SEQUENCES = (
        *("real_time", "real_time_age_s", "short_term", "queries"),
        *("owned", "owned_times", "owned_age_days"),
        *LONG_TERM_ACTIONS,
    )

    def __init__(self, folder: Path) -> None:
        self._paths = {name: folder / f"{name}.int32" for name in self._SEQUENCES}
        self._lengths: dict[str, list[npt.NDArray[np.int64]]] = {
            name: [] for name in self._SEQUENCES
        }
        self._stats: list[npt.NDArray[np.float32]] = []
        for path in self._paths.values():
            path.write_bytes(b"")

    def append(self, part: Behaviour) -> None:
        sequences = {
            "real_time": part.real_time,
            "real_time_age_s": part.real_time_age_s,
            "short_term": part.short_term,
            "queries": part.queries,
            "owned": part.owned.item,
            "owned_times": part.owned.times,
            "owned_age_days": part.owned.age_days,
            **part.long_term,
        }
        for name, ragged in sequences.items():
            self._lengths[name].append(ragged.lengths)
            with self._paths[name].open("ab") as file:
                file.write(ragged.values.astype(np.int32).tobytes())
        self._stats.append(part.stats_UF)

    def read(self) -> Behaviour:
        ragged = {
            name: Ragged.from_lengths(
                _mapped(path), np.concatenate([np.empty(0, np.int64), *self._lengths[name]])
            )
            for name, path in self._paths.items()
        }
        return Behaviour(
            real_time=ragged["real_time"],
            real_time_age_s=ragged["real_time_age_s"],
            short_term=ragged["short_term"],
            queries=ragged["queries"],
            owned=Owned(
                item=ragged["owned"], times=ragged["owned_times"], age_days=ragged["owned_age_days"]
            ),
            long_term={action: ragged[action] for action in LONG_TERM_ACTIONS},
            stats_UF=np.concatenate(self._stats) if self._stats else np.empty((0, 0), np.float32),
        )


def _mapped(path: Path) -> _INT32S:
    if not path.stat().st_size:
        return np.empty(0, np.int32)
    mapped: _INT32S = np.memmap(path, np.int32, mode="r")
    return mapped
