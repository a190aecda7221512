"""What searches show and what is clicked: impressions with true relevance, and every click's cause.

The simulated shop ranks by popularity alone and in any order, so a result's position says nothing
about it: what clicks depend on positions is position bias and nothing else.

Shape legend: S searches, L results of a page, I impressions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from jobs.simulate.behaviour import (
    FROM_NOISE,
    FROM_RELEVANCE,
    FROM_ROBOT,
    NO_CLICK,
    OFF_SHELF,
    ON_SHELF,
    ROBOTS,
    TO_TASTE,
    Behaviour,
)
from jobs.simulate.catalogue import Catalogue
from jobs.simulate.draws import Floats, Ints, Keys, integers, uniform, within
from jobs.simulate.visits import NO_ITEM, SHOPPER, Searches

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, eq=False)
class Impressions:
    """Results that were shown, by search and position; arrays [I].

    Attributes:
        search: which search showed it, a row of the searches.
        position: from 0.
        item: an item of the catalogue.
        relevance: OFF_SHELF, ON_SHELF or TO_TASTE.
        examined: whether the shopper looked at it; robots look at everything.
        cause: what its click came from, or NO_CLICK.
        key: for draws that concern one impression.
    """

    search: Ints
    position: Ints
    item: Ints
    relevance: Ints
    examined: Bools
    cause: Ints
    key: Keys


def show(searches: Searches, catalogue: Catalogue, behaviour: Behaviour) -> Impressions:
    """The first page of each search, and what is clicked on it."""
    place_L = np.arange(behaviour.page)
    key_SL = within(searches.key[:, None], place_L)
    item_SL = _results(searches, catalogue, behaviour, key_SL)
    shown_SL = ~_repeated(item_SL)
    search, place = np.nonzero(shown_SL)
    position = (np.cumsum(shown_SL, axis=1) - 1)[search, place]
    item, key = item_SL[search, place], key_SL[search, place]
    relevance = _relevance(searches, search, item, catalogue, behaviour)
    examined = uniform(key, "examined") < examination(behaviour)[position]
    attracted = uniform(key, "attracted") < np.array(behaviour.attraction)[relevance]
    by_noise = uniform(key, "noise") < behaviour.click_noise
    cause = np.select([examined & attracted, examined & by_noise], [FROM_RELEVANCE, FROM_NOISE])
    by_robot = searches.robot[search] != SHOPPER
    clicks = np.array([*(each.clicks for each in ROBOTS), 0.0])[searches.robot[search]]
    clicked = (uniform(key, "robot clicks") < clicks) | (item == searches.target[search])
    cause = np.where(by_robot, np.where(clicked, FROM_ROBOT, NO_CLICK), cause)
    return Impressions(
        search=search,
        position=position,
        item=item,
        relevance=relevance,
        examined=examined | by_robot,
        cause=cause,
        key=key,
    )


def examination(behaviour: Behaviour) -> Floats:
    """The chance that a shopper looks at each position, [L]."""
    return np.arange(1, behaviour.page + 1, dtype=np.float64) ** -behaviour.position_bias


def _results(searches: Searches, catalogue: Catalogue, behaviour: Behaviour, key_SL: Keys) -> Ints:
    """An item for each place of each page; some items come twice."""
    shelf_SL = np.broadcast_to(searches.shelf[:, None], key_SL.shape)
    item_SL = catalogue.on_shelf(shelf_SL, uniform(key_SL, "item"))
    astray_SL = uniform(key_SL, "off the shelf") < behaviour.off_shelf
    anywhere_SL = integers(key_SL, "anywhere", len(catalogue.shelf))
    item_SL = np.where(astray_SL, anywhere_SL, item_SL)
    hunting = np.flatnonzero(searches.target != NO_ITEM)
    place = integers(searches.key[hunting], "place of the target", behaviour.page)
    item_SL[hunting, place] = searches.target[hunting]
    return item_SL


def _repeated(item_SL: Ints) -> Bools:
    """Where an item stands that the page shows before."""
    repeated_SL = np.zeros(item_SL.shape, bool)
    for place in range(1, item_SL.shape[1]):
        before = item_SL[:, :place] == item_SL[:, place, None]
        repeated_SL[:, place] = before.any(axis=1)
    return repeated_SL


def _relevance(
    searches: Searches, search: Ints, item: Ints, catalogue: Catalogue, behaviour: Behaviour
) -> Ints:
    on_shelf = catalogue.shelf[item] == searches.shelf[search]
    brand = searches.brand[search]
    liked_brand = (catalogue.brand[item] == brand) & (brand >= 0)
    distance = np.abs(catalogue.price_level[item] - searches.price_level[search])
    liked_price = distance <= behaviour.price_width  # NaN, an item without price, is not
    return np.select(
        [on_shelf & (liked_brand | liked_price), on_shelf], [TO_TASTE, ON_SHELF], OFF_SHELF
    )
