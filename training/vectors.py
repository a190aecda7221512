"""Vectors of every item, and of every line, by a model that is not being trained.

They are encoded where the model is, and given on the processor, where they are searched.

Shape legend: B lines of one pass, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pagoda.models.base import TwoTowers
from pagoda.models.catalogue import Catalogue
from pagoda.models.inputs import item_batch, moved
from training.data import Examples

_ITEMS_PER_PASS = 8_192
_REQUESTS_PER_PASS = 64


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
) -> Iterator[tuple[npt.NDArray[np.int64], Tensor]]:
    """Some lines and their user vectors [B, D], until every line had its turn.

    A request's lines come together.

    Args:
        requests: only the lines of these.
        watched: goes through the passes, or some of them; to show a bar.
    """
    wanted = np.arange(examples.requests) if requests is None else requests
    for start in watched(range(0, len(wanted), _REQUESTS_PER_PASS)):
        some = wanted[start : start + _REQUESTS_PER_PASS]
        request_B, lines = examples.lines_of(some)
        if not len(lines):
            continue
        with torch.inference_mode():
            batch = examples.user_batch(some, lines, catalogue, request_B=request_B)
            user_BD = model.encode_user(moved(batch, model.device)).cpu()
        yield lines, user_BD
