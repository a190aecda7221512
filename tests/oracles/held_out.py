"""Leave last out, and ranks among unseen items, by looking at one user after the other."""

from __future__ import annotations

from collections.abc import Sequence


def leave_last_out(lines: Sequence[tuple[str, str]]) -> dict[str, list[tuple[str, str]]]:
    """(user, item) lines in order of time, each in the part that it belongs to."""
    parts: dict[str, list[tuple[str, str]]] = {"train": [], "validation": [], "test": []}
    for number, (user, item) in enumerate(lines):
        later = [each for each, _ in lines[number + 1 :]].count(user)
        whole = [each for each, _ in lines].count(user)
        part = {0: "test", 1: "validation"}.get(later, "train") if whole >= 3 else "train"
        parts[part].append((user, item))
    return parts


def rank_among(scores: Sequence[float], target: int, others: Sequence[int]) -> int | None:
    """The target's place among itself and these others; of equal scores the earlier first."""
    if target < 0:
        return None
    among = sorted({target, *others}, key=lambda candidate: (-scores[candidate], candidate))
    return among.index(target)
