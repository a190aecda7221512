"""Vectors of every item, and of every line, by a model that is not being trained.

They are encoded where the model is, and given on the processor, where they are searched.

Shape legend: B lines of one pass, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pagoda.models.base import TwoTowers
from pagoda.models.catalogue import Catalogue
from pagoda.models.inputs import UserBatch, item_batch, moved
from training.data.batches import Examples

_ITEMS_PER_PASS = 8_192
_REQUESTS_PER_PASS = 64

Numbers = npt.NDArray[np.int64]
_T = TypeVar("_T")


def encode_items(model: TwoTowers, catalogue: Catalogue) -> npt.NDArray[np.float32]:
    """Every item's vector, float32 [items, D], in the catalogue's order."""
    with torch.inference_mode():
        parts = [
            model.encode_item(moved(item_batch(numbers, catalogue), model.device)).cpu()
            for numbers in np.array_split(
                np.arange(1, len(catalogue) + 1), len(catalogue) // _ITEMS_PER_PASS + 1
            )
        ]
        return np.asarray(torch.cat(parts).numpy(), np.float32)


def encode_lines(
    model: TwoTowers,
    examples: Examples,
    catalogue: Catalogue,
    *,
    requests: npt.NDArray[np.integer] | None = None,
    watched: Callable[[Sequence[int]], Iterable[int]] = iter,
) -> Iterator[tuple[Numbers, Tensor]]:
    """Some lines and their user vectors [B, D], until every line had its turn.

    A request's lines come together.

    Args:
        requests: only the lines of these.
        watched: goes through the passes, or some of them; to show a bar.
    """

    def vectors(batch: UserBatch, lines: Numbers) -> Tensor:  # noqa: ARG001
        return model.encode_user(batch).cpu()

    return of_lines(
        examples, catalogue, vectors, device=model.device, requests=requests, watched=watched
    )


def of_lines(
    examples: Examples,
    catalogue: Catalogue,
    computed: Callable[[UserBatch, Numbers], _T],
    *,
    device: torch.device,
    requests: npt.NDArray[np.integer] | None = None,
    watched: Callable[[Sequence[int]], Iterable[int]] = iter,
) -> Iterator[tuple[Numbers, _T]]:
    """Some lines and what is computed of their users, until every line had its turn.

    Args:
        computed: from the users, on that device, and the numbers of their lines; keeps no gradient.
        requests, watched: as of `encode_lines`.
    """
    wanted = np.arange(examples.requests) if requests is None else requests
    for start in watched(range(0, len(wanted), _REQUESTS_PER_PASS)):
        some = wanted[start : start + _REQUESTS_PER_PASS]
        request_B, lines = examples.lines_of(some)
        if not len(lines):
            continue
        with torch.inference_mode():
            batch = examples.user_batch(some, lines, catalogue, request_B=request_B)
            found = computed(moved(batch, device), lines)
        yield lines, found
