"""Law 1 by brute force: every window by its definition, over plain lists."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, kw_only=True, order=True)
class Happening:
    """Something a user did: `what` is an item's key or a query's text, `action` may be search."""

    ts: int
    key: int
    what: int | str
    action: str


Line = tuple[int, int, int | str]  # ts, key, what


def windows(
    happenings: Iterable[Happening],
    *,
    at_ms: int,
    click_actions: Sequence[str] = ("click",),
    recent_days: int = 10,
    long_term_days: int = 20,
    real_time: int = 50,
    short_term: int = 100,
    long_term: int = 100,
    queries: int = 20,
) -> dict[str, list[Line]]:
    """What a request at `at_ms` sees, each oldest first."""
    midnight = (EPOCH + timedelta(milliseconds=at_ms)).replace(
        hour=0, minute=0, second=0, microsecond=0
    )
    recent_from = _ms(midnight - timedelta(days=recent_days))
    long_from = _ms(midnight - timedelta(days=recent_days + long_term_days))
    recent, older = [], []
    for each in sorted(set(happenings)):
        if recent_from <= each.ts < at_ms:
            recent.append(each)
        elif long_from <= each.ts < recent_from:
            older.append(each)

    clicks = [each for each in recent if each.action in click_actions]
    newest_first = clicks[::-1]
    named = {"click": click_actions, "buy": ("buy",), "collect": ("collect",)}
    return {
        "real_time": _lines(newest_first[:real_time][::-1]),
        "short_term": _lines(newest_first[real_time : real_time + short_term][::-1]),
        "queries": _lines(_last([each for each in recent if each.action == "search"], queries)),
        **{
            f"long_{name}": _lines(
                _last([each for each in older if each.action in actions], long_term)
            )
            for name, actions in named.items()
        },
    }


def _last(happenings: list[Happening], count: int) -> list[Happening]:
    return happenings[max(len(happenings) - count, 0) :]


def _lines(happenings: list[Happening]) -> list[Line]:
    return [(each.ts, each.key, each.what) for each in happenings]


def _ms(moment: datetime) -> int:
    return (moment - EPOCH) // timedelta(milliseconds=1)
