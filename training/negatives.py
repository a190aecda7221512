"""Which items a line's taken item is told from, and how likely each was to be among them.

    batch     what other requests of the batch have taken
    uniform   drawn from the whole pool, anew for every batch
    memory    what the batches before it had taken, as they were encoded then
    impressed what the line's own search showed and nobody took
    mined     what the towers rank high for the line, but not highest (`training.mining`)
    each      drawn from the whole pool for each line alone

Any sum of the first five; the last stands alone. The first three are samples of the pool, columns
of every line. An item is one column, whoever holds it: its chance to be there is the chance that
not all sources missed it, and that is what `training.losses` corrects its score by. So each source
says one thing only, the log of its chance to miss an item.

Impressed and mined items are hard: chosen for one line, by rules that look at it. No chance makes
them samples of the pool, so there is no log q that would turn them into an estimate of the full
softmax; they change what is learned, and are meant to. They are terms of their own line's sum, on
top of the estimate of the whole pool, and weigh what its taken item does: the odds between the two
are those of their scores alone. What is learned is the full softmax with each hard item counted
once more,

    -log(exp s+ / (sum over the pool of exp s + sum over the line's hard items of exp s))

An item that is a column as well stays one. One that both sources hold is one term, and none is an
item that the request has taken.

A set of each line's own is a sample of the pool too, and corrected as one. The paper found it no
better than one that all lines share (Li et al., 3.4), and it costs many more item vectors.

Sources: Yi et al., RecSys 2019 (batch); Li et al., KDD 2021, 3.4 (uniform); Yang et al., WWW 2020
(batch + uniform); Wang et al., SIGIR 2021 (memory, CBNS); Huang et al., KDD 2020, 2.4 and 6.1
(impressed, mined).

Shape legend: U requests, P items of a batch, N columns, K hard items of a line, D width.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pagoda.models.ragged import Ragged

Numbers = npt.NDArray[np.integer]


@dataclass(frozen=True, kw_only=True)
class Negatives:
    """The sources that add up.

    Attributes:
        batch: the batch's other requests.
        uniform: items drawn from the pool for each batch, without replacement.
        memory: batches before this one.
        memory_after: steps before the memory is used; until then vectors change too quickly.
        impressed: at most so many of a request's items that were shown and not taken, drawn for
            each batch.
        mined: at most so many of the items that the towers rank at `mined_first` to `mined_last`
            for a line, both included, counted from 1 among what its request has not taken.
        mined_from: the epoch, counted from 0, from which the pool is searched; at its start and at
            that of every later one.
        each: so many draws from the pool for each line alone, instead of all other sources.
    """

    batch: bool = True
    uniform: int = 0
    memory: int = 0
    memory_after: int = 0
    impressed: int = 0
    mined: int = 0
    mined_first: int = 101
    mined_last: int = 500
    mined_from: int = 1
    each: int = 0

    def __post_init__(self) -> None:
        counts = (self.uniform, self.memory, self.memory_after, self.impressed, self.mined)
        if min(*counts, self.each) < 0:
            raise ValueError(
                "uniform, memory, memory_after, impressed, mined and each must not be negative"
            )
        if self.each and (self.batch or any(counts)):
            raise ValueError("each line's own draws stand alone: batch=False, and no other source")
        if not (self.batch or self.uniform or self.each):
            raise ValueError("negatives need the batch or items drawn from the pool")
        if self.memory and not self.batch:
            raise ValueError("the memory goes on from the batch: it needs it too")
        if not 1 <= self.mined_first <= self.mined_last:
            raise ValueError("ranks to mine need 1 <= mined_first <= mined_last")
        if self.mined_last - self.mined_first + 1 < self.mined:
            raise ValueError("there are fewer ranks to mine than items wanted of them")
        if self.mined_from < 0:
            raise ValueError("mined_from must not be negative")

    def mines(self, epoch: int) -> bool:
        """Whether the pool is searched at the start of this epoch."""
        return self.mined > 0 and epoch >= self.mined_from


class Chances:
    """How likely an item is to be among a batch's columns, by another request than a line's own.

    An item that c of R requests have taken is missed by n of them with C(R-c, n) / C(R, n): the
    batch's others are n - 1 of R - 1. Of M items the u that are drawn miss it with 1 - u/M, and the
    e draws of a line, each of all of them, with (1 - 1/M)^e.
    Batches of the memory count as if each were drawn anew.
    """

    def __init__(
        self,
        taken: Numbers,
        *,
        requests: int,
        requests_per_batch: int,
        pool: int,
        negatives: Negatives,
    ) -> None:
        """
        Args:
            taken: by item number, how many requests have taken the item, [pool + 1].
            requests: R. requests_per_batch: n. pool: M.
        """
        others = requests_per_batch - 1 if negatives.batch else 0
        self._by_batch = log_batch_missed(np.minimum(taken, requests - 1), others, requests - 1)
        if negatives.memory:
            self._by_remembered = log_batch_missed(taken, requests_per_batch, requests)
        self._by_draw = log_drawn_missed(negatives, pool)

    def log_q(self, items: Numbers, *, remembered: int = 0) -> npt.NDArray[np.float32]:
        """Natural log of each item's chance, [N]; -inf for one that no source could hold."""
        log_missed = self._by_batch[items] + self._by_draw
        if remembered:
            log_missed = log_missed + remembered * self._by_remembered[items]
        return log_q_of(log_missed)


def log_q_of(log_missed: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """Log of the chance to be there, from that to be missed by all sources."""
    with np.errstate(divide="ignore"):
        log_q: npt.NDArray[np.float32] = np.log(-np.expm1(log_missed)).astype(np.float32)
    return log_q


def log_drawn_missed(negatives: Negatives, pool: int) -> float:
    """Log of the chance that the items drawn from the pool miss an item."""
    with np.errstate(divide="ignore", invalid="ignore"):
        shared = np.log1p(-min(negatives.uniform / max(pool, 1), 1.0))
        own = negatives.each * np.log1p(-1 / max(pool, 1)) if negatives.each else 0.0
        return float(shared + own)


def log_batch_missed(taken: Numbers, drawn: int, requests: int) -> npt.NDArray[np.float64]:
    """Log of the chance that `drawn` of the requests are none of those that took an item.

    One drawn after the other misses c of R with 1 - c/R, of R - 1 then, and so on. Factorials say
    the same, but of many requests their logs differ in digits that a double does not have.
    """
    distinct, place = np.unique(taken, return_inverse=True)
    log_missed = np.zeros(len(distinct))
    with np.errstate(divide="ignore"):
        for left in range(requests, requests - drawn, -1):
            log_missed += np.log1p(-np.minimum(distinct / left, 1.0))
    found: npt.NDArray[np.float64] = log_missed[place]
    return found


def draw(count: int, *, pool: int, seed: tuple[int, ...]) -> Numbers:
    """So many distinct item numbers of 1 to `pool`, ascending; the same seed draws the same."""
    if not count:
        return np.empty(0, np.int64)
    dice = np.random.default_rng(seed)
    return np.sort(1 + dice.choice(pool, size=min(count, pool), replace=False, shuffle=False))


def draw_for_each(lines: int, count: int, *, pool: int, seed: tuple[int, ...]) -> Numbers:
    """So many draws of 1 to `pool` for each of some lines, [lines, count]; 0 in repeats' place."""
    return once_each(np.random.default_rng(seed).integers(1, pool + 1, (lines, count)))


def draw_of_each(rows: Ragged, count: int, *, seed: tuple[int, ...]) -> Numbers:
    """So many values of each row, or all that it has, [rows, count]; 0 for none.

    Each of a row's values is as likely; the same seed draws the same.
    """
    drawn = np.zeros((len(rows), count), np.int64)
    if not count:
        return drawn
    row = np.repeat(np.arange(len(rows)), rows.lengths)
    order = np.lexsort((np.random.default_rng(seed).random(len(row)), row))
    place = np.arange(len(row)) - rows.offsets[row]
    kept = place < count
    drawn[row[kept], place[kept]] = rows.values[order[kept]]
    return drawn


def taken_by(
    request_B: Numbers, items_BK: Numbers, taken: tuple[Numbers, Numbers], *, pool: int
) -> npt.NDArray[np.bool_]:
    """Which of each line's items its request has taken, [B, K].

    Args:
        request_B: each line's request. taken: (request, number of an item that it took), [O] each.
    """

    def pairs(request: Numbers, item: Numbers) -> Numbers:  # both as one number
        return request * (pool + 1) + item

    return np.isin(pairs(request_B[:, None], items_BK), pairs(*taken))


def once_each(items_BK: Numbers) -> Numbers:
    """The same rows with each item once, ascending; 0 in the place of repeats."""
    ascending = np.sort(items_BK, axis=1)
    ascending[:, 1:][ascending[:, 1:] == ascending[:, :-1]] = 0
    return ascending


def with_gradient_times(weight_N: Tensor, vectors_ND: Tensor) -> Tensor:
    """The same vectors; what flows back into each is multiplied by its weight."""
    seen_ND = vectors_ND.view_as(vectors_ND)
    if seen_ND.requires_grad:
        seen_ND.register_hook(  # type: ignore[no-untyped-call]
            lambda gradient_ND: gradient_ND * weight_N.unsqueeze(1)
        )
    return seen_ND


class Memory:
    """Items that recent batches have taken, newest last, with their vectors of that time."""

    def __init__(self, batches: int, *, after: int = 0) -> None:
        """Keep the last so many batches. Args: after: the step, from 0, that first uses them."""
        self._held: deque[tuple[Numbers, Tensor]] = deque(maxlen=batches)
        self._after = after

    def used(self, step: int) -> int:
        """How many batches' items are columns of this step."""
        return len(self._held) if step >= self._after else 0

    def add(self, items: Numbers, vectors_PD: Tensor) -> None:
        """Remember what a batch has taken; no gradient flows back into it."""
        self._held.append((items, vectors_PD.detach().clone()))

    def columns(self, besides: Numbers, device: torch.device) -> tuple[Numbers, Tensor]:
        """Distinct items but for those of the batch, each with its newest vector: [N], [N, D].

        Args: device: where the vectors are wanted; a checkpoint's are on the processor.
        """
        newest_first = list(self._held)[::-1]
        items = np.concatenate([each for each, _ in newest_first])
        distinct, place = np.unique(items, return_index=True)
        place = place[~np.isin(distinct, besides)]
        vectors = torch.cat([each.to(device) for _, each in newest_first])
        return items[place], vectors[torch.from_numpy(place).to(device)]

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint keeps, by name."""
        kept: dict[str, Tensor] = {}
        for number, (items, vectors) in enumerate(self._held):
            kept[f"{number}.items"] = torch.from_numpy(items.astype(np.int64))
            kept[f"{number}.vectors"] = vectors
        return kept

    def take_up(self, kept: dict[str, Tensor]) -> None:
        """Go on with what a checkpoint kept."""
        self._held.clear()
        for number in range(len(kept) // 2):
            self._held.append((kept[f"{number}.items"].numpy(), kept[f"{number}.vectors"]))
