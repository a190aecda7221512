"""Query understanding and relevance control: what brands and categories a query names.

A term is a value of a field in the catalogue's own words, found in the query word by word, the
longest first, left to right. Of a category any run of its words will do: "fluid milk" names the
leaf of that name and "fluid milk white only" alike. A term of several fields or values is
satisfied by any of them.

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
from pagoda.shelf import Mask, Shelf
from pagoda.text import units_of

WHOLE = ("brand", "colour")
IN_PART = ("leaf_category", "category", "first_category")
# A run of words that more values share, or that is shorter, names nothing in particular.
_MOST_VALUES = 100
_FEWEST_LETTERS = 3


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


Phrase = tuple[str, ...]


class Vocabulary:
    """Every term of a catalogue."""

    def __init__(self, shelf: Shelf) -> None:
        found: dict[Phrase, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
        for field in (*WHOLE, *IN_PART):
            for value in shelf.values(field):
                words = tuple(units_of(value).words)
                for phrase in _runs(words) if field in IN_PART else {words}:
                    found[phrase][field].append(value)
        self._clauses = {
            phrase: {field: tuple(sorted(values)) for field, values in fields.items()}
            for phrase, fields in found.items()
            if _is_term(phrase, sum(map(len, fields.values())))
        }
        self._longest = max(map(len, self._clauses), default=0)

    def __len__(self) -> int:
        return len(self._clauses)

    def terms(self, query: str) -> list[Term]:
        """The terms in a query, in its order, none overlapping another, each once."""
        words = units_of(query).words
        found: dict[Phrase, Term] = {}
        at = 0
        while at < len(words):
            phrase = self._phrase_at(words, at)
            if phrase:
                found[phrase] = Term(phrase=" ".join(phrase), clause=self._clauses[phrase])
            at += len(phrase) or 1
        return list(found.values())

    def _phrase_at(self, words: Sequence[str], at: int) -> Phrase:
        for length in range(min(self._longest, len(words) - at), 0, -1):
            phrase = tuple(words[at : at + length])
            if phrase in self._clauses:
                return phrase
        return ()


def _runs(words: Phrase) -> set[Phrase]:
    """Every run of neighbouring words; the whole is one, however short."""
    ends = range(1, len(words) + 1)
    runs = {words[start:end] for end in ends for start in range(end)}
    return {run for run in runs if run == words or sum(map(len, run)) >= _FEWEST_LETTERS}


def _is_term(phrase: Phrase, values: int) -> bool:
    """A manufacturer called "64" is not what "64 oz" asks for."""
    return values <= _MOST_VALUES and any(not word.isdigit() for word in phrase)


def satisfying(shelf: Shelf, terms: Sequence[Term]) -> Mask:
    """The items that satisfy all of these terms, bool [N]."""
    mask = np.ones(len(shelf), bool)
    for term in terms:
        mask &= shelf.satisfying(term.clause)
    return mask


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
