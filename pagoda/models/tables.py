"""Embedding tables shared by both towers, and the item tower.

Shape legend: M items, N units of a text, X texts, D width, K hash functions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from pydantic import TypeAdapter
from torch import Tensor, nn

from pagoda.models.behaviour import stats_width
from pagoda.models.catalogue import ATTRIBUTES, Catalogue
from pagoda.models.inputs import ItemBatch, TextBatch
from pagoda.models.parts import masked_mean, unit_mean
from pagoda.text import Tokenizer

TEXT_UNITS = 3  # words, word bigrams, letter trigrams
_INITIAL_STD = 0.01
_MIXERS = (0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64)
_POSITIVE = 2**63 - 1


@dataclass(frozen=True, kw_only=True)
class Hashed:
    """So many rows for however many numbers: a number has the sum of the rows that it hashes to.

    One function is the hashing trick, `n mod rows`; two are double hashing. Each further one mixes
    the bits of n before: numbers that share one row then share all of them as seldom as if drawn.
    With as many rows as numbers, the hashing trick is the full table.

    Attributes:
        rows: beside row 0.
        functions: how many rows a number has.
    Docs: docs/models/README.md, Embedding schemes.
    """

    rows: int
    functions: int = 1

    def __post_init__(self) -> None:
        if min(self.rows, self.functions) < 1:
            raise ValueError("a hashed table needs rows >= 1 and functions >= 1")

    def rows_of(self, numbers: Tensor) -> Tensor:
        """The rows of each number, int64 [..., K]; number 0 has row 0, K times."""
        numbers = numbers.long()
        further = (_mixed(numbers + (each << 32)) & _POSITIVE for each in range(1, self.functions))
        hashes_K = torch.stack([numbers - 1, *further], -1)
        return (hashes_K % self.rows + 1) * (numbers > 0).unsqueeze(-1)


def _mixed(bits: Tensor) -> Tensor:
    """SplitMix64's mixing function (Steele et al., OOPSLA 2014), int64 for int64; products wrap.

    Not `(a n + b) mod p`: of numbers in equal steps, as those that share the row `n mod rows` are,
    it makes few different ones for an unlucky a.
    """
    for shift, mixer in zip((30, 27), _MIXERS, strict=True):
        bits = (bits ^ _shifted(bits, shift)) * mixer
    return bits ^ _shifted(bits, 31)


def _shifted(bits: Tensor, by: int) -> Tensor:
    return (bits >> by) & ((1 << 64 - by) - 1)  # without the sign, which torch's shift keeps


@dataclass(frozen=True, kw_only=True)
class Schemes:
    """How items and attribute values are embedded; None: each has a row of its own."""

    item: Hashed | None = None
    leaf: Hashed | None = None
    first: Hashed | None = None
    brand: Hashed | None = None
    shop: Hashed | None = None

    def of(self, kind: str) -> Hashed | None:
        """The scheme of a kind of number; text units have rows of their own."""
        found: Hashed | None = getattr(self, kind, None)
        return found

    @property
    def hashed(self) -> list[str]:
        """The kinds that share rows."""
        return [kind for kind in ("item", *ATTRIBUTES) if self.of(kind)]


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Numbers of each kind, 0 (padding, unknown) included, how they are embedded, other widths.

    Attributes:
        stats: F of the user statistics (`pagoda.models.behaviour.stats_width`).
        schemes: bundles of before there were any have none.
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
    schemes: Schemes = field(default_factory=Schemes)

    @classmethod
    def of(
        cls,
        catalogue: Catalogue,
        tokenizer: Tokenizer,
        *,
        stats: Sequence[str] = (),
        schemes: Schemes | None = None,
    ) -> Sizes:
        """The sizes that a catalogue, a tokenizer and the service's user statistics need."""
        return cls(
            item=len(catalogue) + 1,
            **{name: int(catalogue.attributes[name].max()) + 1 for name in ATTRIBUTES},
            word=tokenizer.words.size,
            bigram=tokenizer.bigrams.size,
            trigram=tokenizer.trigrams.size,
            stats=stats_width(stats),
            schemes=schemes or Schemes(),
        )

    @classmethod
    def read(cls, recorded: Mapping[str, Any]) -> Sizes:
        """Sizes as a bundle's manifest has them. Raises: ValueError."""
        return TypeAdapter(cls).validate_python(recorded)


class Table(nn.Embedding):
    """An embedding table; row 0 is zero and never trained, gradients are sparse.

    Attributes:
        kind: whose numbers its rows are, a field of `Sizes`: so that rows can be told by what they
            stand for when a catalogue is numbered anew. None: they mean the same for ever.
        scheme: how numbers share its rows; None: each has its own.
    """

    def __init__(
        self, numbers: int, width: int, *, kind: str | None = None, scheme: Hashed | None = None
    ) -> None:
        rows = 1 + scheme.rows if scheme else numbers
        super().__init__(rows, width, padding_idx=0, sparse=True)
        self.kind = kind
        self.scheme = scheme
        with torch.no_grad():
            self.weight.normal_(std=_INITIAL_STD)
            self.weight[0].zero_()

    @classmethod
    def of(cls, sizes: Sizes, kind: str, width: int) -> Table:
        """The table of one kind of number."""
        return cls(getattr(sizes, kind), width, kind=kind, scheme=sizes.schemes.of(kind))

    def forward(self, numbers: Tensor) -> Tensor:
        """[..., width]."""
        if self.scheme is None:
            return super().forward(numbers)
        return super().forward(self.scheme.rows_of(numbers)).sum(-2)


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
        return unit_mean(self.word, items.title_words())


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
    """MGDSPR's: `item = e_i + tanh(W_t mean(title))`.

    Args:
        reader: what reads the title's words, [M, N, D] and their mask, before the mean; None: they
            are averaged as they are.
    """

    def __init__(
        self,
        sizes: Sizes,
        *,
        width: int,
        attribute_width: int,
        side: bool,
        reader: nn.Module | None = None,
    ) -> None:
        super().__init__(sizes, width=width, attribute_width=attribute_width, side=side)
        self.title = nn.Linear(width, width, bias=False)
        self.reader = reader

    def forward(self, items: ItemBatch) -> Tensor:
        """Item vectors, [M, D]; nothing is normalised."""
        return self.titled(self.embed(items), items)

    def titled(self, e_MD: Tensor, items: ItemBatch) -> Tensor:
        """The same from items that are embedded already."""
        out: Tensor = e_MD + torch.tanh(self.title(self._title(items)))
        return out

    def _title(self, items: ItemBatch) -> Tensor:
        if self.reader is None:
            return self.tables.title(items)
        word_MN = items.title_words()
        mask_MN = word_MN > 0
        return masked_mean(self.reader(self.tables.word(word_MN), mask_MN), mask_MN)
