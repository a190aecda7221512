"""A batch as tensors: what `encode_user` and `encode_item` take.

Shape legend
    B  lines: a query each (several lines of one basket share a request)
    U  requests: a user at a moment
    M  distinct items of the batch's sequences     X  distinct texts of the batch
    T  length of a sequence, padded right to the longest of the batch
    N  units of a text, padded right               H  previous queries, padded right
    F  user statistics
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pagoda.models.behaviour import Behaviour
from pagoda.models.catalogue import ATTRIBUTES, Catalogue
from pagoda.models.ragged import Ragged
from pagoda.text import Texts

Numbers = npt.NDArray[np.integer]


@dataclass(frozen=True, kw_only=True)
class ItemBatch:
    """M items: numbers for the embedding tables, and padded title words.

    Attributes:
        item_M: item numbers; attributes: attribute name to numbers [M].
        title_MN: word numbers, 0 is padding.
    """

    item_M: Tensor
    attributes: dict[str, Tensor]
    title_MN: Tensor


@dataclass(frozen=True, kw_only=True)
class TextBatch:
    """X texts as padded numbers of words, word bigrams and letter trigrams; 0 is padding."""

    words_XN: Tensor
    bigrams_XN: Tensor
    trigrams_XN: Tensor


@dataclass(frozen=True, kw_only=True)
class Padded:
    """U rows padded right: places among the batch's distinct items or texts, and their mask."""

    at_UT: Tensor
    mask_UT: Tensor


@dataclass(frozen=True, kw_only=True)
class Bags:
    """U rows behind each other: places among the distinct items, and where each row starts."""

    at: Tensor
    starts_U: Tensor


@dataclass(frozen=True, kw_only=True)
class UserBatch:
    """B lines of U requests.

    Attributes:
        items, texts: the distinct items of all sequences, and texts of all queries: each is
            embedded once however often it occurs.
        request_B, text_B: each line's request, and its query's place in `texts`.
        real_time, short_term: clicks, oldest first. long_term: by action.
        queries: previous queries, oldest first, places in `texts`.
        stats_UF: user statistics.
    """

    items: ItemBatch
    texts: TextBatch
    request_B: Tensor
    text_B: Tensor
    real_time: Padded
    short_term: Padded
    long_term: dict[str, Bags]
    queries: Padded
    stats_UF: Tensor


def user_batch(
    behaviour: Behaviour,
    catalogue: Catalogue,
    texts: Texts,
    *,
    request_B: Numbers,
    text_B: Numbers,
) -> UserBatch:
    """Gather a batch.

    Args:
        behaviour: of the U requests, its queries numbered within `texts`.
        texts: every tokenised text that may occur.
        request_B, text_B: each line's row in `behaviour` and in `texts`.
    """
    sequences = [behaviour.real_time, behaviour.short_term, *behaviour.long_term.values()]
    # The unknown item, which embeds to zero, comes first: place 0 is padding too.
    item_numbers, places = np.unique(
        np.concatenate([np.zeros(1, np.int32), *(each.values for each in sequences)]),
        return_inverse=True,
    )
    ends = 1 + np.cumsum([0] + [len(each.values) for each in sequences])
    real_time, short_term, *long_term = (
        Ragged(places[start:end].astype(np.int64), each.offsets)
        for start, end, each in zip(ends, ends[1:], sequences, strict=False)
    )
    text_numbers, places = np.unique(
        np.concatenate([text_B, behaviour.queries.values]), return_inverse=True
    )
    queries = Ragged(places[len(text_B) :].astype(np.int64), behaviour.queries.offsets)
    return UserBatch(
        items=item_batch(item_numbers, catalogue),
        texts=text_batch(text_numbers, texts),
        request_B=torch.from_numpy(request_B.astype(np.int64)),
        text_B=torch.from_numpy(places[: len(text_B)].astype(np.int64)),
        real_time=_padded(real_time),
        short_term=_padded(short_term),
        long_term={
            action: Bags(
                at=torch.from_numpy(each.values), starts_U=torch.from_numpy(each.offsets[:-1])
            )
            for action, each in zip(behaviour.long_term, long_term, strict=True)
        },
        queries=_padded(queries),
        stats_UF=torch.from_numpy(behaviour.stats_UF),
    )


def item_batch(numbers: Numbers, catalogue: Catalogue) -> ItemBatch:
    """Items by number."""
    return ItemBatch(
        item_M=torch.from_numpy(numbers.astype(np.int64)),
        attributes={
            name: torch.from_numpy(catalogue.attributes[name][numbers].astype(np.int64))
            for name in ATTRIBUTES
        },
        title_MN=_numbers(catalogue.titles.take(numbers)),
    )


def text_batch(numbers: Numbers, texts: Texts) -> TextBatch:
    """Texts by number."""
    return TextBatch(
        words_XN=_numbers(texts.words.take(numbers)),
        bigrams_XN=_numbers(texts.bigrams.take(numbers)),
        trigrams_XN=_numbers(texts.trigrams.take(numbers)),
    )


def _padded(ragged: Ragged) -> Padded:
    at_UT, mask_UT = ragged.padded()
    return Padded(at_UT=torch.from_numpy(at_UT), mask_UT=torch.from_numpy(mask_UT))


def _numbers(ragged: Ragged) -> Tensor:
    return torch.from_numpy(ragged.padded()[0].astype(np.int64))
