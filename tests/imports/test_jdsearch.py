from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from jobs.imports import jdsearch_lines
from jobs.imports.cli import app
from jobs.imports.jdsearch import JDsearch
from jobs.imports.read import PLACE, PROBLEM, RAW
from jobs.imports.run import Outcome, run_import
from pagoda import dataset
from pagoda.errors import InputError
from pagoda.lake import open_table
from pagoda.schemas import EVENTS, ITEMS, RAW_TABLES, REJECTED, SEARCHES
from pagoda.settings import Settings
from pagoda.text import units_of
from tests.imports.conftest import NOW, snapshots, stored
from tests.oracles import jdsearch as oracle

SAMPLE = Path(__file__).parents[3] / "shared" / "data" / "jdsearch_sample"
USERS = SAMPLE / "user_behavior_data_sample.txt.gz"
PRODUCTS = SAMPLE / "product_meta_data_sample.txt.gz"
X = "\x18"
USERS_HEADER = "\t".join(jdsearch_lines.COLUMNS)
PRODUCTS_HEADER = (
    "wid\tname\tbrand_id\tbrand_name\tcate_id_1\tcate_name_1\tcate_id_2\tcate_name_2\tcate_id_3\t"
    "cate_name_3\tcate_id_4\tcate_name_4\tshop_id"
)
# The example of the data set's own page, but for the intervals, and somebody without a history.
ANNA = (
    f"12{X}32{X}56\t456_457_789\t3.0_0.0_1.0\t"
    f"323{X}328_-1_12{X}54\t889_256_345\tORD_CLICK_FLW\t0_12_4_86400"
)
BERT = "54\t457\t0.0\t\t\t\t0"
PRODUCTS_TEXT = (
    f"{PRODUCTS_HEADER}\n"
    f"456\t12{X}7\t1\t71{X}72\t10\t81\t20\t82\t30\t83{X}84\t40\t85\t900\n"
    "457\t\t2\t-1\t10\t81\t20\t82\t30\t83\t40\t\t-1\n"
)
Bring = Callable[..., Outcome]


@pytest.fixture
def bring(home: Settings, tmp_path: Path) -> Bring:
    """Import lines of users, with a header before them, beside a catalogue of two."""

    def bring(
        *lines: str, header: bool = True, products: str = PRODUCTS_TEXT, **options: bool
    ) -> Outcome:
        head = [USERS_HEADER] if header else []
        (tmp_path / "users.txt").write_text("\n".join([*head, *lines]) + "\n")
        (tmp_path / "products.txt").write_text(products)
        source = JDsearch(
            tmp_path / "users.txt",
            tmp_path / "products.txt",
            scratch=home.scratch,
            now=NOW,
            shifted=options.pop("shifted", False),
        )
        try:
            return run_import(home, source, now=NOW, **options)
        finally:
            source.close()

    return bring


# What a line tells of --------------------------------------------------------------------------


def test_what_was_done_lies_before_the_last_search_as_the_intervals_say(
    home: Settings, bring: Bring
) -> None:
    bring(ANNA)
    day = datetime(2022, 10, 16, tzinfo=UTC)
    last = datetime(2022, 10, 17, tzinfo=UTC)
    rows = stored(home, EVENTS).sort("ts", "action", "position")
    assert rows.select("user_id", "item_id", "action", "ts", "search_id", "position").rows() == [
        ("2", "889", "buy", day - timedelta(seconds=16), "2-s1", None),
        ("2", "256", "click", day - timedelta(seconds=4), None, None),
        ("2", "345", "collect", day, "2-s2", None),
        ("2", "456", "buy", last, "2-last", 0),
        ("2", "789", "click", last, "2-last", 2),
        ("2", "456", "impression", last, "2-last", 0),
        ("2", "457", "impression", last, "2-last", 1),
        ("2", "789", "impression", last, "2-last", 2),
    ]
    assert rows["ingested_at"].to_list() == rows["ts"].to_list()
    assert stored(home, SEARCHES).sort("ts").select("search_id", "query", "ts").rows() == [
        ("2-s1", "323 328", day - timedelta(seconds=16)),
        ("2-s2", "12 54", day),
        ("2-last", "12 32 56", last),
    ]


def test_terms_are_words_to_the_tokenizer(home: Settings, bring: Bring) -> None:
    bring(ANNA.replace(X, "^X"))
    query = stored(home, SEARCHES).filter(search_id="2-last")["query"].item()
    assert units_of(query, "jieba").words == units_of(query).words == ["12", "32", "56"]


def test_the_catalogues_names_are_words_and_ids_stand_in_for_missing_ones(
    home: Settings, bring: Bring
) -> None:
    bring(ANNA)
    items = stored(home, ITEMS).sort("item_id")
    columns = ("title", "brand", "first_category", "category", "leaf_category", "shop")
    assert items.select(columns).rows() == [
        ("12 7", "71 72", "81", "83 84", "85", "900"),
        (None, "2", "81", "83", "40", None),
    ]
    first = open_table(home, ITEMS).scan("item_id == '456'").to_arrow().to_pylist()[0]
    assert dict(first["attributes"]) == {
        "second_category": "82",
        "brand_id": "1",
        "cate_id_1": "10",
        "cate_id_2": "20",
        "cate_id_3": "30",
        "cate_id_4": "40",
    }


@dataclass(frozen=True)
class Line:
    """A user's line by its lists."""

    candidates: Sequence[tuple[str, str]]
    history: Sequence[tuple[str, str, str, int]]
    last_gap_s: int

    def fields(self) -> dict[str, str]:
        queries, items, types, gaps = zip(*self.history, strict=True) if self.history else [()] * 4
        values = (
            f"9{X}8",
            *("_".join(each) for each in zip(*self.candidates, strict=True)),
            *("_".join(each) for each in (queries, items, types)),
            "_".join(str(gap) for gap in (*gaps, self.last_gap_s)),
        )
        return dict(zip(jdsearch_lines.COLUMNS, values, strict=True))


ids = st.sampled_from(("1", "2", "3"))
gaps = st.sampled_from((0, 7, 1_800, 1_801, 200_000))
lines_of_users = st.builds(
    Line,
    candidates=st.lists(
        st.tuples(ids, st.sampled_from(("0.0", "1.0", "2.0", "3.0"))), min_size=1, max_size=5
    ),
    history=st.lists(
        st.tuples(
            st.sampled_from(("-1", "5", f"5{X}6")),
            ids,
            st.sampled_from(("CLICK", "CART", "ORD", "FLW")),
            gaps,
        ),
        max_size=7,
    ),
    last_gap_s=gaps,
)


def batch(lines: Sequence[dict[str, str]]) -> pl.DataFrame:
    about = [{PLACE: f"x:{number + 2}", RAW: b"", PROBLEM: None} for number in range(len(lines))]
    schema = dict.fromkeys((*jdsearch_lines.COLUMNS, PLACE, PROBLEM), pl.String) | {RAW: pl.Binary}
    return pl.DataFrame(
        [{**line, **each} for line, each in zip(lines, about, strict=True)], schema=schema
    )


@given(st.lists(lines_of_users, min_size=1, max_size=4))
def test_lines_tell_what_walking_back_from_the_last_search_finds(lines: list[Line]) -> None:
    good, bad = jdsearch_lines.judged(batch([line.fields() for line in lines]))
    assert bad.is_empty()
    events, searches = jdsearch_lines.events(good), jdsearch_lines.searches(good)
    assert events["event_id"].is_unique().all()
    assert searches["search_id"].is_unique().all()
    words = dict(searches.select("search_id", "query").iter_rows())
    begun = dict(searches.select("search_id", "ts").iter_rows())
    for number, line in enumerate(lines):
        mine = events.filter(user_id=str(number + 2))
        last = mine.filter(search_id=f"{number + 2}-last")
        assert set(last["ts"]) == {oracle.LAST}
        assert begun[f"{number + 2}-last"] == oracle.LAST
        assert Counter(last.select("item_id", "action", "position").rows()) == Counter(
            oracle.displayed(*zip(*line.candidates, strict=True))
        )
        before = mine.filter(pl.col("position").is_null())
        queries, items, types, gaps_s = (
            zip(*line.history, strict=True) if line.history else [()] * 4
        )
        told = [
            (item, action, ts, words[search_id] if search_id else None)
            for item, action, ts, search_id in before.select(
                "item_id", "action", "ts", "search_id"
            ).rows()
        ]
        assert told[::-1] == oracle.done(queries, items, types, (*gaps_s, line.last_gap_s))
        groups = before.with_row_index().drop_nulls("search_id")
        grouped = groups.group_by("search_id", maintain_order=True).agg("index", "ts")
        assert grouped["index"].to_list() == oracle.searches(queries, gaps_s)
        for search_id, moments in grouped.select("search_id", "ts").iter_rows():
            assert begun[search_id] == min(moments)


# Bad lines and files ---------------------------------------------------------------------------


def test_bad_lines_are_rejected_with_all_their_reasons(home: Settings, bring: Bring) -> None:
    outcome = bring(
        ANNA,
        "\t1__2\t0.0\t5\t1_2\tCLICK\t0_1",
        "5\t1\t4.0\t5\t1\tLOOK\t0_soon",
        "5\t\t\t\t\t\t",
        "5\t1",
        "5\t1\t1.0\t5__5\t1_2_3\tCLICK_CLICK_CLICK\t0_1_9999999999_1",
        BERT,
    )
    reasons = dict(stored(home, REJECTED).select("place", "reason").rows())
    assert reasons == {
        "users.txt:3": "query is empty; candidate_label_list has another length than "
        "candidate_wid_list asks for: '1, expected 3'; history_qry_list has another length than "
        "history_wid_list asks for: '1, expected 2'; history_type_list has another length than "
        "history_wid_list asks for: '1, expected 2'; history_time_list has another length than "
        "history_wid_list asks for: '2, expected 3'; candidate_wid_list has an empty element",
        "users.txt:4": "candidate_label_list has an unknown element: '4.0'; history_type_list has "
        "an unknown element: 'LOOK'; history_time_list has what is no number of seconds: 'soon'",
        "users.txt:5": "candidate_wid_list is empty; history_time_list has another length than "
        "history_wid_list asks for: '0, expected 1'",
        "users.txt:6": "wrong number of fields: 2, expected 7",
        "users.txt:7": "history_qry_list has an empty element; history_time_list reaches back "
        "before 1970: '10000000001'",
    }
    assert stored(home, REJECTED).sort("place")["raw"][3] == b"5\t1\n"
    assert set(stored(home, EVENTS)["user_id"]) == {"2", "8"}
    assert (outcome.tables["events"].rejected, outcome.tables["searches"].rejected) == (5, 0)
    assert outcome.tables["rejected"].written == 5
    assert str(outcome.problems[0]) == (
        "events: history_time_list has another length than history_wid_list asks for (2 rows, "
        "first users.txt:3: history_time_list has another length than history_wid_list asks for: "
        "'2, expected 3')"
    )


def test_files_that_are_not_jdsearchs_are_refused(home: Settings, tmp_path: Path) -> None:
    users, products = tmp_path / "users.txt", tmp_path / "products.txt"
    with pytest.raises(InputError, match=r"users\.txt, .*products\.txt: file not found"):
        JDsearch(users, products, scratch=home.scratch)
    users.write_text(USERS_HEADER.replace("_label", "") + "\n")
    products.write_text(PRODUCTS_HEADER.replace("shop_id", "shop").replace("cate_id_2", "x") + "\n")
    with pytest.raises(InputError, match="not JDsearch's") as refused:
        JDsearch(users, products, scratch=home.scratch)
    assert [each.split(";")[0] for each in refused.value.problems] == [
        "users.txt: no column candidate_label_list",
        "products.txt: no column cate_id_2",
        "products.txt: no column shop_id",
    ]


def test_files_in_the_wrong_order_have_no_row_that_can_be_stored(
    home: Settings, tmp_path: Path, bring: Bring
) -> None:
    bring(ANNA)
    with pytest.raises(InputError, match="no row of items and events can be stored") as refused:
        run_import(
            home,
            JDsearch(tmp_path / "products.txt", tmp_path / "users.txt", scratch=home.scratch),
        )
    assert any("13, expected 7" in each for each in refused.value.problems)


# The import ------------------------------------------------------------------------------------


def test_the_last_searches_are_the_test_day_and_lists_are_judged(
    home: Settings, bring: Bring
) -> None:
    outcome = bring(ANNA, BERT)
    record = dataset.load(home)
    assert (record.name, record.split, record.requests) == ("jdsearch", "displayed", "searches")
    assert (record.test_from, record.last_day) == (date(2022, 10, 17), date(2022, 10, 17))
    assert record.click_actions == record.positive_actions == ("click", "collect", "cart", "buy")
    assert "real" in record.query_protocol
    assert outcome.notes[:3] == [
        "a line is a user, its number the id; all last searches are taken to be at 2022-10-17 "
        "00:00 UTC, before any shift: the day is the paper's, the time is not published; "
        "everything else is as long before as the intervals say",
        "in 0 of 1 lists in which something was taken and something was not, the taken stand "
        "first: position is the place in the file, no rank of display",
        "4 items of the events are not in the catalogue: their events stay, no search finds them",
    ]


def test_the_taken_that_stand_first_are_counted(bring: Bring) -> None:
    labels = ("1.0_3.0_0.0", "0.0_1.0_0.0", "0.0_0.0_0.0", "1.0_1.0_1.0")
    lines = [f"5\t1_2_3\t{each}\t\t\t\t0" for each in labels]
    notes = bring(*lines, dry_run=True).notes
    assert any(note.startswith("in 1 of 2 lists") for note in notes)


def test_a_header_may_be_missing_and_times_may_move_to_now(home: Settings, bring: Bring) -> None:
    outcome = bring(
        ANNA, header=False, shifted=True, products=PRODUCTS_TEXT.removeprefix(PRODUCTS_HEADER)[1:]
    )
    assert (outcome.tables["events"].written, outcome.tables["items"].written) == (8, 2)
    assert set(stored(home, EVENTS)["user_id"]) == {"1"}
    record = dataset.load(home)
    assert outcome.shift_days % 7 == 0
    assert 1 <= (NOW.date() - record.last_day).days <= 7
    assert record.test_from == record.last_day
    assert stored(home, EVENTS)["ts"].max() == datetime.combine(
        record.last_day, datetime.min.time(), UTC
    )


def test_a_second_import_changes_nothing(home: Settings, bring: Bring) -> None:
    bring(ANNA)
    before = snapshots(home, RAW_TABLES)
    assert bring(ANNA).tables["events"].unchanged == 8
    assert snapshots(home, RAW_TABLES) == before


def test_the_command_says_that_lists_are_judged(home: Settings, tmp_path: Path) -> None:
    (tmp_path / "u").write_text(f"{USERS_HEADER}\n{ANNA}\n")
    (tmp_path / "p").write_text(PRODUCTS_TEXT)
    result = CliRunner().invoke(
        app, ["jdsearch", str(tmp_path / "u"), str(tmp_path / "p"), "--no-shift"]
    )
    assert result.exit_code == 0, result.output
    assert "test from 2022-10-17: what searches displayed is ranked" in result.output
    assert stored(home, EVENTS).height == 8


@pytest.mark.skipif(not USERS.exists(), reason="needs JDsearch's sample in ../shared/data")
def test_the_published_sample_comes_in_whole(home: Settings) -> None:
    source = JDsearch(USERS, PRODUCTS, scratch=home.scratch, shifted=False)
    outcome = run_import(home, source)
    source.close()
    written = {name: counts.written for name, counts in outcome.tables.items()}
    # 182, 46 and 2 things done before; 90, 89 and 83 displayed; 1, 2 and 2 of these clicked.
    assert (written["events"], written["items"], written["rejected"]) == (497, 409, 0)
    events = stored(home, EVENTS)
    assert events.filter(pl.col("action") == "impression").height == 262
    clicked = events.filter(
        pl.col("search_id").str.ends_with("-last"), pl.col("action") != "impression"
    )
    assert Counter(clicked["user_id"]) == {"2": 1, "3": 2, "4": 2}
    assert set(clicked["action"]) == {"click"}
    first = stored(home, SEARCHES).filter(search_id="2-last")["query"].item()
    assert first == "63995226 60257419 61002446 25575117"
    record = dataset.load(home)
    assert (record.first_day, record.last_day) == (date(2021, 10, 31), date(2022, 10, 17))
    assert "in 3 of 3 lists" in outcome.notes[1]
    assert outcome.notes[2].startswith("12 items of the events")
