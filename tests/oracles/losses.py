"""Softmax losses by loops over plain numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence

Vectors = Sequence[Sequence[float]]


def dot(left: Sequence[float], right: Sequence[float]) -> float:
    """Inner product."""
    return sum(a * b for a, b in zip(left, right, strict=True))


def sampled_softmax(
    users: Vectors,
    items: Vectors,
    *,
    positive: Sequence[int],
    baskets: Sequence[set[int]],
    q: Sequence[float] | None,
    correct_positive: bool,
    temperature: float,
    mixed: Vectors | None = None,
) -> float:
    """Mean over lines of -log of the positive's share.

    A line's negatives are the items outside of its basket, each weighed by 1/q (so is the positive
    if asked for), and its mixed scores as they are.
    """
    losses = []
    for line, (user, own, basket) in enumerate(zip(users, positive, baskets, strict=True)):
        weight = 1 / q[own] if q and correct_positive else 1
        top = math.exp(dot(user, items[own]) / temperature) * weight
        others = sum(
            math.exp(dot(user, item) / temperature) / (q[number] if q else 1)
            for number, item in enumerate(items)
            if number not in basket
        )
        others += sum(map(math.exp, mixed[line])) if mixed else 0
        losses.append(-math.log(top / (top + others)))
    return sum(losses) / len(losses)


def pairwise_hinge(
    scores: Vectors, positive: Sequence[int], baskets: Sequence[set[int]], *, margin: float
) -> float:
    """Mean over all pairs of a line's item and an item outside of its basket."""
    hinges = [
        max(0.0, margin - row[own] + score)
        for row, own, basket in zip(scores, positive, baskets, strict=True)
        for number, score in enumerate(row)
        if number not in basket
    ]
    return sum(hinges) / len(hinges)


def full_softmax_gradient(
    user: Sequence[float],
    items: Vectors,
    positive: int,
    temperature: float,
    again: Sequence[int] = (),
) -> tuple[list[float], list[list[float]]]:
    """Gradients of -log softmax over all items, some of them counted twice.

    By the user's vector, and by each item's.
    """
    weights = [
        math.exp(dot(user, item) / temperature) * (2 if number in again else 1)
        for number, item in enumerate(items)
    ]
    total = sum(weights)
    by_score = [
        (weight / total - (number == positive)) / temperature
        for number, weight in enumerate(weights)
    ]
    of_user = [
        sum(score * item[place] for score, item in zip(by_score, items, strict=True))
        for place in range(len(user))
    ]
    return of_user, [[score * each for each in user] for score in by_score]
