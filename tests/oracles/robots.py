"""Who is a robot on which day, by going through everything that each user did, one by one."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

from tests.oracles.features import Arrival, day_number

HOUR_MS = 3_600_000
ACTS = ("search", "click", "collect", "cart")

Verdict = tuple[str, int, str]  # user, day, rule


def verdicts(arrivals: Iterable[Arrival], limits: Mapping[str, float]) -> dict[Verdict, float]:
    """What exceeds its limit, and the value that does; something sent twice counts once."""
    days: dict[tuple[str, int], set[tuple[int, int, int | str, str]]] = defaultdict(set)
    for each in arrivals:
        what = each.happening
        days[each.user, day_number(what.ts)].add((what.ts, what.key, what.what, what.action))
    found = {}
    for (user, day), did in days.items():
        for rule, value in _measures(did, limits).items():
            if value > limits[rule]:
                found[user, day, rule] = value
    return found


def _measures(
    did: set[tuple[int, int, int | str, str]], limits: Mapping[str, float]
) -> dict[str, float]:
    events = [
        (what, action) for _, _, what, action in did if action not in ("search", "impression")
    ]
    moments = sorted({ts for ts, _, _, action in did if action in ACTS})
    hours = Counter(ts // HOUR_MS for ts in moments)
    quick = 0
    for position in range(1, len(moments)):
        if moments[position] - moments[position - 1] < limits["quick_ms"]:
            quick += 1
    shown = {what for _, _, what, action in did if action == "impression"}
    clicked = {what for _, _, what, action in did if action == "click"} & shown
    share = len(clicked) / len(shown) if len(clicked) >= limits["clicked_items"] else 0.0
    return {
        "events_per_day": len(events),
        "events_per_item": max(Counter(what for what, _ in events).values(), default=0),
        "acts_per_hour": max(hours.values(), default=0),
        "quick_acts": quick,
        "clicked_share": share,
    }
