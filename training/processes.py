"""Several processes that train one model: the towers' work is parted, the loss is not.

`torchrun` starts them and `torch.distributed` joins them. Each knows every batch, encodes its part
of the requests and of the items, receives the vectors of the others, and computes the loss of the
whole batch. So what lines are told from, its chances, the memory and whatever is drawn are those of
one process, and a recipe means the same with any number. Gradients flow only into the vectors that
a process has encoded itself: their sum over the processes is the whole gradient. What all compute
is little: the softmax takes 1 % of MGDSPR's time (docs/performance.md).

Alone, a process is all of them, and nothing here does anything.

Shape legend: R rows of one process, N rows of all.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
from torch import Tensor, distributed, nn

from training.negatives import Numbers

# Others wait while the first fetches features; one that has ended is noticed at once.
_PATIENCE = timedelta(days=1)
_T = TypeVar("_T")


@contextmanager
def joined() -> Iterator[None]:
    """Be one of those that torchrun has started, if it has."""
    if not distributed.is_torchelastic_launched():
        yield
        return
    if os.environ["LOCAL_WORLD_SIZE"] == os.environ["WORLD_SIZE"]:
        # All are on this machine: nobody else need reach them.
        loopback = next(name for _, name in socket.if_nameindex() if name.startswith("lo"))
        os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback)
    distributed.init_process_group("gloo", timeout=_PATIENCE)
    try:
        yield
    finally:
        distributed.destroy_process_group()


def count() -> int:
    """How many there are."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def rank() -> int:
    """Which of them this is, from 0; the first alone reads, writes and prints."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def part(of: int) -> slice:
    """Which places of so many are this process's."""
    return slice(of * rank() // count(), of * (rank() + 1) // count())


def own(values: Sequence[_T]) -> Sequence[_T]:
    """This process's part of them."""
    return values[part(len(values))]


def from_first(value: _T) -> _T:
    """What the first process gives; what the others give does not count."""
    if count() == 1:
        return value
    box = [value]
    distributed.broadcast_object_list(box, src=0)
    return box[0]


def follow() -> None:
    """What all but the first do: wait for the work that it gives, and do it too; None for none."""
    work: Callable[[], object] | None = from_first(None)
    if work:
        work()


def together(own: Tensor) -> Tensor:
    """The rows of all processes, [N, ...], from each one's own, [R, ...].

    Gradients flow into the own rows alone.
    """
    if count() == 1:
        return own
    rows, start = _gathered(own.detach())
    return torch.cat([rows[:start], own, rows[start + len(own) :]])


def summed(numbers: Numbers) -> Numbers:
    """The sum of all processes' arrays."""
    if count() == 1:
        return numbers
    total = torch.from_numpy(numbers.copy())
    distributed.all_reduce(total)
    return total.numpy()


def sum_gradients(model: nn.Module) -> None:
    """Every gradient becomes the sum over the processes, bit for bit the same in each.

    A parameter may have none where a part of the batch has no use for it.
    """
    if count() == 1:
        return
    tables = [
        each.weight for each in model.modules() if isinstance(each, nn.Embedding) and each.sparse
    ]
    for table in tables:
        if table.grad is None:
            places, rows = torch.empty(1, 0, dtype=torch.int64), table.new_empty(0, table.shape[1])
            table.grad = torch.sparse_coo_tensor(places, rows, table.shape)
        table.grad = table.grad.coalesce()
        distributed.all_reduce(table.grad)
    known = {id(table) for table in tables}
    dense = [each for each in model.parameters() if id(each) not in known]
    gradients = [torch.zeros_like(each) if each.grad is None else each.grad for each in dense]
    flat = nn.utils.parameters_to_vector(gradients)
    distributed.all_reduce(flat)
    nn.utils.vector_to_parameters(flat, gradients)
    for parameter, gradient in zip(dense, gradients, strict=True):
        parameter.grad = gradient


def _gathered(own: Tensor) -> tuple[Tensor, int]:
    """The rows of all processes in their order, and where this one's begin."""
    lengths = torch.zeros(count(), dtype=torch.int64)
    lengths[rank()] = len(own)
    distributed.all_reduce(lengths)
    padded = own.new_zeros(int(lengths.max()), *own.shape[1:])
    padded[: len(own)] = own
    parts = [torch.empty_like(padded) for _ in range(count())]
    distributed.all_gather(parts, padded)
    rows = torch.cat([each[:length] for each, length in zip(parts, lengths, strict=True)])
    return rows, int(lengths[: rank()].sum())
