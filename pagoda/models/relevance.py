"""Whether an item is what a query asks for: decomposable attention between their words.

Each word looks for its like on the other side, is compared with what it found, and all comparisons
are pooled (Parikh et al., EMNLP 2016). Words look by cosine, so that the same word finds itself
before anything is learned, and two words of one meaning can come to find each other. An item's
words know which field they stand in.

Shape legend: P pairs, N words of a query, M of an item, D width, F field width, H hidden.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn
from torch.nn import functional

from pagoda.models.parts import attention_weights, masked_mean, mlp
from pagoda.models.ragged import Ints, Ragged
from pagoda.models.tables import Table
from pagoda.text import Tokenizer

FIELDS = ("title", "brand", "colour", "leaf_category", "category", "first_category")


@dataclass(frozen=True, eq=False)
class ItemTexts:
    """Items as their words, field after field.

    Attributes:
        words: numbers of the tokenizer. fields: of each word its place in FIELDS, from 1.
    """

    words: Ragged
    fields: Ragged

    @classmethod
    def of(cls, items: pa.Table, tokenizer: Tokenizer) -> ItemTexts:
        """The rows of a table that has FIELDS."""
        by_field = Ragged.concatenate(
            tokenizer.encode([text or "" for text in items[name].to_pylist()]).words
            for name in FIELDS
        )
        of_item = np.arange(len(by_field)).reshape(len(FIELDS), -1).T
        parts = by_field.take(of_item.reshape(-1))
        fields = np.repeat(np.tile(np.arange(1, len(FIELDS) + 1), len(items)), parts.lengths)
        offsets = parts.offsets[:: len(FIELDS)]
        return cls(Ragged(parts.values, offsets), Ragged(fields, offsets))

    def __len__(self) -> int:
        return len(self.words)

    def take(self, rows: Ints) -> ItemTexts:
        """These items, in this order, repeats allowed."""
        return ItemTexts(self.words.take(rows), self.fields.take(rows))


@dataclass(frozen=True, kw_only=True)
class RelevanceConfig:
    """Widths, and how sharply a word looks: cosines are multiplied by `focus`."""

    width: int = 32
    field_width: int = 8
    hidden: int = 32
    focus: float = 10.0

    def build(self, words: int) -> Relevance:
        """The model with a table of so many words, randomly initialised."""
        return Relevance(self, words)


class Relevance(nn.Module):
    """Two texts, nothing else: no user, no item's id, no vector of a retrieval model."""

    def __init__(self, config: RelevanceConfig, words: int) -> None:
        super().__init__()
        self.focus = config.focus
        self.word = Table(words, config.width)
        self.field = Table(len(FIELDS) + 1, config.field_width)
        self.compare = mlp([4 * config.width + config.field_width, config.hidden, config.hidden])
        self.head = mlp([4 * config.hidden, config.hidden, 1])

    def forward(self, query_PN: Tensor, item_PM: Tensor, field_PM: Tensor) -> Tensor:
        """Log odds that the item is relevant, [P]; numbers of words and fields, 0 is padding."""
        query_PND, item_PMD = (
            functional.normalize(self.word(each), dim=-1) for each in (query_PN, item_PM)
        )
        field_PMF = self.field(field_PM)
        cosine_PNM = self.focus * torch.bmm(query_PND, item_PMD.transpose(1, 2))
        in_query, in_item = query_PN > 0, item_PM > 0
        to_item_PNM = attention_weights(cosine_PNM, in_item.unsqueeze(1), zero_vector=False)
        to_query_PMN = attention_weights(
            cosine_PNM.transpose(1, 2), in_query.unsqueeze(1), zero_vector=False
        )
        pooled = [
            self._compared(query_PND, to_item_PNM @ item_PMD, to_item_PNM @ field_PMF, in_query),
            self._compared(item_PMD, to_query_PMN @ query_PND, field_PMF, in_item),
        ]
        logit_P1: Tensor = self.head(torch.cat(pooled, -1))
        return logit_P1.squeeze(-1)

    def _compared(self, own: Tensor, found: Tensor, field: Tensor, there: Tensor) -> Tensor:
        """Mean and maximum of the comparisons of words with what they found, [P, 2H].

        Args:
            own, found: [P, words, D]. field: of the item's word, [P, words, F].
            there: which are words and no padding, [P, words].
        """
        sides = torch.cat([own, found, own * found, (own - found).abs(), field], -1)
        compared = self.compare(sides).relu() * there.unsqueeze(-1)
        return torch.cat([masked_mean(compared, there), compared.amax(1)], -1)
