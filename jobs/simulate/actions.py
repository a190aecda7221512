"""What follows from pages: impressions, clicks, and from clicks collects, carts and buys, in time.

    click ─ 0.12 ─► collect ─ 0.4 ─► cart ─ 0.5 ─► buy
      └──────── else 0.15 ──────────►

A click by mistake (noise) leads to nothing; a brusher's click always to a buy. Shape legend: S
searches, I impressions, C clicks, E events.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from jobs.simulate.behaviour import FROM_RELEVANCE, FROM_ROBOT, NO_CLICK, ROBOTS, Behaviour
from jobs.simulate.draws import Ints, Keys, between, uniform
from jobs.simulate.pages import Bools, Impressions
from jobs.simulate.visits import SHOPPER, Searches
from pagoda.schemas import ACTIONS

IMPRESSION, CLICK, COLLECT, CART, BUY = range(len(ACTIONS))
_READ_MS = 4_000  # how long a shopper looks at each position before a click


@dataclass(frozen=True, kw_only=True, eq=False)
class Events:
    """Events, in the order of users and of time; arrays [E].

    Attributes:
        search: a row of the searches; position and item as shown.
        action: a position in `schemas.ACTIONS`.
        at_ms: as the searches' times.
    """

    search: Ints
    position: Ints
    item: Ints
    action: Ints
    at_ms: Ints

    def __len__(self) -> int:
        return len(self.search)

    def take(self, rows: Ints | Bools) -> Events:
        """Some of them."""
        return Events(**{name: values[rows] for name, values in vars(self).items()})


def of_pages(searches: Searches, shown: Impressions, behaviour: Behaviour) -> Events:
    """Every event that these pages lead to."""
    seen_ms = searches.at_ms + between(searches.key, "page loads", 150, 400)
    parts = [_part(shown, np.arange(len(shown.search)), IMPRESSION, seen_ms[shown.search])]
    clicked = np.flatnonzero(shown.cause != NO_CLICK)
    click_ms = _click_ms(searches, shown, clicked, seen_ms)
    parts.append(_part(shown, clicked, CLICK, click_ms))
    for action, goes_on, after_ms in _follow(searches, shown, clicked, behaviour):
        parts.append(_part(shown, clicked[goes_on], action, (click_ms + after_ms)[goes_on]))
    events = Events(
        **{name: np.concatenate([vars(part)[name] for part in parts]) for name in vars(parts[0])}
    )
    # Stable: what one user does in one millisecond stays in the order of the funnel.
    by_user_and_time = (searches.user[events.search] << 32) + events.at_ms
    return events.take(np.argsort(by_user_and_time, kind="stable"))


def _click_ms(searches: Searches, shown: Impressions, clicked: Ints, seen_ms: Ints) -> Ints:
    search, position = shown.search[clicked], shown.position[clicked]
    robot = searches.robot[search]
    pace_ms = np.array([*(each.click_ms for each in ROBOTS), _READ_MS])[robot]
    dwell_ms = between(shown.key[clicked], "dwells", 1_000, 3_500)
    by_person = seen_ms[search] + position * _READ_MS + dwell_ms
    by_robot = seen_ms[search] + (position + 1) * pace_ms
    return np.where(robot == SHOPPER, by_person, by_robot)


def _follow(
    searches: Searches, shown: Impressions, clicked: Ints, behaviour: Behaviour
) -> list[tuple[int, Bools, Ints]]:
    """(action, which clicks lead to it, how long after the click), one step of the funnel each."""
    key: Keys = shown.key[clicked]
    meant = shown.cause[clicked] == FROM_RELEVANCE
    buys = np.array([*(each.buys for each in ROBOTS), False])
    brushed = buys[searches.robot[shown.search[clicked]]] & (shown.cause[clicked] == FROM_ROBOT)
    collected = meant & (uniform(key, "collects") < behaviour.collect_after_click)
    into_cart = np.where(collected, behaviour.cart_after_collect, behaviour.cart_after_click)
    in_cart = brushed | (meant & (uniform(key, "carts") < into_cart))
    bought = brushed | (in_cart & (uniform(key, "buys") < behaviour.buy_after_cart))
    collect_ms = between(key, "until collect", 1_500, 8_000)
    cart_ms = collect_ms + between(key, "until cart", 2_000, 12_000)
    buy_ms = cart_ms + between(key, "until buy", 30_000, 120_000)
    return [(COLLECT, collected, collect_ms), (CART, in_cart, cart_ms), (BUY, bought, buy_ms)]


def _part(shown: Impressions, rows: Ints, action: int, at_ms: Ints) -> Events:
    return Events(
        search=shown.search[rows],
        position=shown.position[rows],
        item=shown.item[rows],
        action=np.full(len(rows), action),
        at_ms=at_ms,
    )
