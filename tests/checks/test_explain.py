"""Each reason for a difference, from what the lake knows of the event."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from jobs.checks.explain import REASONS, Difference, Pair, explain
from jobs.checks.online_side import Observation, observation
from pagoda import lake
from pagoda.ids import key_of
from pagoda.schemas import EVENTS, SEARCHES
from pagoda.sequences import items, queries
from pagoda.settings import Settings
from pagoda.windows import DAY_MS, Candidates, Windows, WindowSpec, cut

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
T = int(NOON.timestamp() * 1000)
HOUR, MIDNIGHT = 3_600_000, T - DAY_MS // 2
USER = key_of("user", "anna")
SPEC = WindowSpec()


@dataclass(frozen=True, kw_only=True)
class Click:
    """A click of anna; what is None as ingested is not in the lake."""

    number: int
    ts: int
    ingested: int | None
    source: str = "kafka:behaviour-events:2:17"
    action: str = "click"

    @property
    def element(self) -> tuple[int, int, int]:
        return self.ts, key_of("event", f"e{self.number}"), key_of("item", f"i{self.number}")


EARLIER = Click(number=1, ts=T - HOUR, ingested=T - HOUR + 40)
IMPORTED = Click(number=2, ts=T - HOUR, ingested=T - HOUR, source="completejourney")


def windows(
    *clicks: Click | tuple[int, int, int], asked: tuple[int, int, str] | None = None
) -> Windows:
    elements = [each.element if isinstance(each, Click) else each for each in clicks]
    found = items(*zip(*elements, strict=True)) if elements else items([], [], [])
    text = queries([asked[0]], [asked[1]], [asked[2]]) if asked else queries([], [], [])
    return cut(
        Candidates(clicks=found, queries=text, long_term={"click": found}), at_ms=T, spec=SPEC
    )


Explain = Callable[..., list[Difference]]


@pytest.fixture
def explained(tmp_path: Path) -> Explain:
    """Writes clicks to a lake of its own and explains what the two sides see differently."""

    def run(
        clicks: list[Click], online: Windows | None, offline: Windows, **seen: object
    ) -> list[Difference]:
        settings = Settings(home=tmp_path)
        rows = [_row(each) for each in clicks if each.ingested is not None]
        lake.open_table(settings, EVENTS).append(pa.Table.from_pylist(rows, schema=EVENTS.schema))
        given = {"day_from_ms": MIDNIGHT, **seen}
        pair = Pair(
            seen=Observation(user_key=USER, t_ms=T, windows=online, **given),  # type: ignore[arg-type]
            offline=offline,
        )
        return explain(settings, [pair], click_actions=("click",), spec=SPEC)

    return run


def _row(click: Click) -> dict[str, object]:
    ts, event, item = click.element
    assert click.ingested is not None
    return {
        "event_id": f"e{click.number}",
        "event_key": event,
        "user_id": "anna",
        "user_key": USER,
        "item_id": f"i{click.number}",
        "item_key": item,
        "action": click.action,
        "ts": datetime.fromtimestamp(ts / 1000, UTC),
        "ingested_at": datetime.fromtimestamp(click.ingested / 1000, UTC),
        "source": click.source,
    }


def test_equal_sides_are_not_explained(explained: Explain) -> None:
    assert explained([EARLIER], windows(EARLIER), windows(EARLIER)) == []


def test_a_difference_carries_both_sides_and_the_lakes_record(explained: Explain) -> None:
    ts, event, item = EARLIER.element
    online, offline = explained([EARLIER], windows((ts, event, item ^ 1)), windows(EARLIER))
    assert [(each.side, each.value, each.why) for each in (online, offline)] == [
        ("online", item ^ 1, "other_value"),
        ("offline", item, "other_value"),
    ]
    assert (online.user, online.window, online.t) == (
        "anna",
        "real_time",
        NOON.isoformat(timespec="milliseconds"),
    )
    for each in (online, offline):
        assert (each.id, each.action, each.what) == ("e1", "click", "i1")
        assert each.source == EARLIER.source
        known = NOON - timedelta(hours=1) + timedelta(milliseconds=40)
        assert each.ingested_at == known.isoformat(timespec="milliseconds")


@pytest.mark.parametrize(
    ("why", "click", "seen"),
    [
        ("not_streamed", EARLIER, {}),
        ("not_materialised", IMPORTED, {}),
        ("not_materialised", IMPORTED, {"day_from_ms": None}),
        ("late", replace(EARLIER, ts=T - 5 * DAY_MS, ingested=MIDNIGHT + HOUR), {}),
        ("expired", replace(IMPORTED, ts=T - 8 * DAY_MS), {"day_from_ms": T - 5 * DAY_MS}),
        ("not_in_batch_row", replace(IMPORTED, ts=T - 8 * DAY_MS), {}),
        ("not_in_batch_row", replace(IMPORTED, ts=T - 25 * DAY_MS), {}),
        ("not_in_lake", replace(EARLIER, ingested=None), {}),
    ],
)
def test_what_only_the_offline_side_has(
    explained: Explain, why: str, click: Click, seen: dict[str, object]
) -> None:
    (found,) = explained([click], windows(), windows(click), **seen)
    assert (found.side, found.why) == ("offline", why)


@pytest.mark.parametrize(
    ("why", "in_lake"),
    [
        ("not_built", EARLIER),
        ("known_later", replace(EARLIER, ingested=T)),
        ("other_time", replace(EARLIER, ts=T - 2 * HOUR)),
        ("other_action", replace(EARLIER, action="buy")),
        ("not_in_lake", IMPORTED),
    ],
)
def test_what_only_the_online_side_has(explained: Explain, why: str, in_lake: Click) -> None:
    (found,) = explained([in_lake], windows(EARLIER), windows())
    assert (found.side, found.why) == ("online", why)
    assert REASONS[found.why]


def test_an_event_too_many_moves_and_pushes_out_others(explained: Explain) -> None:
    full = [Click(number=n, ts=T - HOUR + n, ingested=T) for n in range(SPEC.clicks)]
    unknown = Click(number=999, ts=T - 1, ingested=None)
    found = explained(full, windows(*full, unknown), windows(*full))
    assert {(each.side, each.window): each.why for each in found} == {
        ("online", "real_time"): "not_in_lake",
        ("offline", "real_time"): "other_window",
        ("online", "short_term"): "other_window",
        ("offline", "short_term"): "pushed_out",
    }


def test_a_damaged_row_is_one_difference(explained: Explain) -> None:
    (found,) = explained([EARLIER], None, windows(EARLIER), damage="the row cannot be decoded: …")
    assert (found.user, found.window, found.why) == ("anna", "all", "damaged_row")
    assert "decoded" in str(found.value)


def test_lists_of_different_lengths_are_damage() -> None:
    row = {"click_ts": [T - HOUR], "click_events": [1, 2], "click_items": [3]}
    seen = observation(USER, T, {"user_day": row}, day_from_ms=MIDNIGHT, spec=SPEC)
    assert seen.windows is None
    assert "differ in length" in seen.damage


def test_logs_can_leave_queries_out(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    search = {
        "search_id": "s",
        "search_key": key_of("search", "s"),
        "user_id": "anna",
        "user_key": USER,
        "query": "oat milk",
        "ts": NOON - timedelta(hours=1),
        "ingested_at": NOON - timedelta(hours=1),
        "source": "import",
    }
    lake.open_table(settings, SEARCHES).append(
        pa.Table.from_pylist([search], schema=SEARCHES.schema)
    )
    asked = windows(asked=(T - HOUR, key_of("search", "s"), "oat milk"))
    pair = Pair(seen=Observation(user_key=USER, t_ms=T, windows=windows()), offline=asked)
    (found,) = explain(settings, [pair], click_actions=("click",), spec=SPEC)
    assert (found.value, found.what, found.id) == ("oat milk", "oat milk", "s")
    hidden = found.without_texts()
    assert (hidden.value, hidden.what, hidden.id) == (None, None, "s")
