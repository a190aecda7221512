"""A batch as tensors: what `encode_user` and `encode_item` take.

Shape legend
    B  lines: a query each (several lines of one basket share a request)
    U  requests: a user at a moment
    C  blocks: up to L lines of one request
    M  distinct items of the batch's sequences
    X  distinct queries of the lines               Y  distinct previous queries
    T  length of a sequence, padded right to the longest of the batch     J  the same of `owned`
    N  units of a text, padded right               F  user statistics
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cached_property, partial
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pagoda.models.behaviour import Behaviour
from pagoda.models.catalogue import ATTRIBUTES, Catalogue
from pagoda.models.ragged import Ragged
from pagoda.text import Texts

Numbers = npt.NDArray[np.integer]
MAX_LINES_PER_BLOCK = 8
_SHORT = 8  # rows up to here are padded to each other
_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class ItemBatch:
    """M items: numbers for the embedding tables.

    Attributes:
        item_M: item numbers; attributes: attribute name to numbers [M].
        title_words, title_trigrams: units of the titles, [M, N], 0 is padding; gathered when a
            model asks: few do for the many items of sequences.
    """

    item_M: Tensor
    attributes: dict[str, Tensor]
    title_words: Callable[[], Tensor]
    title_trigrams: Callable[[], Tensor]

    def take(self, places: Tensor | slice) -> ItemBatch:
        """The items at these places, repeats allowed."""
        return ItemBatch(
            item_M=self.item_M[places],
            attributes={name: numbers[places] for name, numbers in self.attributes.items()},
            title_words=lambda: self.title_words()[places],
            title_trigrams=lambda: self.title_trigrams()[places],
        )


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

    def beside(self, other: Padded) -> Padded:
        """Each row followed by the other's; padding may then lie inside."""
        return Padded(
            at_UT=torch.cat([self.at_UT, other.at_UT], 1),
            mask_UT=torch.cat([self.mask_UT, other.mask_UT], 1),
        )

    def newest(self, most: int) -> Padded:
        """The last of each row, at most so many, in their order; padded right wherever it was."""
        back_UT = self.mask_UT.flip(1).cumsum(1).flip(1)
        kept_UT = self.mask_UT & (back_UT <= most)
        order_UT = (~kept_UT).byte().argsort(dim=1, stable=True)[:, :most]
        return Padded(at_UT=self.at_UT.gather(1, order_UT), mask_UT=kept_UT.gather(1, order_UT))

    def by_length(self) -> Iterator[tuple[Tensor, Padded]]:
        """The rows that are not empty, grouped by about how long: row numbers [G], and the rows.

        Beside one long row most of what short ones cost would be padding. Groups reach from one
        power of two to the next.
        """
        length_U = self.mask_UT.sum(1)
        group_U = (length_U.clamp(min=_SHORT) - 1).log2().floor().masked_fill(length_U == 0, -1)
        for group in torch.unique(group_U).tolist():
            if group >= 0:
                row_G = (group_U == group).nonzero().squeeze(1)
                longest = int(length_U[row_G].max())
                yield (
                    row_G,
                    Padded(
                        at_UT=self.at_UT[row_G, :longest], mask_UT=self.mask_UT[row_G, :longest]
                    ),
                )


@dataclass(frozen=True, kw_only=True)
class Bags:
    """U rows behind each other: places among the distinct items, and where each row starts."""

    at: Tensor
    starts_U: Tensor

    @property
    def lengths(self) -> Tensor:
        """Length of each row, [U]."""
        ends_U = torch.cat([self.starts_U[1:], self.starts_U.new_full((1,), len(self.at))])
        return ends_U - self.starts_U

    def padded(self) -> Padded:
        """The same rows padded right."""
        lengths_U = self.lengths
        most = max(1, int(lengths_U.max()))
        mask_UT = torch.arange(most, device=self.at.device) < lengths_U.unsqueeze(1)
        at_UT = self.at.new_zeros(mask_UT.shape).masked_scatter(mask_UT, self.at)
        return Padded(at_UT=at_UT, mask_UT=mask_UT)


@dataclass(frozen=True, kw_only=True)
class Blocks:
    """B lines in C blocks of up to L lines of one request, which attend to its memory together.

    Without blocks a basket of 50 lines would copy its user's whole memory 50 times.

    Attributes:
        line_CL: the line at each place; places that are left over repeat some line.
        request_C: each block's request. place_B: where a line stands among the C·L places.
    """

    line_CL: Tensor
    request_C: Tensor
    place_B: Tensor

    @classmethod
    def of(cls, request_B: Numbers) -> Blocks:
        """The lines of these requests."""
        order = np.argsort(request_B, kind="stable")
        requests, starts, counts = np.unique(
            request_B[order], return_index=True, return_counts=True
        )
        per_block = min(MAX_LINES_PER_BLOCK, int(counts.max()))
        within = np.arange(len(order)) - np.repeat(starts, counts)
        blocks_of = -(-counts // per_block)
        first_block = np.cumsum(blocks_of) - blocks_of
        block = np.repeat(first_block, counts) + within // per_block
        place = block * per_block + within % per_block
        line_CL = np.zeros((int(blocks_of.sum()), per_block), np.int64)
        line_CL.reshape(-1)[place] = order
        place_B = np.empty(len(order), np.int64)
        place_B[order] = place
        return cls(
            line_CL=torch.from_numpy(line_CL),
            request_C=torch.from_numpy(np.repeat(requests, blocks_of).astype(np.int64)),
            place_B=torch.from_numpy(place_B),
        )

    def gathered(self, rows_B: Tensor) -> Tensor:
        """Each line's row at its place, [C, L, ...]; what is left over repeats some row."""
        of_places = rows_B.index_select(0, self.line_CL.flatten())
        return of_places.view(*self.line_CL.shape, *rows_B.shape[1:])

    def by_line(self, rows_CL: Tensor) -> Tensor:
        """Back again: each line's row of those by place, [B, ...]."""
        return rows_CL.flatten(0, 1).index_select(0, self.place_B)


@dataclass(frozen=True, kw_only=True)
class UserBatch:
    """B lines of U requests.

    Attributes:
        items: the distinct items of all sequences, each embedded once however often it occurs.
        texts: the distinct queries of the lines. past_words_YN: words of the distinct previous
            queries, of which no other unit is read.
        request_B, text_B: each line's request, and its query's place in `texts`.
        real_time, short_term: clicks, oldest first. long_term: by action.
        real_time_age_s_UT: whole seconds from each real-time click to the request.
        queries: previous queries, oldest first, places in `past_words_YN`.
        owned: what the users had before, most often first; owned_times_UJ, owned_age_days_UJ: how
            often, and how many days ago the last time.
        stats_UF: user statistics.
    """

    items: ItemBatch
    texts: TextBatch
    past_words_YN: Tensor
    request_B: Tensor
    text_B: Tensor
    real_time: Padded
    real_time_age_s_UT: Tensor
    short_term: Padded
    long_term: dict[str, Bags]
    queries: Padded
    owned: Padded
    owned_times_UJ: Tensor
    owned_age_days_UJ: Tensor
    stats_UF: Tensor

    @cached_property
    def blocks(self) -> Blocks:
        """The lines, gathered by request."""
        return moved(Blocks.of(self.request_B.cpu().numpy()), self.request_B.device)

    @property
    def clicks(self) -> Padded:
        """All recent clicks, short-term and real-time."""
        return self.short_term.beside(self.real_time)


def moved(value: _T, device: torch.device) -> _T:
    """What lies on the processor, on a device: a tensor, or what is made of tensors."""
    if device.type == "cpu":
        return value
    there: Any = value
    if isinstance(value, Tensor):
        there = value.to(device)
    elif isinstance(value, dict):
        there = {key: moved(each, device) for key, each in value.items()}
    elif is_dataclass(value) and not isinstance(value, type):
        parts = {each.name: moved(getattr(value, each.name), device) for each in fields(value)}
        there = replace(value, **parts)
    elif callable(value):
        there = partial(_moved_when_asked, value, device)
    return cast(_T, there)


def _moved_when_asked(value: Callable[[], Tensor], device: torch.device) -> Tensor:
    return value().to(device)


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
        request_B, text_B: each line's row in `behaviour` and in `texts`; at least one line.
    """
    sequences = [
        behaviour.real_time,
        behaviour.short_term,
        behaviour.owned.item,
        *behaviour.long_term.values(),
    ]
    # The unknown item, which embeds to zero, comes first: place 0 is padding too.
    item_numbers, places = np.unique(
        np.concatenate([np.zeros(1, np.int32), *(each.values for each in sequences)]),
        return_inverse=True,
    )
    ends = 1 + np.cumsum([0] + [len(each.values) for each in sequences])
    real_time, short_term, owned, *long_term = (
        Ragged(places[start:end], each.offsets)
        for start, end, each in zip(ends, ends[1:], sequences, strict=False)
    )
    texts_X, text_place_B = np.unique(text_B, return_inverse=True)
    # Padding of previous queries needs a place: number 0 of `texts` is as good as any.
    texts_Y, places = np.unique(
        np.concatenate([np.zeros(1, np.int32), behaviour.queries.values]), return_inverse=True
    )
    queries = Ragged(places[1:], behaviour.queries.offsets)
    return UserBatch(
        items=item_batch(item_numbers, catalogue),
        texts=text_batch(texts_X, texts),
        past_words_YN=_numbers(texts.words.take(texts_Y)),
        request_B=torch.from_numpy(request_B.astype(np.int64)),
        text_B=torch.from_numpy(text_place_B),
        real_time=_padded(real_time),
        real_time_age_s_UT=_numbers(behaviour.real_time_age_s),
        short_term=_padded(short_term),
        long_term={
            action: Bags(
                at=torch.from_numpy(each.values), starts_U=torch.from_numpy(each.offsets[:-1])
            )
            for action, each in zip(behaviour.long_term, long_term, strict=True)
        },
        queries=_padded(queries),
        owned=_padded(owned),
        owned_times_UJ=_numbers(behaviour.owned.times),
        owned_age_days_UJ=_numbers(behaviour.owned.age_days),
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
        title_words=lambda: _numbers(catalogue.titles.take(numbers)),
        title_trigrams=lambda: _numbers(catalogue.title_trigrams.take(numbers)),
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
