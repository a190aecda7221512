"""The list of the forgotten: what it lets through, and that nobody writes by an older one."""

from __future__ import annotations

import json
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.forget.words import as_a_word, in_logs
from pagoda import forgotten
from pagoda.errors import Conflict
from pagoda.forgotten import Forgotten
from pagoda.ids import key_of
from pagoda.messages import FUTURE_TOLERANCE_MS
from pagoda.settings import Settings

NOW_MS = 1_790_000_000_000
USER = key_of("user", "u-1")


@pytest.fixture
def home(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path)


def test_what_was_done_before_is_forgotten_and_what_comes_after_counts(home: Settings) -> None:
    forgotten.add(home, USER, now_ms=NOW_MS)
    with forgotten.consulted(home) as known:
        moments = [NOW_MS - 1, NOW_MS + FUTURE_TOLERANCE_MS - 1, NOW_MS + FUTURE_TOLERANCE_MS]
        assert [known.covers(USER, each) for each in moments] == [True, True, False]
        assert not known.covers(key_of("user", "u-2"), NOW_MS - 1)
    forgotten.add(home, USER, now_ms=NOW_MS + 10**6)  # came back, and asked again
    with forgotten.consulted(home) as known:
        assert known.until_ms == {USER: NOW_MS + 10**6 + FUTURE_TOLERANCE_MS}


def test_adding_waits_for_those_who_work_by_the_older_list_and_for_nobody_else(
    home: Settings,
) -> None:
    entered, leave, added = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        with forgotten.consulted(home) as known:
            assert not known
            entered.set()
            leave.wait(30)

    def add() -> None:
        forgotten.add(home, USER, now_ms=NOW_MS)
        added.set()

    threads = [threading.Thread(target=each) for each in (work, add)]
    threads[0].start()
    entered.wait(30)
    threads[1].start()
    give_up = time.monotonic() + 30
    while True:  # newcomers see the new list while the older one is still held
        with forgotten.consulted(home) as known:
            if known:
                break
        assert time.monotonic() < give_up
    assert not added.is_set()
    leave.set()
    for thread in threads:
        thread.join(30)
    assert added.is_set()
    assert sorted(path.name for path in home.home.glob("forgotten.*")) == ["forgotten.json"]


def test_a_run_that_was_killed_while_it_waited_is_finished_by_the_next(home: Settings) -> None:
    forgotten.add(home, USER, now_ms=NOW_MS)
    path = forgotten.path(home)
    path.with_suffix(".before").hardlink_to(path)
    other = key_of("user", "u-2")
    forgotten.add(home, other, now_ms=NOW_MS)
    with forgotten.consulted(home) as known:
        assert set(known.until_ms) == {USER, other}


def test_rows_are_let_through_by_user_and_time() -> None:
    known = Forgotten(until_ms={USER: NOW_MS})
    at = [datetime.fromtimestamp((NOW_MS + each) / 1000, UTC) for each in (-1, 0, -1)]
    rows = pa.table({"user_key": [USER, USER, 5], "ts": at})
    assert known.without(rows, "ts").to_pylist() == rows.slice(1).to_pylist()
    items = pa.table({"item_key": [USER]})
    assert known.without(items, "ts") is items


IDS = st.text(min_size=1, max_size=12).filter(lambda text: text.strip() and text.isprintable())


@given(user=IDS, other=IDS, ascii_only=st.booleans())
def test_a_raw_message_names_its_user_however_json_writes_it(
    user: str, other: str, ascii_only: bool
) -> None:
    raw = json.dumps({"user_id": user, "item_id": 7}, ensure_ascii=ascii_only).encode()
    assert Forgotten(until_ms={key_of("user", user): 1}).names(raw)
    assert Forgotten(until_ms={key_of("user", user): 1}).names(raw[: raw.index(b"item_id")])
    stranger = Forgotten(until_ms={key_of("user", f"{other}!{user}"): 1})
    assert not stranger.names(raw)


@given(user=IDS, ascii_only=st.booleans())
def test_the_pattern_finds_the_id_as_a_whole_word_only(user: str, ascii_only: bool) -> None:
    raw = json.dumps({"user_id": user}, ensure_ascii=ascii_only).encode()
    inside = f"x{user}x".encode()
    found = pc.match_substring_regex(pa.array([raw, inside]), as_a_word(user)).to_pylist()
    assert found[0]
    if user.isalnum() and user.isascii():
        assert not found[1]


@pytest.mark.parametrize(
    ("user", "line", "blotted"),
    [
        ("household-7", "user household-7 left, household-71 stayed", ["household-7"]),
        ("7", "rows=7 port 7 user=7 /user/7/sequences '7' 17", ["7", "7", "7"]),
        ("481516", "served 481516 in 1481516 ms", ["481516"]),
        ("u", f"user_key={USER} not {USER}0", [str(USER)]),
    ],
)
def test_a_log_is_blotted_where_it_names_the_user(user: str, line: str, blotted: list[str]) -> None:
    found = in_logs(user, USER).finditer(line.encode())
    assert [match[match.lastgroup or 0].decode() for match in found] == blotted


def test_who_copies_behaviour_keeps_forgetting_out(home: Settings) -> None:
    with (
        forgotten.copying(home),
        forgotten.copying(home),
        pytest.raises(Conflict, match="training"),
        forgotten.nobody_copies(home),
    ):
        pass
    with forgotten.nobody_copies(home):
        pass
