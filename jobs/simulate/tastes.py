"""What a shopper likes on a day: shelves, a brand on each shelf, a price level. Tastes drift.

Each liking lasts `taste_days` and then another is drawn; they change on different days, so that
a shopper is never another one at once. The price level moves in a straight line from one drawn
value to the next. All of it follows from seed, user and day: nothing is kept.
"""

from __future__ import annotations

import numpy as np

from jobs.simulate.behaviour import Simulation
from jobs.simulate.catalogue import Catalogue
from jobs.simulate.draws import Floats, Ints, Keys, integers, keys, uniform, within

_SHELF, _BRAND, _PRICE = (np.array(kind) for kind in range(3))


def favourite_shelf(
    simulation: Simulation, catalogue: Catalogue, user: Ints, day: int, place: Ints
) -> Ints:
    """The shelf at a place of each shopper's list of favourites; big shelves come more often."""
    epoch, _ = _epoch(liking := keys(simulation.seed, _SHELF, user, place), day, simulation)
    item = integers(within(liking, epoch), "favourite", len(catalogue.shelf))
    return catalogue.shelf[item]


def liked_item(
    simulation: Simulation, catalogue: Catalogue, user: Ints, day: int, shelf: Ints
) -> Ints:
    """The item of each shelf that its shopper has in mind; its brand is the brand they like."""
    epoch, _ = _epoch(liking := keys(simulation.seed, _BRAND, user, shelf), day, simulation)
    return catalogue.on_shelf(shelf, uniform(within(liking, epoch), "liked"))


def price_level(simulation: Simulation, user: Ints, day: int) -> Floats:
    """The price level each shopper likes, 0 to 1, a quantile of a shelf's prices."""
    epoch, passed = _epoch(liking := keys(simulation.seed, _PRICE, user), day, simulation)
    now, then = (uniform(within(liking, epoch + step), "level") for step in (0, 1))
    return now + (then - now) * passed


def _epoch(liking: Keys, day: int, simulation: Simulation) -> tuple[Ints, Floats]:
    """Which of its successive values a liking has on that day, and what share of it is over."""
    lasts = simulation.behaviour.taste_days
    lived = day + integers(liking, "phase", lasts)
    return lived // lasts, (lived % lasts) / lasts
