"""How simulated shoppers and robots behave: every probability and pause, in one place."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, date, datetime

import numpy as np

from pagoda.errors import InputError

# What a click came from, as the truth says it.
NO_CLICK, FROM_RELEVANCE, FROM_NOISE, FROM_ROBOT = range(4)
CAUSES = (None, "relevance", "noise", "robot")

OFF_SHELF, ON_SHELF, TO_TASTE = range(3)  # true relevance, from what the shopper wants


@dataclass(frozen=True, kw_only=True)
class Behaviour:
    """Shoppers. All of it can be checked against the events and the truth; tests do.

    Attributes:
        page: results of a search; an item twice is shown once.
        off_shelf: share of them from anywhere in the catalogue.
        position_bias: a result at position k = 0, 1, ... is examined with (k + 1) ** -bias.
        attraction: chance that an examined result is clicked for what it is, by true relevance:
            off the shelf that was asked for; on it; on it and to the shopper's taste.
        click_noise: chance that an examined result is clicked whatever it is. Such a click leads
            to nothing.
        favourites: how a shopper's searches spread over favourite shelves; the rest goes anywhere.
        taste_days: how long a favourite shelf, a liked brand and a price level last.
        price_width: how far from the liked price level an item is still to the taste; levels are
            quantiles within the shelf.
        robots: share of users that are robots.
    """

    page: int = 10
    off_shelf: float = 0.15
    position_bias: float = 0.7
    attraction: tuple[float, float, float] = (0.0, 0.06, 0.35)
    click_noise: float = 0.02
    collect_after_click: float = 0.12
    cart_after_click: float = 0.15
    cart_after_collect: float = 0.4
    buy_after_cart: float = 0.5
    favourites: tuple[float, ...] = (0.35, 0.2, 0.15, 0.1, 0.1)
    taste_days: int = 21
    price_width: float = 0.15
    robots: float = 0.005

    def __post_init__(self) -> None:
        no_chances = ("page", "position_bias", "taste_days")
        problems = [
            f"{name}: {value} is not between 0 and 1"
            for name, value in vars(self).items()
            if name not in no_chances
            and not all(0 <= each <= 1 for each in np.atleast_1d(value).tolist())
        ]
        if sum(self.favourites) > 1 + 1e-9:
            problems.append(f"favourites: {self.favourites} add up to more than 1")
        if self.position_bias < 0:
            problems.append(f"position_bias: {self.position_bias} is negative")
        if not 1 <= self.page <= 50:
            problems.append(f"page: {self.page} is not between 1 and 50")
        if self.taste_days < 1:
            problems.append(f"taste_days: {self.taste_days} is less than 1")
        if problems:
            raise InputError("shoppers cannot behave like that", problems=problems)


@dataclass(frozen=True, kw_only=True)
class Robot:
    """One kind of robot; on each of its days it runs once.

    Attributes:
        purpose: what it is after, in words.
        searches: least and most searches a day.
        pause_s: least and most seconds between two searches.
        clicks: share of a page's results that it clicks; 0 with a target: the target alone.
        click_ms: between two clicks of a page.
        targeted: whether it searches for one item of its own, and finds it.
        buys: whether it puts that item into the cart and buys it, each time.
    """

    name: str
    purpose: str
    searches: tuple[int, int]
    pause_s: tuple[float, float]
    clicks: float = 0.0
    click_ms: int = 100
    targeted: bool = False
    buys: bool = False


ROBOTS = (
    Robot(
        name="crawler",
        purpose="reads the whole catalogue",
        searches=(60, 200),
        pause_s=(1.5, 3),
        clicks=1.0,
    ),
    Robot(
        name="clicker",
        purpose="clicks everything it is shown, in bursts",
        searches=(5, 20),
        pause_s=(3, 5),
        clicks=1.0,
        click_ms=30,
    ),
    Robot(
        name="booster",
        purpose="clicks one item up",
        searches=(60, 150),
        pause_s=(8, 20),
        click_ms=1_500,
        targeted=True,
    ),
    Robot(
        name="brusher",
        purpose="buys one item up",
        searches=(15, 60),
        pause_s=(60, 180),
        click_ms=4_000,
        targeted=True,
        buys=True,
    ),
    Robot(
        name="watcher",
        purpose="looks at prices around the clock, at a person's pace",
        searches=(40, 100),
        pause_s=(400, 800),
        clicks=0.15,
        click_ms=4_000,
    ),
)
ROBOT_DAYS = 0.8  # share of days on which a robot runs


@dataclass(frozen=True, kw_only=True)
class Simulation:
    """What is simulated. The same simulation over the same catalogue is the same events.

    Attributes:
        first_day: the UTC day of day 0, for simulated days; a stream happens now.
        days: how many.
        run: what makes a stream's ids its own; empty for simulated days.
    """

    seed: int
    users: int
    first_day: date = date(2026, 1, 1)
    days: int = 1
    run: str = ""
    behaviour: Behaviour = field(default_factory=Behaviour)

    def __post_init__(self) -> None:
        problems = []
        if self.seed < 0:
            problems.append(f"--seed {self.seed} is negative")
        if not 1 <= self.users < 2**31:
            problems.append(f"--users {self.users} is not between 1 and 2^31 - 1")
        if not 1 <= self.days < 10_000:
            problems.append(f"--days {self.days} is not between 1 and 9999")
        if problems:
            raise InputError("cannot simulate", problems=problems)

    @property
    def name(self) -> str:
        """The data set's name."""
        return f"simulated-{self.seed}"

    @property
    def first_ms(self) -> int:
        """Where day 0 begins, epoch milliseconds."""
        day = self.first_day
        return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()) * 1000

    @property
    def judged_days(self) -> int:
        """How many of the last days are for the test, and as many before them for validation."""
        return min(7, max(1, self.days // 4))

    @property
    def queries(self) -> str:
        """Where the queries come from, said with every number from them."""
        return f"simulated (pagoda stream simulate, seed {self.seed}), words of shelves and titles"
