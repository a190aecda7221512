"""Pairs of a query and an item to learn relevance from: labelled ones, and generated mismatches.

People label what a search engine found, which is seldom far off. So that a model learns what makes
an item wrong, each good pair is also told from

    brand, colour, category   the same item, and the query with another value in the place of one
                              that it names and the item has
    random                    the same query, and any other labelled item

Source: Nguyen et al., ACL 2020 (arXiv 2005.03624), whose generator of such queries is learned; that
values are swapped, and which, is our reading.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from pagoda.ids import keys_of
from pagoda.models.relevance import FIELDS
from pagoda.shelf import Shelf
from pagoda.text import units_of
from pagoda.understanding import IN_PART, WHOLE, Vocabulary
from training.labels import Labels

LABELLED, RANDOM = "labelled", "random"
KIND_OF = {**{field: field for field in WHOLE}, **dict.fromkeys(IN_PART, "category")}
KINDS = (LABELLED, RANDOM, *dict.fromkeys(KIND_OF.values()))
_TRIES = 20

Words = tuple[str, ...]


class Pair(NamedTuple):
    """A query, an item's row in the table, whether it is relevant, and which of KINDS this is."""

    query: str
    item: int
    good: bool
    kind: str


def pairs(labels: Labels, items: pa.Table, *, seed: int) -> list[Pair]:
    """Every label of an item that is there, and behind each good one its mismatches.

    Where not only the form's best label is good, an item of another brand or colour may be: then
    neither is swapped.

    Args:
        items: the labelled ones, with the columns of `pagoda.models.catalogue.FIELDS`, ascending
            by item_key.
    """
    dice = np.random.default_rng(seed)
    swaps = Swaps(items)
    row_of = {key: row for row, key in enumerate(items["item_key"].to_pylist())}
    kinds = set(KINDS) if labels.best else {"category"}
    found = []
    for query, of_query in sorted(labels.good.items()):
        rows = [row_of.get(key) for key in keys_of("item", of_query).tolist()]
        for row, good in zip(rows, of_query.values(), strict=True):
            if row is None:
                continue
            found.append(Pair(query, row, good, LABELLED))
            if not good:
                continue
            other = int(dice.integers(len(items)))
            if other not in rows:
                found.append(Pair(query, other, False, RANDOM))
            found += [
                Pair(swapped, row, False, kind)
                for kind, swapped in swaps.of(query, row, dice)
                if kind in kinds
            ]
    return found


class Swaps:
    """Queries that ask for something else than an item."""

    def __init__(self, items: pa.Table) -> None:
        shelf = Shelf(items)
        self._items = items.select(FIELDS).to_pylist()
        self._terms = cache(Vocabulary(shelf).terms)
        self._values = {field: [_words(each) for each in shelf.values(field)] for field in KIND_OF}

    def of(self, query: str, row: int, dice: np.random.Generator) -> Iterator[tuple[str, str]]:
        """Of each kind at most one: (kind, the query with what it names of the item swapped)."""
        item = self._items[row]
        own = {word for text in item.values() for word in _words(text)}
        done = set()
        for term in self._terms(query):
            phrase = tuple(term.phrase.split(" "))
            for field, kind in KIND_OF.items():
                if kind in done or item[field] not in term.clause.get(field, ()):
                    continue
                if other := self._other(field, phrase, own, dice):
                    done.add(kind)
                    yield kind, _replaced(_words(query), phrase, other)

    def _other(self, field: str, phrase: Words, own: set[str], dice: np.random.Generator) -> Words:
        """A value with words that the item lacks and none of the phrase; () if draws find none."""
        values = self._values[field]
        places: list[int] = dice.integers(len(values), size=_TRIES).tolist()
        for at in places:
            if not set(values[at]) <= own and not set(values[at]) & set(phrase):
                return values[at]
        return ()


def _words(text: str | None) -> Words:
    return tuple(units_of(text or "").words)


def _replaced(words: Words, phrase: Words, other: Words) -> str:
    """The words with another phrase where this one first stands."""
    size = len(phrase)
    at = next(at for at in range(len(words)) if words[at : at + size] == phrase)
    return " ".join((*words[:at], *other, *words[at + size :]))
