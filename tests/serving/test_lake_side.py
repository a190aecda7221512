"""What the service reads from and writes to the lake beside its searches."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from pagoda import forgotten
from pagoda.ids import key_of
from pagoda.lake import open_table
from pagoda.online import StampedRow
from pagoda.schemas import EVENTS, SERVED
from pagoda.settings import Settings
from serving.examples import ExampleUsers
from serving.served import Served, ServedLog

NOW = datetime.now(UTC).replace(microsecond=0)


@pytest.fixture
def lake(tmp_path: Path) -> Settings:
    """Settings of an empty home, everything sampled and flushed only when asked."""
    settings = Settings(home=tmp_path)
    serving = settings.serving.model_copy(
        update={"served_sample": 1.0, "served_flush_s": 3600, "example_users": 2}
    )
    return settings.model_copy(update={"serving": serving})


def _served(search_id: str, at: datetime) -> Served:
    return Served(
        search_id=search_id,
        user_key=7,
        at_ms=round(at.timestamp() * 1000),
        bundle="b",
        rows={
            "user_day": StampedRow(valid_from_ms=9, values={"click_ts": [1]}),
            "user_intraday": None,
        },
    )


def test_samples_come_with_the_rows_as_read_but_not_of_who_was_forgotten_since(
    lake: Settings,
) -> None:
    served = ServedLog(lake)
    served.offer(_served("before", NOW))
    served.offer(_served("after", NOW + timedelta(minutes=6)))
    forgotten.add(lake, 7, now_ms=round(NOW.timestamp() * 1000) + 1)
    served.close()
    (row,) = open_table(lake, SERVED).scan().to_arrow().to_pylist()
    assert row["search_id"] == "after"
    expected = '{"user_day":{"valid_from_ms":9,"click_ts":[1]},"user_intraday":null}'
    assert row["features"] == expected


def test_a_lake_that_refuses_costs_samples_and_nothing_else(lake: Settings) -> None:
    broken = lake.model_copy(
        update={"lake": lake.lake.model_copy(update={"pyiceberg": {"type": "nope"}})}
    )
    served = ServedLog(broken)
    served.offer(_served("lost", NOW))
    served.close()
    assert (served.written, served.lost) == (0, 1)


def test_a_share_of_nothing_writes_nothing(lake: Settings) -> None:
    none = lake.model_copy(
        update={"serving": lake.serving.model_copy(update={"served_sample": 0.0})}
    )
    served = ServedLog(none)
    served.offer(_served("x", NOW))
    served.close()
    assert (served.written, served.lost) == (0, 0)


def test_the_most_and_the_least_active_recent_users_are_offered(lake: Settings) -> None:
    seen = [("old", 30)] * 9 + [("busy", 1)] * 3 + [("quiet", 2)] * 2 + [("rare", 1)]
    rows = [
        {
            "event_id": f"e{n}",
            "event_key": n,
            "user_id": user,
            "user_key": key_of("user", user),
            "item_id": "i",
            "item_key": 1,
            "action": "click",
            "ts": NOW - timedelta(days=days),
            "ingested_at": NOW,
            "source": "test",
        }
        for n, (user, days) in enumerate(seen)
    ]
    open_table(lake, EVENTS).append(pa.Table.from_pylist(rows, schema=EVENTS.schema))
    users = ExampleUsers(lake).get()
    assert [(user.user_id, user.events) for user in users] == [("busy", 3), ("rare", 1)]
