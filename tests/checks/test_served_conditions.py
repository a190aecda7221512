"""The conditions under which a served request must equal its training row are enough.

Untidy histories of many users, and what serving would have read of each by the design's words:
the stream's last four days and a batch row, both as far as records had arrived. Wherever no
condition is broken, the two sides are the same; that is counted by oracles alone.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from jobs.checks.online_side import Observation
from jobs.checks.served_parity import incomparable
from pagoda import dataset, lake
from pagoda.schemas import EVENTS, SEARCHES
from pagoda.sequences import items, queries
from pagoda.settings import Settings
from pagoda.windows import Candidates, Windows, WindowSpec, cut
from tests.oracles.windows import Happening, windows

DAY = 86_400_000
NOON = int(datetime(2026, 11, 24, 12, tzinfo=UTC).timestamp() * 1000)
USERS = 600
TRAVEL_MS = 2_000  # from Kafka to the online store, at most
ACTIONS = ("click", "click", "buy", "collect", "search", "search")


@dataclass(frozen=True, kw_only=True)
class Record:
    """A happening as it came to be known."""

    user: int
    happening: Happening
    ingested: int
    streamed: bool


@dataclass(frozen=True, kw_only=True)
class Request:
    """A search that was served, and the day of the batch row that was online then."""

    user: int
    t: int
    day: int | None
    read_at: int  # up to when Kafka's records had reached the online store


def test_requests_without_a_broken_condition_equal_their_training_rows(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    requests, records = [], []
    for user in range(USERS):
        t = NOON + int(rng.integers(-DAY // 2, DAY // 2))
        back = rng.choice([None, 0, 1, 2, 3], p=[0.2, 0.5, 0.1, 0.1, 0.1])
        travelled = int(rng.integers(-TRAVEL_MS, TRAVEL_MS))
        requests.append(
            Request(
                user=user,
                t=t,
                day=None if back is None else midnight(t) - int(back) * DAY,
                read_at=t + travelled,
            )
        )
        records += [record(user, t, rng) for _ in range(int(rng.integers(1, 12)))]
    reasons = judged(tmp_path, requests, records)

    of_user: dict[int, list[Record]] = {}
    for each in records:
        of_user.setdefault(each.user, []).append(each)
    differing = {
        request.user
        for request in requests
        if seen(online(request, of_user[request.user]), request)
        != seen(offline(request, of_user[request.user]), request)
    }
    assert differing <= {int(user) for user in reasons}, "an excuse is missing"
    # The test would be empty if nothing differed, or if nothing were left to compare.
    assert len(differing) > USERS / 10
    assert len(reasons) < USERS * 0.7
    assert {"in_flight", "late", "not_materialised"} <= set(reasons.values())


@pytest.mark.parametrize(
    ("reason", "changed"),
    [
        (None, {}),
        ("in_flight", {"ts": -500, "ingested": -400}),
        ("in_flight", {"ts": -500, "ingested": 400}),
        ("late", {"ts": -5 * DAY, "ingested": -60_000}),
        ("not_materialised", {"ts": -60_000, "ingested": -60_000, "streamed": False}),
        ("not_materialised", {"ts": -6 * DAY, "ingested": -6 * DAY, "day": None}),
        ("imported_since", {"ts": -6 * DAY, "streamed": False, "imported": 1}),
        ("no_times", {"day": -1}),
        # What came after t, or lies beyond the windows, is nobody's.
        (None, {"ts": 500, "ingested": 100}),
        (None, {"ts": -40 * DAY, "ingested": -40 * DAY, "streamed": False, "day": None}),
        (None, {"ts": -5 * DAY, "ingested": 60_000}),
    ],
)
def test_each_condition_by_its_word(
    tmp_path: Path, reason: str | None, changed: dict[str, int | None]
) -> None:
    ts = changed.get("ts", -3_600_000) or 0
    one = Record(
        user=0,
        happening=Happening(ts=NOON + ts, key=1, what=7, action="click"),
        ingested=NOON + (changed.get("ingested", ts) or 0),
        streamed=bool(changed.get("streamed", True)),
    )
    request = Request(user=0, t=NOON, day=changed.get("day", midnight(NOON)), read_at=NOON)
    found = judged(tmp_path, [request], [one], imported_ms=NOON + (changed.get("imported") or -1))
    assert found == ({} if reason is None else {"0": reason})


def record(user: int, t: int, rng: np.random.Generator) -> Record:
    """Something before t, sometimes seconds before; streamed or imported; sometimes late."""
    span = int(rng.choice([2_000, DAY, 6 * DAY, 35 * DAY], p=[0.04, 0.36, 0.3, 0.3]))
    ts = t - int(rng.integers(0, span))
    action = str(rng.choice(ACTIONS))
    key = int(rng.integers(1 << 60))
    what: int | str = f"words {key}" if action == "search" else int(rng.integers(9))
    streamed = bool(rng.random() < 0.9)
    late = int(rng.choice([0, 300, DAY, 5 * DAY], p=[0.6, 0.3, 0.05, 0.05]))
    return Record(
        user=user,
        happening=Happening(ts=ts, key=key, what=what, action=action),
        ingested=ts + late if streamed else ts,
        streamed=streamed,
    )


def online(request: Request, records: list[Record]) -> list[Happening]:
    """What had arrived in the stream's four days, and in the batch row of its day."""
    read = [each for each in records if each.streamed and each.ingested <= request.read_at]
    stream = [
        each
        for each in read
        if each.happening.action in ("click", "search")
        and each.happening.ts >= midnight(each.ingested) - 3 * DAY
        and each.happening.ts >= midnight(request.t) - 3 * DAY
    ]
    day = request.day
    batch = [
        each
        for each in records
        if day is not None and each.happening.ts < day and each.ingested < day
    ]
    return [each.happening for each in {*stream, *batch}]


def offline(request: Request, records: list[Record]) -> list[Happening]:
    """What was known strictly before t."""
    return [each.happening for each in records if each.ingested < request.t]


def seen(happenings: list[Happening], request: Request) -> dict[str, list[object]]:
    return {**windows(happenings, at_ms=request.t)}


def judged(
    folder: Path,
    requests: list[Request],
    records: list[Record],
    *,
    imported_ms: int = 0,
    saw: Windows | None = None,
) -> dict[str, str]:
    """Which requests cannot be compared, by the production code on a lake.

    Args:
        saw: what each of the requests saw.
    """
    settings = Settings(home=folder)
    fill_lake(settings, records)
    day = date(2026, 1, 1)
    dataset.save(
        settings,
        dataset.Dataset(
            name="made",
            first_day=day,
            last_day=day,
            validation_from=day,
            test_from=day,
            query_protocol="made",
            fingerprint="made",
        ),
    )
    os.utime(dataset.path(settings), (imported_ms / 1000, imported_ms / 1000))
    observed = [
        Observation(
            user_key=each.user,
            t_ms=each.t,
            day_from_ms=each.day,
            request=str(each.user),
            windows=saw,
        )
        for each in requests
    ]
    return incomparable(
        settings,
        observed,
        in_flight_s=TRAVEL_MS / 1000,
        spec=WindowSpec(),
        click_actions=("click",),
    )


def fill_lake(settings: Settings, records: list[Record]) -> None:
    for table, kind in ((EVENTS, "event"), (SEARCHES, "search")):
        rows = [
            {
                f"{kind}_id": str(each.happening.key),
                f"{kind}_key": each.happening.key,
                "user_id": str(each.user),
                "user_key": each.user,
                "item_id": str(each.happening.what),
                "item_key": 1,
                "query": str(each.happening.what),
                "action": each.happening.action,
                "ts": datetime.fromtimestamp(each.happening.ts / 1000, UTC),
                "ingested_at": datetime.fromtimestamp(each.ingested / 1000, UTC),
                "source": "kafka:t:0:1" if each.streamed else "import",
            }
            for each in records
            if (each.happening.action == "search") == (kind == "search")
        ]
        names = table.schema.names
        known = [{name: row.get(name) for name in names} for row in rows]
        if known:
            lake.open_table(settings, table).append(
                pa.Table.from_pylist(known, schema=table.schema)
            )


def midnight(ms: int) -> int:
    return ms - ms % DAY


def test_a_resent_record_counts_from_when_it_was_first_known(tmp_path: Path) -> None:
    first = Record(
        user=0,
        happening=Happening(ts=NOON - 3_600_000, key=1, what=7, action="click"),
        ingested=NOON - 3_500_000,
        streamed=True,
    )
    again = replace(first, ingested=NOON - 100)
    request = Request(user=0, t=NOON, day=midnight(NOON), read_at=NOON)
    assert judged(tmp_path, [request], [first, again]) == {}


@pytest.mark.parametrize("gone", ["click", "search", "buy"])
def test_what_an_import_took_away_is_no_difference_before_it_and_one_after(
    tmp_path: Path, gone: str
) -> None:
    """The import left the user out; only what the user did live is in the lake."""
    live = Record(
        user=0,
        happening=Happening(ts=NOON - 3_600_000, key=1, what=7, action="click"),
        ingested=NOON - 3_500_000,
        streamed=True,
    )
    request = Request(user=0, t=NOON, day=midnight(NOON), read_at=NOON)
    clicks, ago = [(NOON - 3_600_000, 1, 7)], NOON - (25 if gone == "buy" else 5) * DAY
    seen = Candidates(
        clicks=items(*zip(*(clicks + [(ago, 2, 8)] * (gone == "click")), strict=True)),
        queries=queries(*([ago], [2], ["words"])) if gone == "search" else Candidates().queries,
        long_term={"buy": items([ago], [2], [8])} if gone == "buy" else {},
    )
    saw = cut(seen, at_ms=NOON, spec=WindowSpec())
    for imported_ms, reasons in ((NOON + 1_000, {"0": "imported_since"}), (NOON - 1_000, {})):
        folder = tmp_path / str(imported_ms)
        assert judged(folder, [request], [live], imported_ms=imported_ms, saw=saw) == reasons
