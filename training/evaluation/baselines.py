"""What the towers have to beat: popularity, BM25, words and popularity, repeat purchases.

An item's text is its first category and title, cut into words, Chinese into characters: so what
these methods find does not depend on a model's segmentation. Candidates stand in order of
popularity, which therefore breaks ties.

Shape legend: N candidates, B lines.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import numpy.typing as npt

from pagoda.text import units_of
from training.evaluation.metrics import MISSED, Ranks

_K1, _B = 1.2, 0.75  # Robertson & Zaragoza, 2009: the usual choice

Scores = npt.NDArray[np.float32]


class TextIndex:
    """An inverted index over N texts."""

    def __init__(self, texts: Sequence[str]) -> None:
        words = [units_of(text).words for text in texts]
        self.size = len(words)
        postings: dict[str, tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
        for item, found in enumerate(words):
            for word, count in Counter(found).items():
                postings[word][0].append(item)
                postings[word][1].append(count)
        self._postings = {
            word: (np.array(items), np.array(counts, np.float32))
            for word, (items, counts) in postings.items()
        }
        lengths = np.array([len(found) for found in words], np.float32)
        mean = float(lengths.mean()) if len(lengths) else 0.0
        self._norm = _K1 * (1 - _B + _B * lengths / max(mean, 1e-9))

    def bm25(self, query: str, among: npt.NDArray[np.integer] | None = None) -> Scores:
        """BM25 of every text, [N], or of those `among` them alone, each query word once."""
        score = np.zeros(self.size if among is None else len(among), np.float32)
        for word in dict.fromkeys(units_of(query).words):
            items, counts = self._postings.get(word, _NOTHING)
            idf = math.log(1 + (self.size - len(items) + 0.5) / (len(items) + 0.5))
            places = items
            if among is not None:
                held = np.isin(among, items)
                at = items.searchsorted(among[held])
                places, items, counts = np.flatnonzero(held), items[at], counts[at]
            score[places] += idf * counts * (_K1 + 1) / (counts + self._norm[items])
        return score

    def matches(self, query: str) -> npt.NDArray[np.bool_]:
        """Which texts hold every word of the query, [N]."""
        words = set(units_of(query).words)
        held = np.zeros(self.size, np.int64)
        for word in words:
            held[self._postings.get(word, _NOTHING)[0]] += 1
        found: npt.NDArray[np.bool_] = held == len(words)
        return found


_NOTHING = (np.empty(0, np.int64), np.empty(0, np.float32))


def most_popular(target_B: npt.NDArray[np.integer]) -> Ranks:
    """Candidates stand in order of popularity: the target's place is its rank."""
    return np.where(target_B >= 0, target_B, MISSED).astype(np.int64)


def by_words(
    index: TextIndex,
    queries: Sequence[str],
    owned: Sequence[npt.NDArray[np.integer]],
    target_B: npt.NDArray[np.integer],
    *,
    watched: Callable[[Sequence[str]], Iterable[str]] = iter,
) -> dict[str, Ranks]:
    """Ranks of three methods, by name.

    `bm25`; `popular among matching`: items with every query word first, by popularity; `repeat
    first`: of these, the user's own past items before all others, the most often taken first.

    Args:
        owned: each line's user's past items, one entry an event (so that counts can be told).
        watched: goes through the distinct queries and may show how far it is.
    """
    lines_of: dict[str, list[int]] = defaultdict(list)
    for line, query in enumerate(queries):
        lines_of[query].append(line)
    ranks = {name: np.empty(len(queries), np.int64) for name in ("bm25", *_MATCHING)}
    for query in watched(list(lines_of)):
        lines = lines_of[query]
        targets = target_B[lines]
        matches = index.matches(query)
        place_N = _places(matches.astype(np.float32))
        ranks["bm25"][lines] = _at(_places(index.bm25(query)), targets)
        ranks["popular among matching"][lines] = _at(place_N, targets)
        for line, target in zip(lines, targets, strict=True):
            own, counts = np.unique(owned[line][matches[owned[line]]], return_counts=True)
            ranks["repeat first"][line] = _rank_lifted(place_N, own, counts, target)
    return ranks


_MATCHING = ("popular among matching", "repeat first")


def rankings(
    index: TextIndex, query: str, owned: npt.NDArray[np.integer]
) -> dict[str, npt.NDArray[np.int64]]:
    """All candidates in the order of each of these methods, the best first, [N] each.

    Args:
        owned: the user's past items, one entry an event.
    """
    matches = index.matches(query)
    own, counts = np.unique(owned[matches[owned]], return_counts=True)
    lifted = own[np.argsort(-counts, kind="stable")]
    matching = np.argsort(~matches, kind="stable")
    popular, repeat = _MATCHING
    return {
        "bm25": np.argsort(-index.bm25(query), kind="stable"),
        popular: matching,
        repeat: np.concatenate([lifted, matching[~np.isin(matching, lifted)]]),
    }


def _rank_lifted(
    place_N: npt.NDArray[np.int64],
    own: npt.NDArray[np.integer],
    counts: npt.NDArray[np.integer],
    target: int,
) -> int:
    """The target's rank once own items stand before all others, by count and then by place."""
    if target < 0:
        return int(MISSED)
    at = np.flatnonzero(own == target)
    if len(at):
        count = counts[at[0]]
        earlier = place_N[own] < place_N[target]
        return int(np.count_nonzero((counts > count) | ((counts == count) & earlier)))
    return int(place_N[target] + np.count_nonzero(place_N[own] > place_N[target]))


def _places(score_N: Scores) -> npt.NDArray[np.int64]:
    """Each candidate's rank under one scoring, ties by column."""
    place_N = np.empty(len(score_N), np.int64)
    place_N[np.argsort(-score_N, kind="stable")] = np.arange(len(score_N))
    return place_N


def _at(place_N: npt.NDArray[np.int64], targets: npt.NDArray[np.integer]) -> Ranks:
    return np.where(targets >= 0, place_N[np.maximum(targets, 0)], MISSED)
