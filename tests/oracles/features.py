"""Law 3 by naive replay: read everything that ever arrived, keep what was known, look at it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from statistics import fmean

from tests.oracles.windows import Happening

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, kw_only=True)
class Arrival:
    """A happening of a user as it came in, perhaps late, perhaps not for the first time."""

    user: str
    ingested: int
    happening: Happening


def known(arrivals: Iterable[Arrival], *, at_ms: int) -> list[Arrival]:
    """What was known strictly before a moment of what happened strictly before it, each once.

    Of arrivals of one event the first counts.
    """
    first: dict[tuple[int, int], Arrival] = {}
    for each in sorted(arrivals, key=lambda arrival: arrival.ingested):
        if each.happening.ts < at_ms and each.ingested < at_ms:
            first.setdefault((each.happening.key, each.happening.ts), each)
    return list(first.values())


def user_stats(
    arrivals: Iterable[Arrival],
    *,
    at_ms: int,
    click_actions: Sequence[str],
    prices: dict[int, float | None],
) -> dict[str, float | None] | None:
    """One user's statistics just before a moment: of the days before that day, None if empty."""
    day = day_number(at_ms - 1)
    month = [
        each.happening
        for each in known(arrivals, at_ms=at_ms)
        if day - 30 <= day_number(each.happening.ts) < day
    ]
    clicks = [each for each in month if each.action in click_actions]
    buys = [each for each in month if each.action == "buy"]
    searches = [each for each in month if each.action == "search"]
    if not (clicks or buys or searches):
        return None
    touched = [each for each in month if each.action in {*click_actions, "buy"}]
    paid = [price for each in touched if (price := prices.get(int(each.what))) is not None]
    return {
        "clicks_7d": len([each for each in clicks if day_number(each.ts) >= day - 7]),
        "clicks_30d": len(clicks),
        "buys_30d": len(buys),
        "searches_30d": len(searches),
        "distinct_items_30d": len({each.what for each in touched}),
        "active_days_30d": len({day_number(each.ts) for each in [*touched, *searches]}),
        "mean_price_30d": fmean(paid) if paid else None,
    }


def user_items(
    arrivals: Iterable[Arrival],
    *,
    at_ms: int,
    click_actions: Sequence[str],
    days: int,
    most: int,
) -> dict[str, list[int]] | None:
    """What a user had on the days before a moment's, most often first, None if nothing."""
    day = day_number(at_ms - 1)
    had: dict[int, list[int]] = {}
    for each in known(arrivals, at_ms=at_ms):
        at, action = each.happening.ts, each.happening.action
        if day - days <= day_number(at) < day and action in {*click_actions, "buy"}:
            had.setdefault(int(each.happening.what), []).append(at)
    if not had:
        return None
    kept = sorted(had, key=lambda item: (-len(had[item]), -max(had[item]), item))[:most]
    return {
        "owned_items": kept,
        "owned_times": [len(had[item]) for item in kept],
        "owned_last_ts": [max(had[item]) for item in kept],
    }


def item_stats(
    arrivals: Iterable[Arrival], item: int, *, at_ms: int, click_actions: Sequence[str]
) -> dict[str, int] | None:
    """One item's statistics just before a moment, None if nothing happened to it."""
    day = day_number(at_ms - 1)
    month = [
        each
        for each in known(arrivals, at_ms=at_ms)
        if each.happening.what == item and day - 30 <= day_number(each.happening.ts) < day
    ]
    clicks = [each for each in month if each.happening.action in click_actions]
    buys = [each for each in month if each.happening.action == "buy"]
    if not (clicks or buys):
        return None
    return {
        "clicks_7d": len([each for each in clicks if day_number(each.happening.ts) >= day - 7]),
        "clicks_30d": len(clicks),
        "buys_7d": len([each for each in buys if day_number(each.happening.ts) >= day - 7]),
        "buys_30d": len(buys),
        "users_30d": len({each.user for each in [*clicks, *buys]}),
    }


def statistic(
    arrivals: Iterable[Arrival],
    *,
    at_ms: int,
    aggregation: str,
    of: Sequence[str],
    days: int,
    click_actions: Sequence[str],
    prices: dict[int, float | None],
) -> float | None:
    """One statistic of whoever the arrivals are of, just before a moment."""
    day = day_number(at_ms - 1)
    counted = [
        each
        for each in known(arrivals, at_ms=at_ms)
        if day - days <= day_number(each.happening.ts) < day
        and (
            each.happening.action in of
            if each.happening.action not in click_actions
            else "click" in of or each.happening.action in set(of) - {"click"}
        )
    ]
    match aggregation:
        case "count":
            return len(counted)
        case "active_days":
            return len({day_number(each.happening.ts) for each in counted})
        case "distinct_items":
            return len({each.happening.what for each in counted})
        case "distinct_users":
            return len({each.user for each in counted})
        case "mean_price":
            found = [prices.get(int(each.happening.what)) for each in counted]
            paid = [price for price in found if price is not None]
            return fmean(paid) if paid else None
    raise ValueError(aggregation)


def day_number(ms: int) -> int:
    return (EPOCH + timedelta(milliseconds=ms)).toordinal()
