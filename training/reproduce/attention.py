"""How much of MGDSPR's attention goes to nothing: the weight of the zero vector.

The paper puts a zero vector before each sequence so that a query to which nothing in the history
is related can attend to nothing (3.2.2). Whether it does can be seen in its weight on lines whose
sequence holds an item of the shelf that was wanted, and on lines whose sequence does not.

Weights are computed line by line from the model's own parts; a test holds that they are those of
its forward pass, which never keeps them.

Shape legend: B lines, U requests, Q query rows, T events of a sequence, V long-term views, A
long-term actions, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
import torch
from torch import Tensor, nn
from torch.nn import functional

from pagoda.models.catalogue import Catalogue
from pagoda.models.inputs import Numbers, Padded, UserBatch
from pagoda.models.mgdspr import Mgdspr
from pagoda.models.parts import attention_weights, sequence_mean
from training.data.batches import Examples
from training.evaluation.zero_share import related

_REQUESTS_PER_PASS = 64


@dataclass(frozen=True, kw_only=True)
class Attended:
    """One sequence's attention in a batch.

    Attributes:
        weight: of every memory but the zero vector, [B, Q, T] or [B, Q, V, A].
        memory: what is attended to, [B, T, D] or [B, V, A, D].
        held: a sequence's items; lines without any attend to nothing, whatever the weights.
    """

    weight: Tensor
    memory: Tensor
    held: Padded

    @property
    def zero(self) -> Tensor:
        """The zero vector's weight, the mean over query rows and views, [B]."""
        return (1 - self.weight.sum(-1)).flatten(1).mean(1)


def attended(model: Mgdspr, batch: UserBatch) -> dict[str, Attended]:
    """The attention over each sequence, by its name."""
    query_BQD = model.query(model.item_tower.tables, batch)
    e_MD = model.item_tower.embed(batch.items)
    return {
        "real-time": _over(model, query_BQD, model.real_time, e_MD, batch.real_time, batch),
        "short-term": _over(model, query_BQD, model.short_term, e_MD, batch.short_term, batch),
        "long-term": _over_long_term(model, query_BQD, batch),
    }


def zero_weights(
    model: Mgdspr,
    examples: Examples,
    catalogue: Catalogue,
    *,
    requests: Numbers,
    wanted_B: Numbers,
) -> pl.DataFrame:
    """A row for each sequence of each line of these requests.

    Args:
        wanted_B: every line's wanted leaf category, by number.
    Returns: `sequence`, `zero` (the weight), `related`, and `filled`: whether there is any event.
    """
    parts = []
    for some in np.array_split(requests, len(requests) // _REQUESTS_PER_PASS + 1):
        request_B, lines = examples.lines_of(some)
        if not len(lines):
            continue
        batch = examples.user_batch(some, lines, catalogue, request_B=request_B)
        wanted = torch.from_numpy(wanted_B[lines])
        with torch.inference_mode():
            for name, each in attended(model, batch).items():
                columns = {
                    "zero": each.zero,
                    "related": related(each.held, wanted, batch),
                    "filled": each.held.mask_UT.any(1)[batch.request_B],
                }
                told = {column: values.numpy() for column, values in columns.items()}
                parts.append(pl.DataFrame(told).with_columns(sequence=pl.lit(name)))
    return pl.concat(parts)


def _over(
    model: Mgdspr,
    query_BQD: Tensor,
    encoder: nn.Module,
    e_MD: Tensor,
    sequence: Padded,
    batch: UserBatch,
) -> Attended:
    encoded_UTD = encoder(functional.embedding(sequence.at_UT, e_MD), sequence.mask_UT)
    memory_BTD = encoded_UTD[batch.request_B]
    weight_BQT = attention_weights(
        torch.bmm(query_BQD, memory_BTD.transpose(1, 2)),
        sequence.mask_UT[batch.request_B].unsqueeze(1),
        zero_vector=model.config.zero_vector,
    )
    return Attended(weight=weight_BQT, memory=memory_BTD, held=sequence)


def _over_long_term(model: Mgdspr, query_BQD: Tensor, batch: UserBatch) -> Attended:
    views_M = {
        "item": model.item_tower.tables.item(batch.items.item_M),
        **model.item_tower.attribute_embeddings(batch.items),
    }
    sequences = [bags.padded() for bags in batch.long_term.values()]
    p_UVAD = torch.stack(
        [
            torch.stack([project(sequence_mean(views_M[name], each)) for each in sequences], 1)
            for name, project in model.long_term_views.items()
        ],
        1,
    )
    filled_UA = torch.stack([each.mask_UT.any(1) for each in sequences], 1)
    mask_UA = model.attended_actions(filled_UA)
    memory_BVAD = p_UVAD[batch.request_B]
    weight_BQVA = attention_weights(
        torch.einsum("bqd,bvad->bqva", query_BQD, memory_BVAD),
        mask_UA[batch.request_B][:, None, None, :],
        zero_vector=model.config.zero_vector,
    )
    first, *others = sequences
    held = first
    for each in others:
        held = held.beside(each)
    return Attended(weight=weight_BQVA, memory=memory_BVAD, held=held)
