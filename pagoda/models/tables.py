"""Embedding tables shared by both towers, and the item tower (systems.md 1.1 and 1.4).

Shape legend: M items, N units of a text, X texts, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pagoda.models.behaviour import stats_width
from pagoda.models.catalogue import ATTRIBUTES, Catalogue
from pagoda.models.inputs import ItemBatch, TextBatch
from pagoda.models.parts import unit_mean
from pagoda.text import Tokenizer

TEXT_UNITS = 3  # words, word bigrams, letter trigrams
_INITIAL_STD = 0.01


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Rows of each embedding table, row 0 (padding, unknown) included, and other widths.

    Attributes:
        stats: F of the user statistics (`pagoda.models.behaviour.stats_width`).
    """

    item: int
    leaf: int
    first: int
    brand: int
    shop: int
    word: int
    bigram: int
    trigram: int
    stats: int = 1

    @classmethod
    def of(cls, catalogue: Catalogue, tokenizer: Tokenizer, *, stats: Sequence[str] = ()) -> Sizes:
        """The sizes that a catalogue, a tokenizer and the service's user statistics need."""
        return cls(
            item=len(catalogue) + 1,
            **{name: int(catalogue.attributes[name].max()) + 1 for name in ATTRIBUTES},
            word=tokenizer.words.size,
            bigram=tokenizer.bigrams.size,
            trigram=tokenizer.trigrams.size,
            stats=stats_width(stats),
        )


class Table(nn.Embedding):
    """An embedding table; row 0 is zero and never trained, gradients are sparse.

    Attributes:
        kind: whose numbers its rows are, a field of `Sizes`: so that rows can be told by what they
            stand for when a catalogue is numbered anew. None: they mean the same for ever.
    """

    def __init__(self, rows: int, width: int, *, kind: str | None = None) -> None:
        super().__init__(rows, width, padding_idx=0, sparse=True)
        self.kind = kind
        with torch.no_grad():
            self.weight.normal_(std=_INITIAL_STD)
            self.weight[0].zero_()

    @classmethod
    def of(cls, sizes: Sizes, kind: str, width: int) -> Table:
        """The table of one kind of number."""
        return cls(getattr(sizes, kind), width, kind=kind)


class Tables(nn.Module):
    """One table for each kind of number, for both towers; row 0 is zero and never trained.

    Gradients are sparse: a step costs the rows it touches, however many items there are.
    """

    def __init__(self, sizes: Sizes, *, width: int, attribute_width: int) -> None:
        super().__init__()
        self.item = Table.of(sizes, "item", width)
        self.attributes = nn.ModuleDict(
            {name: Table.of(sizes, name, attribute_width) for name in ATTRIBUTES}
        )
        self.word = Table.of(sizes, "word", width)
        self.bigram = Table.of(sizes, "bigram", width)
        self.trigram = Table.of(sizes, "trigram", width)

    def units(self, texts: TextBatch) -> Tensor:
        """`[mean(words); mean(word bigrams); mean(letter trigrams)]`, [X, TEXT_UNITS · D]."""
        means_X3D = [
            unit_mean(self.word, texts.words_XN),
            unit_mean(self.bigram, texts.bigrams_XN),
            unit_mean(self.trigram, texts.trigrams_XN),
        ]
        return torch.cat(means_X3D, -1)

    def title(self, items: ItemBatch) -> Tensor:
        """Mean of the title's words, [M, D]."""
        return unit_mean(self.word, items.title_MN)


class ItemEmbedding(nn.Module):
    """`e_i = W [e_id; e_leaf; e_first; e_brand; e_shop]`, and the tables that it reads.

    Args:
        side: False keeps the paper's own `e_i = e_id` (switch `item_side`).
    """

    def __init__(self, sizes: Sizes, *, width: int, attribute_width: int, side: bool) -> None:
        super().__init__()
        self.tables = Tables(sizes, width=width, attribute_width=attribute_width)
        self.side = side
        self.project = nn.Linear(width + attribute_width * len(ATTRIBUTES), width, bias=False)

    def embed(self, items: ItemBatch) -> Tensor:
        """`e_i`, [M, D]: how an item stands in a sequence."""
        e_id_MD: Tensor = self.tables.item(items.item_M)
        if not self.side:
            return e_id_MD
        parts = [e_id_MD, *self.attribute_embeddings(items).values()]
        projected: Tensor = self.project(torch.cat(parts, -1))
        return projected

    def attribute_embeddings(self, items: ItemBatch) -> Mapping[str, Tensor]:
        """Each attribute's own embedding, [M, attribute width]."""
        return {name: self.tables.attributes[name](items.attributes[name]) for name in ATTRIBUTES}


class ItemTower(ItemEmbedding):
    """MGDSPR's: `item = e_i + tanh(W_t mean(title))`."""

    def __init__(self, sizes: Sizes, *, width: int, attribute_width: int, side: bool) -> None:
        super().__init__(sizes, width=width, attribute_width=attribute_width, side=side)
        self.title = nn.Linear(width, width, bias=False)

    def forward(self, items: ItemBatch) -> Tensor:
        """Item vectors, [M, D]; nothing is normalised."""
        return self.titled(self.embed(items), items)

    def titled(self, e_MD: Tensor, items: ItemBatch) -> Tensor:
        """The same from items that are embedded already."""
        out: Tensor = e_MD + torch.tanh(self.title(self.tables.title(items)))
        return out
