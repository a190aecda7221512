"""Show that a click moves a search: ask, click through Kafka, wait for the sequence, ask again.

Every step is what a shop's own programs do: HTTP to the search service, one message to Kafka.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import httpx
from kafka.errors import KafkaError

from pagoda.errors import CheckFailed, DependencyDown, NothingToDo
from pagoda.messages import Event, encode, record_key
from pagoda.publisher import open_producer
from pagoda.settings import Settings

_K = 100
_CLICKED_POSITION = 40  # far enough down for a move to show
_NEWEST = 3
_VISIBLE_WITHIN_S = 30
_POLL_S = 0.05
_TIMEOUT_S = 30

Json = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What a click moved.

    Attributes:
        clicked: the item, as the search before had it.
        visible_ms: from sending the click until serving read it back.
        known_before, known_after: `GET /user/{id}/sequences`.
        before, after: `POST /search` of the same query.
    """

    user_id: str
    query: str
    clicked: Json
    visible_ms: int
    known_before: Json
    known_after: Json
    before: Json
    after: Json

    def ranks(self) -> list[Json]:
        """The items of both answers, in the order of the later: place and score then and now."""
        before, after = _places(self.before), _places(self.after)
        score_before, score_after = _scores(self.before), _scores(self.after)
        found = (*self.before["results"], *self.after["results"])
        titles = {item["item_id"]: item["title"] for item in found}
        order = sorted(titles, key=lambda item: (after.get(item, _K + 1), before.get(item, 0)))
        return [
            {
                "before": before.get(item),
                "after": after.get(item),
                "score before": score_before.get(item),
                "score after": score_after.get(item),
                "item": item,
                "title": titles[item],
                "clicked": item == self.clicked["item_id"],
            }
            for item in order
        ]

    def moved(self) -> list[Json]:
        """Of `ranks`, what came, went or changed its place; the largest moves first."""
        moved = [each for each in self.ranks() if each["before"] != each["after"]]
        return sorted(moved, key=_jump, reverse=True)

    def sequences(self) -> list[Json]:
        """Each sequence: its length before and after, and the newest entries where it moved."""
        before, after = _parts(self.known_before), _parts(self.known_after)
        return [
            {
                "sequence": name,
                "before": len(before[name]),
                "after": len(after[name]),
                "moved": before[name] != after[name],
                "newest before": _newest(before[name]),
                "newest after": _newest(after[name]),
            }
            for name in before
        ]


def show(settings: Settings) -> Shown:
    """Click for a user of medium activity, on a result of one of their own queries.

    Raises: DependencyDown naming what does not answer, NothingToDo without a recent user,
        CheckFailed if the click never shows.
    """
    address = f"http://{settings.serving.host}:{settings.serving.port}"
    with httpx.Client(base_url=address, timeout=_TIMEOUT_S) as http:
        user_id, query = _whose_what(http)
        before = _search(http, user_id, query)
        if not before["results"]:
            raise NothingToDo("a search found nothing to click on", found=f"query {query!r}")
        # The search itself joins the history: wait for it, so that only the click is new after.
        known_before = _until(http, user_id, lambda known: _asked_since(known, query, before["at"]))
        position = min(_CLICKED_POSITION, len(before["results"]) - 1)
        clicked = before["results"][position]
        sent_at = time.monotonic()
        _click(settings, user_id, clicked["item_id"], before["search_id"], position)
        known_after = _until(
            http, user_id, lambda known: _clicked_since(known, clicked["item_id"], before["at"])
        )
        visible_ms = round((time.monotonic() - sent_at) * 1000)
        after = _search(http, user_id, query)
    return Shown(
        user_id=user_id,
        query=query,
        clicked=clicked,
        visible_ms=visible_ms,
        known_before=known_before,
        known_after=known_after,
        before=before,
        after=after,
    )


def _whose_what(http: httpx.Client) -> tuple[str, str]:
    """A recent user of medium activity, and the one of their queries that most items match."""
    users = _json(http.get, "/users/examples")  # the most active first
    middle = len(users) // 2
    for user in (*users[middle:], *users[:middle]):
        user_id = str(user["user_id"])
        known = _json(http.get, f"/user/{user_id}/sequences")
        queries = {each["query"] for each in known["queries"]}
        if queries:
            return user_id, max(sorted(queries), key=lambda query: _matches(http, query))
    raise NothingToDo(
        "no user has both events and queries in the last days",
        next_step="Import data again: its times are shifted to now.",
    )


def _matches(http: httpx.Client, query: str) -> int:
    """How many items the query's terms leave; 0 where they were dropped."""
    answer = _json(http.post, "/search", json={"query": query, "k": 1, "explain": True})
    return 0 if answer["fell_back"] else int(answer["explanation"]["matches"])


def _search(http: httpx.Client, user_id: str, query: str) -> Json:
    return dict(_json(http.post, "/search", json={"query": query, "user_id": user_id, "k": _K}))


def _click(settings: Settings, user_id: str, item_id: str, search_id: str, position: int) -> None:
    event = Event(
        event_id=f"demo-{uuid.uuid4().hex}",
        user_id=user_id,
        item_id=item_id,
        action="click",
        ts=time.time_ns() // 1_000_000,
        search_id=search_id,
        position=position,
    )
    try:
        producer = open_producer(settings)
        try:
            producer.send(
                settings.kafka.events_topic, value=encode(event), key=record_key(event)
            ).get(timeout=_TIMEOUT_S)
        finally:
            producer.close()
    except KafkaError as error:
        raise DependencyDown("kafka", str(error)) from error


def _until(http: httpx.Client, user_id: str, seen: Callable[[Json], bool]) -> Json:
    """Poll a user's sequences until they show what was sent."""
    give_up_at = time.monotonic() + _VISIBLE_WITHIN_S
    while time.monotonic() < give_up_at:
        known: Json = _json(http.get, f"/user/{user_id}/sequences")
        if seen(known):
            return known
        time.sleep(_POLL_S)
    raise CheckFailed(
        f"what was sent to Kafka did not reach the online store in {_VISIBLE_WITHIN_S} s",
        where=f"user {user_id}",
        next_step="See `pagoda status`: the server `sequences` writes it.",
    )


def _asked_since(known: Json, query: str, at: str) -> bool:
    return any(each["query"] == query and _since(each, at) for each in known["queries"])


def _clicked_since(known: Json, item_id: str, at: str) -> bool:
    return any(each["item_id"] == item_id and _since(each, at) for each in known["real_time"])


def _since(entry: Json, at: str) -> bool:
    return datetime.fromisoformat(entry["at"]) >= datetime.fromisoformat(at)


def _jump(ranked: Json) -> int:
    before, after = (int(ranked[when] or _K + 1) for when in ("before", "after"))
    return abs(before - after)


def _places(answer: Json) -> dict[str, int]:
    return {item["item_id"]: rank for rank, item in enumerate(answer["results"], start=1)}


def _scores(answer: Json) -> dict[str, float]:
    return {item["item_id"]: round(item["score"], 4) for item in answer["results"]}


def _parts(known: Json) -> dict[str, list[Json]]:
    return {
        "real-time": known["real_time"],
        "short-term": known["short_term"],
        **{f"long-term {action}": part for action, part in known["long_term"].items()},
        "queries": known["queries"],
    }


def _newest(part: list[Json]) -> list[str]:
    return [
        str(each.get("query") or each.get("title") or "(an item that is not in this bundle)")
        for each in part[:_NEWEST]
    ]


def _json(call: Callable[..., httpx.Response], path: str, **arguments: Any) -> Any:
    try:
        answer = call(path, **arguments)
    except httpx.TransportError as error:
        raise DependencyDown("serving", str(error)) from error
    if answer.is_success:
        return answer.json()
    said = answer.json()
    raise DependencyDown(said.get("dependency") or "serving", str(said.get("message")))
