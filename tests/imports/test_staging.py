from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.imports import staging
from jobs.imports.read import PLACE, RAW
from jobs.imports.rows import REASONS
from jobs.imports.staging import Staged
from pagoda.errors import InputError

DAY = datetime(2024, 3, 1, tzinfo=UTC)


def events(rows: Iterable[tuple[str | None, str, int]]) -> pl.DataFrame:
    """Frames of (event_id, user_id, hour); no event_id column if the ids are None."""
    frame = pl.DataFrame(
        [
            {
                "event_id": event,
                "user_id": user,
                "ts": DAY + timedelta(hours=hour),
                PLACE: f"x:{number}",
                RAW: b"",
            }
            for number, (event, user, hour) in enumerate(rows)
        ],
        schema={
            "event_id": pl.String,
            "user_id": pl.String,
            "ts": pl.Datetime("us", "UTC"),
            PLACE: pl.String,
            RAW: pl.Binary,
        },
    )
    return frame.drop("event_id") if frame["event_id"].null_count() else frame


def settle(stage: Staged) -> dict[str, str]:
    """Place and reason of each row that goes."""
    return {
        place: reasons[0]
        for frame in stage.settle()
        for place, reasons in frame.select(PLACE, REASONS).iter_rows()
    }


def stage_in(folder: Path, *frames: pl.DataFrame) -> Staged:
    stage = Staged(folder / "events", kind="event", id_column="event_id", time="ts")
    for frame in frames:
        stage.add(frame)
    return stage


def test_of_identical_rows_the_first_stays_and_of_contradicting_rows_none(tmp_path: Path) -> None:
    stage = stage_in(
        tmp_path,
        events(
            [
                ("same", "u", 1),
                ("other", "u", 1),
                ("same", "u", 1),
                ("torn", "u", 1),
                ("torn", "u", 2),
                ("torn", "u", 2),
            ]
        ),
    )
    assert settle(stage) == {
        "x:2": "event_id repeats an identical row: 'x:0'",
        "x:3": "event_id contradicts another row: 'x:4'",
        "x:4": "event_id contradicts another row: 'x:3'",
        "x:5": "event_id contradicts another row: 'x:3'",
    }
    assert pl.concat(stage.batches(10))["event_id"].to_list() == ["other", "same"]
    assert len(stage) == 2


def test_of_two_versions_of_an_item_the_newer_stays(tmp_path: Path) -> None:
    stage = Staged(tmp_path / "items", kind="item", id_column="item_id", time=None)
    stage.add(
        pl.DataFrame(
            {
                "item_id": ["i", "i", "i"],
                "title": ["old", "new", "older"],
                "updated_at": [DAY, DAY + timedelta(days=1), None],
                PLACE: ["x:0", "x:1", "x:2"],
                RAW: [b"", b"", b""],
            }
        )
    )
    assert settle(stage) == {
        "x:0": "item_id is older than another row: 'x:1'",
        "x:2": "item_id is older than another row: 'x:1'",
    }
    assert pl.concat(stage.batches(10))["title"].to_list() == ["new"]


def test_rows_without_ids_get_one_from_their_content_and_number(tmp_path: Path) -> None:
    rows: list[tuple[None, str, int]] = [(None, "u", 1), (None, "v", 1), (None, "u", 1)]
    one = stage_in(tmp_path / "one", events(rows))
    two = stage_in(tmp_path / "two", events(rows[:1]), events([*rows[1:], (None, "w", 1)]))
    assert settle(one) == settle(two) == {}
    first, second = (pl.concat(stage.batches(10)) for stage in (one, two))
    assert first["event_id"].n_unique() == 3
    assert set(first["event_id"]) < set(second["event_id"])
    assert sorted(each[-2:] for each in first["event_id"]) == ["-0", "-0", "-1"]


def test_a_day_that_is_too_large_is_held_in_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A day of 1,000 rows in order of time, of which 300 share one: they stay together."""
    order = np.random.default_rng(0).permutation(1_000)
    stage = stage_in(tmp_path, events([(f"e{n:04}", "u", 1) for n in order]))
    stage.retime(DAY)
    part = next(tmp_path.rglob("*.parquet"))
    late = pl.col("ts") > DAY + timedelta(milliseconds=700)
    same = pl.when(late).then(pl.lit(DAY + timedelta(hours=1))).otherwise("ts").alias("ts")
    pl.read_parquet(part).with_columns(same).write_parquet(part)
    assert settle(stage) == {}
    held: list[int] = []
    finished = Staged._finished

    def finish(self: Staged, rows: pl.DataFrame) -> pl.DataFrame:
        held.append(len(rows))
        return finished(self, rows)

    monkeypatch.setattr(Staged, "_finished", finish)
    back = pl.concat(stage.batches(100)).select("ts", "event_id").rows()
    assert back == sorted(back)
    assert len(back) == sum(held) == 1_000
    assert max(held) <= 400
    assert len(held) >= 7


def test_two_ids_with_one_key_are_refused_with_both_strings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staging, "keys_of", lambda _, ids: np.zeros(len(ids), dtype=np.int64))
    stage = stage_in(tmp_path, events([("left", "u", 1), ("right", "u", 2)]))
    with pytest.raises(InputError, match="event 'left' and 'right': key 0"):
        settle(stage)


@given(
    rows=st.lists(
        st.tuples(st.sampled_from("abcdefgh"), st.sampled_from("uv"), st.integers(0, 60)),
        max_size=40,
    ),
    cut=st.integers(0, 40),
    size=st.integers(1, 10),
)
def test_rows_come_back_once_in_order_of_days_whatever_the_batches(
    rows: list[tuple[str, str, int]], cut: int, size: int
) -> None:
    with TemporaryDirectory() as folder:
        whole = events(rows)
        stage = stage_in(Path(folder), whole[:cut], whole[cut:])
        going = settle(stage)
        assert len(stage) + len(going) == len(rows)
        batches = list(stage.batches(size))
        back = pl.concat(batches) if batches else whole.clear()
        kept = {rows[int(place[2:])] for place in set(whole[PLACE]) - going.keys()}
        assert len(back) == len(stage) == len(kept)
        found = zip(back["event_id"], back["user_id"], back["ts"], strict=True)
        assert {(e, u, int((ts - DAY).total_seconds()) // 3600) for e, u, ts in found} == kept
        in_order = back.select("ts", "event_id").rows()
        assert in_order == sorted(in_order)
        assert stage.days() == sorted(set(back["ts"].dt.date()))
        # An id stays exactly if all its rows say the same.
        said: dict[str, set[tuple[str, int]]] = {}
        for event, user, hour in rows:
            said.setdefault(event, set()).add((user, hour))
        assert set(back["event_id"]) == {event for event, what in said.items() if len(what) == 1}
