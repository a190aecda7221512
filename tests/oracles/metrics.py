"""Ranking metrics by sorting everything and looking."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence


def ranking(scores: Sequence[float]) -> list[int]:
    """Candidates from best to worst; of equal scores the earlier candidate first."""
    return sorted(range(len(scores)), key=lambda candidate: (-scores[candidate], candidate))


def rank(scores: Sequence[float], target: int) -> int | None:
    """How many candidates stand before the target, None if it is no candidate."""
    return ranking(scores).index(target) if 0 <= target < len(scores) else None


def recall(ranks: Sequence[int | None], k: int) -> float:
    """Share of lines whose one relevant item is in the top k."""
    return sum(1 for rank in ranks if rank is not None and rank in range(k)) / len(ranks)


def ndcg(ranks: Sequence[int | None], k: int) -> float:
    """Discounted gain of the top k; with one relevant item the ideal gain is 1."""
    gains = [sum(1 / math.log2(place + 2) for place in range(k) if place == rank) for rank in ranks]
    return sum(gains) / len(gains)


def mrr(ranks: Sequence[int | None]) -> float:
    """Mean of one over the place, counted from 1; nothing for a miss."""
    return sum(0.0 if rank is None else 1 / (rank + 1) for rank in ranks) / len(ranks)


def auc(ranks: Sequence[int | None], pool: int) -> float:
    """Chance that the item stands before another candidate; nothing for a miss."""
    wins = [
        0.0 if rank is None else sum(1 for other in range(pool) if other > rank) for rank in ranks
    ]
    return sum(wins) / (pool - 1) / len(ranks)


def mean_of_drawn(gains: Sequence[float], users: Sequence[int], times: Mapping[int, int]) -> float:
    """The mean over the lines of users of whom each was drawn so many times."""
    drawn = [
        gain for gain, user in zip(gains, users, strict=True) for _ in range(times.get(user, 0))
    ]
    return sum(drawn) / len(drawn)


def quantile(values: Sequence[float], share: float) -> float:
    """Between the two values nearest to that share of the way, in proportion."""
    ordered = sorted(values)
    at = share * (len(ordered) - 1)
    below = math.floor(at)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (at - below) * (ordered[above] - ordered[below])


def bm25(documents: Sequence[Sequence[str]], query: Sequence[str]) -> list[float]:
    """BM25 with k1 = 1.2, b = 0.75, and each distinct query word once."""
    mean = sum(map(len, documents)) / len(documents)
    scores = []
    for document in documents:
        score = 0.0
        for word in set(query):
            holding = sum(1 for each in documents if word in each)
            idf = math.log(1 + (len(documents) - holding + 0.5) / (holding + 0.5))
            count = document.count(word)
            length = 1 - 0.75 + 0.75 * len(document) / mean
            score += idf * count * 2.2 / (count + 1.2 * length)
        scores.append(score)
    return scores


def repeat_first(
    documents: Sequence[Sequence[str]], query: Sequence[str], owned: Sequence[int]
) -> list[int]:
    """The user's own matching items by how often, then matching ones, then the rest."""

    def order(candidate: int) -> tuple[bool, int, bool, int]:
        matches = set(query) <= set(documents[candidate])
        times = Counter(owned)[candidate] if matches else 0
        return (times == 0, -times, not matches, candidate)

    return sorted(range(len(documents)), key=order)


def of_list(candidates: Sequence[tuple[float, int, int, int]], k: int = 10) -> dict[str, float]:
    """Metrics of one list of (score, popularity, key, grade): of equal scores the more popular
    first, of equally popular ones the smaller key."""
    ordered = sorted(candidates, key=lambda each: (-each[0], -each[1], each[2]))
    grades = [grade for *_, grade in ordered]
    first = next(place for place, grade in enumerate(grades, 1) if grade)
    return {
        "mrr": 1 / first,
        "p@1": float(first == 1),
        f"ndcg@{k}": _gain(grades, k) / _gain(sorted(grades, reverse=True), k),
    }


def _gain(grades: Sequence[int], k: int) -> float:
    return sum(grade / math.log2(place + 1) for place, grade in enumerate(grades[:k], 1))
