"""Query understanding and relevance control: what brands and categories a query names.

A term is a whole value of a field ("frozen pizza", as the catalogue's own words), found in the
query word by word, the longest first, left to right. A term of several fields or values (the
category and the leaf "cheese") is satisfied by any of them.

Relevance control keeps what the terms ask for: as a filter inside the search, or on its results.
Terms that would leave too few items are dropped, the most selective first, so that an embedding's
neighbours fill up behind the few that satisfy all. Source: MGDSPR (KDD 2021), section 3.5.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pagoda.filters import Clause
from pagoda.text import units_of
from serving.shelf import Mask, Shelf

FIELDS = ("brand", "leaf_category", "category", "first_category", "colour")


@dataclass(frozen=True, kw_only=True)
class Term:
    """Words of the query that name something.

    Attributes:
        phrase: the words, as understood.
        clause: field to the values that they name.
    """

    phrase: str
    clause: Clause


@dataclass(frozen=True, kw_only=True, eq=False)
class Control:
    """What relevance control decided for one query.

    Attributes:
        kept, dropped: terms; together all that were recognised.
        matches: items that satisfy the request's filters and all kept terms.
        exact: those of them that satisfy the dropped terms too.
    """

    kept: tuple[Term, ...]
    dropped: tuple[Term, ...]
    matches: int
    exact: int


class Vocabulary:
    """Every term of a catalogue."""

    def __init__(self, shelf: Shelf) -> None:
        found: dict[tuple[str, ...], dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
        for field in FIELDS:
            for value in shelf.values(field):
                words = tuple(units_of(value).words)
                # A manufacturer called "64" is not what "64 oz" asks for.
                if words and not all(word.isdigit() for word in words):
                    found[words][field].append(value)
        self._clauses = {
            words: {field: tuple(sorted(values)) for field, values in fields.items()}
            for words, fields in found.items()
        }
        self._longest = max((len(words) for words in self._clauses), default=0)

    def __len__(self) -> int:
        return len(self._clauses)

    def terms(self, query: str) -> list[Term]:
        """The terms in a query, in its order, none overlapping another, each once."""
        words = units_of(query).words
        found: dict[tuple[str, ...], Term] = {}
        at = 0
        while at < len(words):
            phrase = self._phrase_at(words, at)
            if phrase:
                found[phrase] = Term(phrase=" ".join(phrase), clause=self._clauses[phrase])
            at += len(phrase) or 1
        return list(found.values())

    def _phrase_at(self, words: Sequence[str], at: int) -> tuple[str, ...]:
        for length in range(min(self._longest, len(words) - at), 0, -1):
            phrase = tuple(words[at : at + length])
            if phrase in self._clauses:
                return phrase
        return ()


def control(shelf: Shelf, terms: Sequence[Term], *, passing: Mask, min_relevant: int) -> Control:
    """Keep the terms that leave enough of the items that pass the request's own filters.

    Args:
        passing: those items, bool [N].
        min_relevant: fewer matches than this (or than `passing` has) are too few.
    """
    enough = min(min_relevant, int(passing.sum()))
    masks = {term.phrase: shelf.satisfying(term.clause) & passing for term in terms}

    def matches(some: Sequence[Term]) -> int:
        return int(np.logical_and.reduce([passing, *(masks[term.phrase] for term in some)]).sum())

    kept = sorted(terms, key=lambda term: -int(masks[term.phrase].sum()))
    exact = matches(kept)
    while matches(kept) < enough:
        kept.pop()
    return Control(
        kept=tuple(term for term in terms if term in kept),
        dropped=tuple(term for term in terms if term not in kept),
        matches=matches(kept),
        exact=exact,
    )
