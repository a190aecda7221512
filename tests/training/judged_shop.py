"""Labels of the toy catalogue by somebody who knows what each query asks for."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from tests.training import toy
from training.labels import Labels

SAID = {"bread": "loaf", "soap": "cleanser", "acme": "acme corp"}  # what some say for it
ASKED = {"leaf_category": 0.9, "brand": 0.6, "colour": 0.5}  # how often a query names each

Row = Mapping[str, Any]


def fits(item: Row, wanted: Row) -> bool:
    """Whether an item is all that is asked for."""
    return all(item[name] == value for name, value in wanted.items())


def labels(queries: int, *, of_each: int = 8, seed: int = 0) -> Labels:
    """For each query as many items that fit as that do not but have something of it, if there are.

    Some queries say what they want in other words than the catalogue has, or more than it can know.
    """
    dice = random.Random(seed)
    rows = toy.items().to_pylist()
    good = {}
    for number in range(queries):
        item = dice.choice(rows)
        wanted = {name: item[name] for name, chance in ASKED.items()
                  if item[name] and dice.random() < chance}  # fmt: skip
        if not wanted:
            continue
        words = [dice.choice((value, SAID.get(value, value))) for value in wanted.values()]
        words += [f"for day {number}"] if dice.random() < 0.3 else []
        dice.shuffle(words)
        fitting = [row for row in rows if fits(row, wanted)]
        near = [row for row in rows if row not in fitting
                and any(row[name] == value for name, value in wanted.items())]  # fmt: skip
        chosen = [
            each for some in (fitting, near) for each in dice.sample(some, min(len(some), of_each))
        ]
        good[" ".join(words).casefold()] = {row["item_id"]: row in fitting for row in chosen}
    return Labels(good, ("E",))
