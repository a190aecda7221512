"""Made-up messages of a round: clicks, purchases, searches, catalogue rows, and rubbish.

Most users are the round's own, a few come back in every round. Some messages are sent twice, as a
client does that has not heard of the first; times lie in the last days, in no order.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from typing import Any, Literal

RUBBISH = "rubbish"  # every message that cannot be read says so
_USERS, _OLD_USERS, _ITEMS = 20, 4, 40
_SPAN_MS = 60 * 60 * 60 * 1000  # two days and a half: always within the stream's days
_ACTIONS = ("click",) * 7 + ("buy", "collect", "impression")
_WORDS = ("oat", "milk", "tea", "bread", "apple", "soap", "cheese", "rice")
Kind = Literal["events", "searches", "items"]


@dataclass(frozen=True, kw_only=True)
class Message:
    """What is sent: to which topic, under which key."""

    topic: Kind
    key: str
    value: str


def messages(dice: random.Random, *, name: str, count: int, now_ms: int) -> list[Message]:
    """`count` messages; every id in them begins with `name`, so that no two rounds share one."""
    made: list[Message] = []
    for number in range(count):
        chance = dice.random()
        if chance < 0.08 and made:
            made.append(dice.choice(made[-20:]))
        elif chance < 0.12:
            made.append(_rubbish(dice, f"{name}-{number}"))
        elif chance < 0.17:
            made.append(_item(dice, now_ms - count + number))
        elif chance < 0.35:
            made.append(_search(dice, name, number, now_ms))
        else:
            made.append(_event(dice, name, number, now_ms))
    return made


def _event(dice: random.Random, name: str, number: int, now_ms: int) -> Message:
    user = _user(dice, name)
    fields = {
        "event_id": f"{name}-e{number}",
        "user_id": user,
        "item_id": f"i{dice.randrange(_ITEMS)}",
        "action": dice.choice(_ACTIONS),
        "ts": now_ms - dice.randrange(_SPAN_MS),
        "search_id": f"{name}-s{number - 1}" if number % 3 else None,
        "position": number % 7 if number % 3 else None,
        "shop": dice.choice(("north", "south", None)),
    }
    return _message("events", user, fields)


def _search(dice: random.Random, name: str, number: int, now_ms: int) -> Message:
    user = _user(dice, name)
    fields = {
        "search_id": f"{name}-s{number}",
        "user_id": user,
        "query": " ".join(dice.sample(_WORDS, 2)),
        "ts": now_ms - dice.randrange(_SPAN_MS),
    }
    return _message("searches", user, fields)


def _item(dice: random.Random, updated_at: int) -> Message:
    item = f"i{dice.randrange(_ITEMS)}"
    fields = {
        "item_id": item,
        "updated_at": updated_at,
        "title": f"{dice.choice(_WORDS)} {item}",
        "price": dice.randrange(1, 1000) / 8,
        "in_stock": dice.random() < 0.9,
    }
    return _message("items", item, fields)


def _rubbish(dice: random.Random, name: str) -> Message:
    value = dice.choice(('{{"schema": 1, "{}": "{}"}}', "{} {}", '{{"schema": 99, "{}": "{}"}}'))
    topic: Kind = dice.choice(("events", "searches", "items"))
    return Message(topic=topic, key=f"u{dice.randrange(_USERS)}", value=value.format(RUBBISH, name))


def _user(dice: random.Random, name: str) -> str:
    number = dice.randrange(_USERS + _OLD_USERS)
    return f"{name}-u{number}" if number < _USERS else f"old-u{number - _USERS}"


def _message(topic: Kind, key: str, fields: dict[str, Any]) -> Message:
    return Message(topic=topic, key=key, value=json.dumps({"schema": 1, **fields}))
