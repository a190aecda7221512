"""DSSM: deep structured semantic model (Huang et al., CIKM 2013).

Equations, departures and results: docs/models/dssm.md.

Shape legend: B lines, U requests, X distinct texts, M items, N letter trigrams, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional

from pagoda.models.base import TwoTowers
from pagoda.models.inputs import ItemBatch, UserBatch
from pagoda.models.parts import sequence_mean
from pagoda.models.tables import Sizes, Table


@dataclass(frozen=True, kw_only=True)
class DssmConfig:
    """Widths and form.

    Attributes:
        width: of the vectors, the last layer. hidden: the layers before it.
        history: the user-item form: the mean bag of the clicked items' titles joins the query's.
    """

    width: int = 128
    hidden: tuple[int, ...] = (300, 300)
    history: bool = False

    def __post_init__(self) -> None:
        if not self.hidden:
            raise ValueError("DSSM needs at least one hidden layer")

    @property
    def needs_queries(self) -> bool:
        """Whether it knows nothing without a query's text."""
        return not self.history

    def build(self, sizes: Sizes) -> Dssm:
        """The model with these tables, randomly initialised."""
        return Dssm(self, sizes)


class Dssm(TwoTowers):
    """Query and title as bags of letter trigrams, each through its own layers; score = cosine."""

    def __init__(self, config: DssmConfig, sizes: Sizes) -> None:
        super().__init__()
        self.config = config
        layers = [*config.hidden, config.width]
        self.query, self.document = (Letters(sizes, layers) for _ in range(2))

    def encode_user(self, batch: UserBatch) -> Tensor:
        """User vectors, [B, D]."""
        bag_BD = self.query.bag(batch.texts.trigrams_XN).index_select(0, batch.text_B)
        if self.config.history:
            titles_MD = self.query.bag(batch.items.title_trigrams())
            titles_UD = sequence_mean(titles_MD, batch.clicks)
            bag_BD = bag_BD + titles_UD.index_select(0, batch.request_B)
        out: Tensor = self.query(bag_BD)
        return out

    def encode_item(self, items: ItemBatch) -> Tensor:
        """Item vectors, [M, D]."""
        out: Tensor = self.document(self.document.bag(items.title_trigrams()))
        return out


class Letters(nn.Module):
    """A bag of letter trigrams through tanh layers to unit length.

    The first layer over 30k counts is a table's rows, summed: the same product.
    """

    def __init__(self, sizes: Sizes, layers: Sequence[int]) -> None:
        super().__init__()
        self.first = Table.of(sizes, "trigram", layers[0])
        self.bias = nn.Parameter(self.first.weight.new_zeros(layers[0]))
        self.deep = nn.ModuleList(nn.Linear(*widths) for widths in pairwise(layers))

    def bag(self, trigrams_XN: Tensor) -> Tensor:
        """`W1 x` of the counts x, [X, first width]; zero for a text without letters."""
        return functional.embedding_bag(
            trigrams_XN, self.first.weight, mode="sum", sparse=True, padding_idx=0
        )

    def forward(self, bag_BD: Tensor) -> Tensor:
        """[B, D]."""
        hidden_BD = (bag_BD + self.bias).tanh()
        for layer in self.deep:
            hidden_BD = layer(hidden_BD).tanh()
        return functional.normalize(hidden_BD, dim=-1)
