"""What is simulated as Arrow tables: messages, whose ids say `sim-`, and the truth beside them.

    user    sim-<seed>-u<user>
    search  sim-<seed>-u<user>-d<day>-<number>[~<run>]
    event   <search>-<position>-<action>

Times are epoch milliseconds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jobs.simulate import actions, pages, visits
from jobs.simulate.behaviour import CAUSES, ROBOTS, Simulation
from jobs.simulate.catalogue import Catalogue
from jobs.simulate.draws import Ints
from jobs.simulate.pages import Impressions
from jobs.simulate.visits import SHOPPER, Searches
from pagoda.schemas import ACTIONS
from pagoda.windows import DAY_MS

CHUNK_USERS = 8_192  # made at once; what is made does not depend on it

_WORD = pa.dictionary(pa.int8(), pa.string())
EVENTS = pa.schema(
    [
        ("event_id", pa.string()),
        ("user_id", pa.string()),
        ("item_id", pa.string()),
        ("action", _WORD),
        ("ts", pa.int64()),
        ("search_id", pa.string()),
        ("position", pa.int32()),
        ("shop", pa.string()),
    ]
)
SEARCHES = pa.schema(
    [
        ("search_id", pa.string()),
        ("user_id", pa.string()),
        ("query", pa.string()),
        ("ts", pa.int64()),
    ]
)
IMPRESSIONS = pa.schema(
    [
        ("search_id", pa.string()),
        ("user_id", pa.string()),
        ("item_id", pa.string()),
        ("position", pa.int32()),
        ("relevance", pa.int8()),  # 0 off the shelf, 1 on it, 2 to the taste; null for robots
        ("examined", pa.bool_()),
        ("clicked_for", _WORD),  # relevance, noise, robot, or null: not clicked
    ]
)
USERS = pa.schema([("user_id", pa.string()), ("robot", _WORD)])


@dataclass(frozen=True, kw_only=True)
class Made:
    """What some users do on a day.

    Attributes:
        events, searches: messages, in the order of users and of time.
        impressions: the truth about every result shown, in the order of users, search, position.
    """

    events: pa.Table
    searches: pa.Table
    impressions: pa.Table

    @classmethod
    def together(cls, parts: Sequence[Made]) -> Made:
        """What several groups of users do."""
        return cls(
            **{
                field.name: pa.concat_tables([getattr(part, field.name) for part in parts])
                for field in fields(cls)
            }
        )


def of_day(
    simulation: Simulation, catalogue: Catalogue, day: int, *, chunk_users: int = CHUNK_USERS
) -> Iterator[Made]:
    """What everybody does on a simulated day, some users at a time."""
    for user in _chunks(simulation.users, chunk_users):
        searches = visits.daily(simulation, catalogue, user, day)
        yield of_searches(
            simulation, catalogue, searches, day, begin_ms=simulation.first_ms + day * DAY_MS
        )


def of_searches(
    simulation: Simulation, catalogue: Catalogue, searches: Searches, day: int, *, begin_ms: int
) -> Made:
    """Everything that follows from searches.

    Args:
        begin_ms: what the searches' times count from, epoch milliseconds.
    """
    shown = pages.show(searches, catalogue, simulation.behaviour)
    events = actions.of_pages(searches, shown, simulation.behaviour)
    user_id, search_id = _ids(simulation, searches, day)
    return Made(
        events=_events(catalogue, simulation, events, user_id, search_id, begin_ms),
        searches=pa.table(
            [
                search_id,
                user_id,
                catalogue.queries.take(pa.array(searches.query)),
                pa.array(searches.at_ms + begin_ms),
            ],
            schema=SEARCHES,
        ),
        impressions=_impressions(catalogue, searches, shown, user_id, search_id),
    )


def users(simulation: Simulation) -> Iterator[pa.Table]:
    """Who is a robot, and of what kind; some users at a time."""
    kinds = pa.array([each.name for each in ROBOTS])
    for user in _chunks(simulation.users, CHUNK_USERS):
        robot = visits.robot_of(simulation, user)
        yield pa.table([_user_id(simulation, user), _words(robot, kinds)], schema=USERS)


def without_impressions(events: pa.Table) -> pa.Table:
    """Only what users did themselves."""
    return events.filter(pc.not_equal(events["action"], "impression"))


def _events(
    catalogue: Catalogue,
    simulation: Simulation,
    events: actions.Events,
    user_id: pa.Array,
    search_id: pa.Array,
    begin_ms: int,
) -> pa.Table:
    search, item = pa.array(events.search), pa.array(events.item)
    searched = search_id.take(search)
    page = simulation.behaviour.page
    endings = pa.array([f"-{at}-{action}" for action in ACTIONS for at in range(page)])
    ending = endings.take(pa.array(events.action * page + events.position))
    table = catalogue.table
    return pa.table(
        [
            pc.binary_join_element_wise(searched, ending, ""),
            user_id.take(search),
            table["item_id"].take(item),
            _words(events.action, pa.array(ACTIONS)),
            pa.array(events.at_ms + begin_ms),
            searched,
            pa.array(events.position.astype(np.int32)),
            table["shop"].take(item),
        ],
        schema=EVENTS,
    )


def _impressions(
    catalogue: Catalogue,
    searches: Searches,
    shown: Impressions,
    user_id: pa.Array,
    search_id: pa.Array,
) -> pa.Table:
    search = pa.array(shown.search)
    by_robot = searches.robot[shown.search] != SHOPPER
    causes = pa.array(CAUSES[1:])
    return pa.table(
        [
            search_id.take(search),
            user_id.take(search),
            catalogue.table["item_id"].take(pa.array(shown.item)),
            pa.array(shown.position.astype(np.int32)),
            pa.array(shown.relevance.astype(np.int8), mask=by_robot),
            pa.array(shown.examined),
            _words(shown.cause - 1, causes),
        ],
        schema=IMPRESSIONS,
    )


def _ids(simulation: Simulation, searches: Searches, day: int) -> tuple[pa.Array, pa.Array]:
    """The user's and the search's id of each search."""
    user_id = _user_id(simulation, searches.user)
    number = pa.array(searches.nth).cast(pa.string())
    return user_id, pc.binary_join_element_wise(
        user_id, pa.scalar(f"-d{day}-"), number, pa.scalar(simulation.run), ""
    )


def _user_id(simulation: Simulation, user: Ints) -> pa.Array:
    prefix = pa.scalar(f"sim-{simulation.seed}-u")
    return pc.binary_join_element_wise(prefix, pa.array(user).cast(pa.string()), "")


def _chunks(users: int, size: int) -> Iterator[Ints]:
    for first in range(0, users, size):
        yield np.arange(first, min(first + size, users))


def _words(code: Ints, words: pa.Array) -> pa.DictionaryArray:
    """A word for each code; null for a negative one."""
    return pa.DictionaryArray.from_arrays(pa.array(code.astype(np.int8), mask=code < 0), words)
