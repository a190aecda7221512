"""`pagoda bench online` in short: all readers say the same, and a reader that lies is noticed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from jobs.bench import online
from jobs.bench.online import Asked, bench
from jobs.world import World
from pagoda import store
from pagoda.errors import CheckFailed
from pagoda.ids import key_of
from pagoda.settings import Settings

ASKED = Asked(users=4, full=1, calls=12, rounds=1, seed=5)


@pytest.fixture(scope="module")
def private(redis_server: Settings, tmp_path_factory: pytest.TempPathFactory) -> World:
    home: Path = tmp_path_factory.mktemp("bench")
    for shared in ("secrets", "jars"):
        (home / shared).symlink_to(redis_server.home / shared)
    return World(home=home, settings=redis_server.model_copy(update={"home": home}))


@pytest.mark.servers
def test_all_readers_say_the_same_of_full_rows_and_a_lie_is_noticed(
    private: World,
) -> None:
    rows, facts = bench(private, ASKED)
    names = [row["reader"] for row in rows]
    assert names == ["HMGET", "OnlineReader", "OnlineReader and cut", "Feast"]
    # 150 + 50 clicks, 20 + 6 queries and 3 x 100 long-term, three columns each; 7 statistics.
    assert (
        facts["compared"] == f"{4 * (3 * (150 + 50 + 20 + 6 + 300) + 7)} values of 4 users, equal"
    )

    readers = online._contestants(private, store.open_store(private.settings, offline=False))

    def lie(key: int) -> Any:
        said: Any = readers["Feast"](key)
        said["user_day__click_items"][0][149] += 1
        return said

    with pytest.raises(CheckFailed, match=r"user_day\.click_items"):
        online._equal({**readers, "Feast": lie}, [key_of("user", "bench-u0")])
