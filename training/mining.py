"""Hard negatives that the towers find themselves: the pool is searched for every line.

What stands highest may well be what was wanted, and what stands low teaches nothing: items are
drawn from ranks between (101 to 500 in the paper). A line comes once an epoch, so that its items
are drawn as it is searched, and only they are kept.

The search is exact. It holds the scores of a few lines and a part of the pool at a time.

Source: Huang et al., KDD 2020, section 6.1 (offline mining). Departure: the pool is searched by the
towers' own vectors, not by an index that approximates it.

Shape legend: L lines of all requests, B lines of one pass, M items, K hard items of a line,
R ranks, O pairs of a line and an item that its request has taken, D width.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from pagoda.models.base import TwoTowers
from pagoda.models.catalogue import Catalogue
from pagoda.models.ragged import Ragged
from training import processes
from training.data.batches import Examples
from training.negatives import Negatives, Numbers, draw_of_each
from training.vectors import encode_items, encode_lines


class Mined:
    """Every line's hard items of this epoch, [L, K]; 0 for none, as all are before the first."""

    def __init__(self, lines: int, negatives: Negatives) -> None:
        """Args: lines: how many there are to search for."""
        self._negatives = negatives
        self.items_LK: Numbers = np.zeros((lines, negatives.mined), np.int64)

    def mine(
        self,
        model: TwoTowers,
        examples: Examples,
        catalogue: Catalogue,
        *,
        seed: tuple[int, ...],
    ) -> None:
        """Search and draw anew, by the model as it is; it is left as it was.

        The same seed draws the same. Several processes search for a part of the lines each.
        """
        wanted, training = self._negatives, model.training
        model.eval()
        item_MD = torch.from_numpy(encode_items(model, catalogue))
        found_LK = np.zeros_like(self.items_LK)
        for lines, user_BD in encode_lines(model, examples, catalogue, watched=processes.own):
            request_B = examples.request_B[lines]
            line_O, other_O = np.nonzero(request_B[:, None] == request_B)
            found_BR = ranked(
                user_BD,
                item_MD,
                taken=(line_O, examples.item_B[lines[other_O]]),
                first=wanted.mined_first,
                last=wanted.mined_last,
            )
            some = Ragged.from_lengths(found_BR[found_BR > 0], (found_BR > 0).sum(1))
            found_LK[lines] = draw_of_each(some, wanted.mined, seed=(*seed, int(lines[0]), 2))
        self.items_LK = processes.summed(found_LK)
        model.train(training)

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint keeps: no model but that of the epoch's start would find it again."""
        return {"items": torch.from_numpy(self.items_LK)}

    def take_up(self, kept: dict[str, Tensor]) -> None:
        """Go on with what a checkpoint kept."""
        self.items_LK = kept["items"].numpy().copy()


def ranked(
    user_BD: Tensor,
    item_MD: Tensor,
    *,
    taken: tuple[Numbers, Numbers],
    first: int,
    last: int,
    items_per_pass: int = 8_192,
) -> Numbers:
    """Numbers of the items at these ranks by inner product, best first, [B, R].

    Args:
        item_MD: row = item number - 1.
        taken: (place of a line, number of an item that has no rank there), [O] each.
        first, last: ranks, counted from 1, both included.
    Returns: 0 where so many items are not left; R is smaller where there are not so many at all.
    """
    taken_by, taken_item = (torch.from_numpy(each.astype(np.int64)) for each in taken)
    best_BR = user_BD.new_empty(len(user_BD), 0)
    number_BR = torch.empty(len(user_BD), 0, dtype=torch.int64)
    for start in range(0, len(item_MD), items_per_pass):
        score_BM = user_BD @ item_MD[start : start + items_per_pass].T
        place_O = taken_item - 1 - start
        here = (place_O >= 0) & (place_O < score_BM.shape[1])
        score_BM[taken_by[here], place_O[here]] = -torch.inf
        part_BR, place_BR = score_BM.topk(min(last, score_BM.shape[1]))
        best_BR = torch.cat([best_BR, part_BR], 1)
        number_BR = torch.cat([number_BR, start + 1 + place_BR], 1)
        best_BR, place_BR = best_BR.topk(min(last, best_BR.shape[1]))
        number_BR = number_BR.gather(1, place_BR)
    number_BR[best_BR.isneginf()] = 0
    found: Numbers = number_BR[:, first - 1 :].numpy()
    return found
