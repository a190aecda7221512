"""Leave last out, and ranks among unseen items, by looking at one user after the other."""

from __future__ import annotations

from collections.abc import Sequence

Line = tuple[str, str, int]


def leave_last_out(lines: Sequence[Line]) -> dict[str, list[Line]]:
    """(user, item, moment) lines in order of time, each in the part that it belongs to, if any."""
    parts: dict[str, list[Line]] = {"train": [], "validation": [], "test": []}
    for number, (user, item, t_ms) in enumerate(lines):
        own = [each for each in lines if each[0] == user]
        later = [each for each in lines[number + 1 :] if each[0] == user]
        part = {0: "test", 1: "validation"}.get(len(later), "train") if len(own) >= 3 else "train"
        if part == "train" and len(own) >= 3 and own[-2][2] == t_ms:
            continue  # its basket validates
        parts[part].append((user, item, t_ms))
    return parts


def rank_among(scores: Sequence[float], target: int, others: Sequence[int]) -> int | None:
    """The target's place among itself and these others; of equal scores the earlier first."""
    if target < 0:
        return None
    among = sorted({target, *others}, key=lambda candidate: (-scores[candidate], candidate))
    return among.index(target)
