from __future__ import annotations

import gzip
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from jobs.imports.cli import app
from jobs.imports.interactions import Interactions, Options
from jobs.imports.run import Outcome, run_import
from jobs.imports.shape import Shape, shape_of
from pagoda import dataset
from pagoda.errors import InputError
from pagoda.schemas import EVENTS, ITEMS, RAW_TABLES, REJECTED, SEARCHES
from pagoda.settings import Settings
from tests.imports.conftest import NOW, snapshots, stored

SHARED = Path(__file__).parents[3] / "shared" / "data"
GAMES = SHARED / "amazon_videogames" / "Video.txt.gz"
TAOBAO = SHARED / "taobao_ecomm" / "ecomm_edge_train.txt.gz"
Bring = Callable[..., Outcome]


@pytest.fixture
def bring(home: Settings, tmp_path: Path) -> Bring:
    """Import lines; `said` are options, the rest is for the import."""

    def bring(text: str | bytes, said: Options | None = None, **options: bool) -> Outcome:
        path = tmp_path / "some.txt"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        source = Interactions([path], said or Options(), scratch=home.scratch, now=NOW)
        try:
            return run_import(home, source, now=NOW, **options)
        finally:
            source.close()

    return bring


def events(home: Settings) -> list[tuple[str, str]]:
    """User and item of all events, by time."""
    return stored(home, EVENTS).sort("ts").select("user_id", "item_id").rows()


# What lines are taken for ----------------------------------------------------------------------


def shape(tmp_path: Path, text: str, **said: object) -> Shape:
    path = tmp_path / "x.txt"
    path.write_text(text)
    return shape_of(path, **said)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1 6393\n1 13504\n", "space, no header, user = column 1, item = column 2, no times"),
        (
            "u\ti\t2024-03-01 10:00:00\tbuy\n",
            "tab, no header, user = column 1, item = column 2, time = column 3, "
            "action = column 4, times are iso",
        ),
        (
            "item_id,user_id,rating,timestamp\n9,1,5.0,1709287200\n",
            "comma, a header, user = user_id, item = item_id, time = timestamp, times are epoch_s",
        ),
        (
            "reviewerID;asin;unixReviewTime\nA1;B1;1709287200123\n",
            "semicolon, a header, user = reviewerID, item = asin, time = unixReviewTime, "
            "times are epoch_ms",
        ),
        ('"u, 1",i1\n"u, 2",i2\n', "comma, no header, user = column 1, item = column 2, no times"),
    ],
)
def test_lines_are_taken_for_what_they_are(tmp_path: Path, text: str, expected: str) -> None:
    assert str(shape(tmp_path, text)) == f"read as: separated by {expected}"


def test_columns_can_be_said_and_left_out(tmp_path: Path) -> None:
    found = shape(tmp_path, "1\t5.0\t7\t20240301\n", columns=("user", "-", "item", "time"))
    assert found.places == {"user": 0, "item": 2, "time": 3}
    assert found.time_format == "%Y%m%d"


@pytest.mark.parametrize(
    ("text", "said", "problems"),
    [
        ("1\n2\n", {}, ["no column is the item: column_1"]),
        (
            "1 2 3 4 5\n",
            {},
            [
                "5 columns and no header that names them",
                "times are not understood: '3'; say --time-format",
            ],
        ),
        (
            "1 2\n",
            {"columns": ("user", "item", "-", "time")},
            [
                "4 columns are named, the lines have 2",
                "times are not understood: there are none; say --time-format",
            ],
        ),
        ("user,thing\n1,2\n", {}, ["no column of the header is the item: user, thing"]),
        ("1,2,4.5\n1,3,3.0\n", {}, ["times are not understood: '4.5'; say --time-format"]),
        (
            "1,2\n",
            {"columns": ("user", "user", "price")},
            [
                "no column 'price'; there are user, item, time, action and -",
                "user stands twice",
                "no column is the item: column_1, column_2",
                "3 columns are named, the lines have 2",
            ],
        ),
    ],
)
def test_all_that_is_not_understood_is_said_at_once(
    tmp_path: Path, text: str, said: dict[str, object], problems: list[str]
) -> None:
    with pytest.raises(InputError, match="the lines are not understood") as caught:
        shape(tmp_path, text, **said)
    assert caught.value.problems == problems


@pytest.mark.parametrize(
    "content",
    [b"", b"\n\n", gzip.compress(b"1 2\n" * 99)[:-9], b"1," + b"x" * 2**21],
    ids=[
        "nothing",
        "no line",
        "cut off",
        "one endless line",
    ],  # not the bytes: gzip's hold the time
)
def test_a_file_without_lines_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.gz" if content.startswith(b"\x1f\x8b") else tmp_path / "x"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"empty|cannot be read|not lines of text"):
        shape_of(path)


def test_files_that_are_not_there_and_options_that_contradict_are_refused(
    home: Settings, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"none\.txt: file not found"):
        Interactions([tmp_path / "none.txt"], Options(), scratch=home.scratch)
    (tmp_path / "x").write_text("1 2\n")
    with pytest.raises(InputError, match="options cannot be used") as caught:
        Interactions([tmp_path / "x"], Options(split="time"), scratch=home.scratch)
    with pytest.raises(InputError, match="no column of them"):
        Interactions([tmp_path / "x"], Options(actions={"a": "buy"}), scratch=home.scratch)
    assert caught.value.problems == [
        'times = "order" has no days to split by: split = "leave_last_out"'
    ]


# Rows ------------------------------------------------------------------------------------------


def test_without_times_the_order_of_lines_is_the_order_of_events(
    home: Settings, bring: Bring
) -> None:
    outcome = bring("2 b\n1 a\n2 a\n1 b\n1 a\n", Options(shifted=False))
    assert events(home) == [("2", "b"), ("1", "a"), ("2", "a"), ("1", "b"), ("1", "a")]
    rows = stored(home, EVENTS).sort("ts")
    start = datetime(2000, 1, 3, tzinfo=UTC)
    assert rows["ts"].to_list() == [start + timedelta(milliseconds=n) for n in range(5)]
    assert rows["ingested_at"].to_list() == rows["ts"].to_list()
    assert set(rows["action"]) == {"click"}
    record = dataset.load(home)
    assert (record.times, record.split, record.requests) == ("order", "leave_last_out", "events")
    assert (record.first_day, record.last_day) == (start.date(), start.date())
    assert (record.click_actions, record.positive_actions) == (("click",), ("click",))
    assert outcome.notes == [
        "read as: separated by space, no header, user = column 1, item = column 2, no times",
        "times are made up: from each event to the next a millisecond, in the order of what the "
        "files say; windows go by count, and nobody counts as a robot",
        "no catalogue: the 2 items are those of the events, titles are made up: their ids",
        "no searches: a row to train on is an event and what its user did before it, for recipes "
        "without queries (sasrec, next_item)",
    ]


def test_items_without_a_catalogue_have_their_ids_as_titles(home: Settings, bring: Bring) -> None:
    bring("2 b\n1 a\n2 a\n", Options(shifted=False))
    items = stored(home, ITEMS).sort("item_id")
    assert items.select("item_id", "title", "brand").rows() == [("a", "a", None), ("b", "b", None)]
    assert items["updated_at"].unique().to_list() == [datetime(2000, 1, 3, tzinfo=UTC)]
    assert stored(home, SEARCHES).is_empty()


def test_real_times_and_actions_stay_and_bad_rows_are_rejected_with_reason(
    home: Settings, bring: Bring
) -> None:
    outcome = bring(
        "user,item,time,action\n"
        "u1,i1,1709287200,view\n"
        "u1,i2,1709287260,order\n"
        "u1,i3,soon,view\n"
        "u1,i3,1709287260,hover\n"
        ",i3,1709287260,view\n",
        Options(actions={"view": "click", "order": "buy"}, shifted=False),
    )
    assert stored(home, EVENTS).sort("ts").select("item_id", "action", "ts").rows() == [
        ("i1", "click", datetime(2024, 3, 1, 10, tzinfo=UTC)),
        ("i2", "buy", datetime(2024, 3, 1, 10, 1, tzinfo=UTC)),
    ]
    assert dict(stored(home, REJECTED).select("place", "reason").rows()) == {
        "some.txt:4": "ts is not a time (epoch_s, UTC): 'soon'",
        "some.txt:5": "action is unknown: 'hover'",
        "some.txt:6": "user_id is empty",
    }
    assert (outcome.tables["events"].written, outcome.tables["events"].rejected) == (2, 3)
    record = dataset.load(home)
    assert (record.times, record.split) == ("real", "time")
    assert record.click_actions == ("click", "collect", "cart", "buy")


def test_times_can_count_for_their_order_alone(home: Settings, bring: Bring) -> None:
    """Years between events become milliseconds; of equal times the first line is the first."""
    bring(
        "u,late,2020-05-01\nu,first,1999-01-01\nv,same,2010-01-01\nu,equal,2010-01-01\n",
        Options(by_order=True, shifted=False),
    )
    assert [item for _, item in events(home)] == ["first", "same", "equal", "late"]
    times = stored(home, EVENTS)["ts"].sort()
    assert times.diff().drop_nulls().unique().to_list() == [timedelta(milliseconds=1)]
    assert dataset.load(home).split == "leave_last_out"


def test_times_that_leave_windows_empty_are_noted(bring: Bring) -> None:
    """Two events follow another of their user: none of them, then one within 30 days."""

    def warned(second: str, third: str) -> list[str]:
        lines = f"u,a,2020-01-01\nu,b,{second}\nv,a,2020-01-05\nv,b,{third}\n"
        return [
            note for note in bring(lines, Options(), dry_run=True).notes if "--by-order" in note
        ]

    assert warned("2020-02-01", "2022-01-01")[0].startswith(
        "only 0% of the events that follow another of their user do so within 30 days"
    )
    assert warned("2020-01-31", "2022-01-01") == []


@given(
    st.lists(
        st.tuples(st.sampled_from("uvw"), st.sampled_from("ab"), st.integers(0, 5)), min_size=1
    )
)
def test_made_up_times_keep_any_order(
    tmp_path_factory: pytest.TempPathFactory, lines: list[tuple[str, str, int]]
) -> None:
    """Against Python's own stable sort, in batches of two rows."""
    folder = tmp_path_factory.mktemp("order")
    path = folder / "x.csv"
    path.write_text("".join(f"{u}{n},{i},202401{t + 1:02}\n" for n, (u, i, t) in enumerate(lines)))
    source = Interactions([path], Options(by_order=True), scratch=folder / "scratch", now=NOW)
    from rich.progress import Progress

    source.prepare(Progress(disable=True))
    rows = pl.concat([pl.DataFrame(each) for each in source.batches(EVENTS, 0)]).sort("ts")
    source.close()
    ordered = sorted(enumerate(lines), key=lambda numbered: numbered[1][2])
    assert rows["user_id"].to_list() == [f"{u}{n}" for n, (u, _, _) in ordered]


def test_a_second_import_changes_nothing_and_a_dry_run_writes_nothing(
    home: Settings, bring: Bring
) -> None:
    would = bring("1 a\n1 b\n", dry_run=True)
    assert would.samples["items"][0]["title"] == "a"
    assert (would.tables["events"].written, would.tables["items"].written) == (2, 2)
    assert set(snapshots(home, RAW_TABLES).values()) == {None}
    bring("1 a\n1 b\n")
    before = snapshots(home, RAW_TABLES)
    again = bring("1 a\n1 b\n")
    assert snapshots(home, RAW_TABLES) == before
    assert (again.tables["events"].unchanged, again.tables["items"].unchanged) == (2, 2)


def test_times_move_to_now_unless_they_should_stay(home: Settings, bring: Bring) -> None:
    assert bring("1 a\n").shift_days > 0
    assert 1 <= (NOW.date() - dataset.load(home).last_day).days <= 7
    assert bring("1 a\n", Options(shifted=False)).shift_days == 0


def test_several_files_are_one_after_the_other(home: Settings, tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "a[1].txt").write_text("1 a\n")
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(b"1 b\nwrong\n"))
    files = [tmp_path / "deep" / "a[1].txt", tmp_path / "b.txt.gz"]
    source = Interactions(files, Options(name="both"), scratch=home.scratch, now=NOW)
    run_import(home, source, now=NOW)
    source.close()
    assert [item for _, item in events(home)] == ["a", "b"]
    assert stored(home, REJECTED)["place"].to_list() == ["b.txt.gz:2"]
    assert dataset.load(home).name == "both"


def test_the_command_says_what_it_took_the_lines_for(home: Settings, tmp_path: Path) -> None:
    (tmp_path / "My Log.txt").write_text("1\ta\tview\n1\tb\tview\n")
    command = ["interactions", str(tmp_path / "My Log.txt"), "--columns", "user,item,action"]
    result = CliRunner().invoke(app, [*command, "--action", "view=click"])
    assert result.exit_code == 0, result.output
    assert "separated by tab, no header" in result.output
    assert "each user's last item tests, the one before it validates" in result.output
    assert dataset.load(home).name == "my-log"
    wrong = CliRunner().invoke(app, [*command, "--action", "view"])
    assert isinstance(wrong.exception, InputError)


# Real lines ------------------------------------------------------------------------------------


@pytest.mark.skipif(not GAMES.exists(), reason="needs SASRec's Video.txt.gz in ../shared/data")
def test_the_games_of_sasrec_come_in_whole(home: Settings) -> None:
    source = Interactions([GAMES], Options(), scratch=home.scratch)
    outcome = run_import(home, source)
    source.close()
    assert (outcome.tables["events"].written, outcome.tables["events"].rejected) == (287_107, 0)
    rows = stored(home, EVENTS)
    assert (rows["user_id"].n_unique(), rows["item_id"].n_unique()) == (31_013, 23_715)
    first = rows.sort("ts").head(3).select("user_id", "item_id").rows()
    assert first == [("1", "6393"), ("1", "13504"), ("1", "14087")]
    record = dataset.load(home)
    assert record.name == "video"
    assert 1 <= (datetime.now(UTC).date() - record.last_day).days <= 7


@pytest.mark.skipif(not TAOBAO.exists(), reason="needs Taobao's sample in ../shared/data")
def test_taobaos_behaviours_come_in_without_a_mapping(home: Settings) -> None:
    options = Options(
        columns=("user", "item", "action", "time"),
        zone="Asia/Shanghai",
        actions={"1": "click", "2": "collect", "3": "cart", "4": "buy"},
        shifted=False,
    )
    source = Interactions([TAOBAO], options, scratch=home.scratch)
    outcome = run_import(home, source)
    source.close()
    assert (outcome.tables["events"].written, outcome.tables["events"].rejected) == (85_213, 0)
    assert dataset.load(home).last_day == date(2019, 6, 18)
