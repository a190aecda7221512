from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.imports.mapping import Limits, TableMapping, Time
from jobs.imports.read import PLACE, PROBLEM, RAW
from jobs.imports.rows import Checked, check, column_problems

NOW = datetime(2024, 3, 20, 12, tzinfo=UTC)
ITEMS = TableMapping(
    files=("x",),
    columns={"item_id": "id", "title": "t", "price": "p", "in_stock": "s", "updated_at": "at"},
    attributes={"fit": "f"},
)
EVENTS = TableMapping(
    files=("x",),
    columns={"user_id": "u", "item_id": "i", "action": "a", "ts": "at", "position": "n"},
)
GOOD_ITEM = {"id": "i1", "t": "Shoe", "p": "9.5", "s": "yes", "at": "2024-01-01", "f": None}
GOOD_EVENT = {"u": "u1", "i": "i1", "a": "click", "at": "2024-01-01T10:00:00", "n": "3"}


def judged(rows: list[dict[str, Any]], name: str, table: TableMapping, **options: Any) -> Checked:
    columns = {*table.columns.values(), *table.attributes.values()}
    schema = dict.fromkeys(sorted(columns), pl.String)
    about = {PLACE: pl.String, RAW: pl.Binary, PROBLEM: pl.String}
    frame = pl.DataFrame(
        [{PLACE: f"x:{number}", RAW: b"", PROBLEM: None, **row} for number, row in enumerate(rows)],
        schema={**schema, **about, **options.pop("types", {})},
    )
    return check(frame, name, table, Limits(**options), now=NOW)


def reasons(checked: Checked) -> list[str]:
    assert checked.accepted.is_empty()
    return list(checked.rejected["_reasons"].item())


def test_good_rows_come_back_typed() -> None:
    item = judged([GOOD_ITEM], "items", ITEMS).accepted.row(0, named=True)
    assert (item["item_id"], item["title"], item["price"], item["in_stock"]) == (
        "i1",
        "Shoe",
        9.5,
        True,
    )
    assert item["updated_at"] == datetime(2024, 1, 1, tzinfo=UTC)
    event = judged([GOOD_EVENT], "events", EVENTS).accepted.row(0, named=True)
    assert (event["action"], event["position"]) == ("click", 3)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"id": ""}, "item_id is empty"),
        ({"id": "  "}, "item_id is empty"),
        ({"id": None}, "item_id is empty"),
        ({"id": "x" * 201}, "item_id is longer than 200 characters: '201'"),
        ({"t": "x" * 2001}, "title is longer than 2000 characters: '2001'"),
        ({"f": "x" * 2001}, "fit is longer than 2000 characters: '2001'"),
        ({"p": "-1"}, "price is negative: '-1'"),
        ({"p": "cheap"}, "price is not a number: 'cheap'"),
        ({"p": "1,50"}, "price is not a number: '1,50'"),
        ({"p": "NaN"}, "price is not a number: 'NaN'"),
        ({"p": "inf"}, "price is not finite: 'inf'"),
        ({"s": "perhaps"}, "in_stock is neither yes nor no: 'perhaps'"),
        ({"at": "2024-03-20T12:06:00"}, "updated_at is in the future: '2024-03-20T12:06:00'"),
        ({PROBLEM: "not CSV: torn"}, "not CSV: torn"),
    ],
)
def test_a_bad_item_is_rejected_with_its_reason(change: dict[str, Any], reason: str) -> None:
    assert reasons(judged([{**GOOD_ITEM, **change}], "items", ITEMS)) == [reason]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"u": ""}, "user_id is empty"),
        ({"a": "hover"}, "action is unknown: 'hover'"),
        ({"a": None}, "action is empty"),
        ({"at": ""}, "ts is empty"),
        ({"at": "noon"}, "ts is not a time (iso, UTC): 'noon'"),
        ({"at": "2024-03-20T12:06:00"}, "ts is in the future: '2024-03-20T12:06:00'"),
        ({"at": "1969-12-31"}, "ts is before 1970: '1969-12-31'"),
        ({"n": "1.5"}, "position is not a whole number: '1.5'"),
        ({"n": "-1"}, "position is negative: '-1'"),
        ({"n": "99999999999"}, "position is not a whole number: '99999999999'"),
    ],
)
def test_a_bad_event_is_rejected_with_its_reason(change: dict[str, Any], reason: str) -> None:
    assert reasons(judged([{**GOOD_EVENT, **change}], "events", EVENTS)) == [reason]


def test_all_reasons_of_a_row_are_named() -> None:
    row = {**GOOD_EVENT, "u": "", "a": "hover", "at": "noon"}
    assert sorted(reasons(judged([row], "events", EVENTS))) == [
        "action is unknown: 'hover'",
        "ts is not a time (iso, UTC): 'noon'",
        "user_id is empty",
    ]


def test_clocks_may_be_a_little_ahead() -> None:
    row = {**GOOD_EVENT, "at": "2024-03-20T12:04:59"}
    assert len(judged([row], "events", EVENTS).accepted) == 1
    assert reasons(judged([row], "events", EVENTS, clock_skew_s=60))


def test_actions_and_constants_are_translated() -> None:
    table = EVENTS.model_copy(
        update={
            "columns": {"user_id": "u", "item_id": "i", "ts": "at"},
            "constants": {"action": "4"},
            "actions": {"4": "buy"},
        }
    )
    row = {key: value for key, value in GOOD_EVENT.items() if key in {"u", "i", "at"}}
    assert judged([row], "events", table).accepted["action"].item() == "buy"


def test_missing_floats_of_parquet_are_rejected_not_stored() -> None:
    rows = [{**GOOD_ITEM, "p": float("nan")}, {**GOOD_ITEM, "p": None}]
    checked = judged(rows, "items", ITEMS, types={"p": pl.Float64})
    assert checked.accepted["price"].to_list() == [None]
    assert checked.rejected["_reasons"].to_list() == [["price is not a number: 'NaN'"]]


def test_every_column_that_no_row_could_pass_is_named() -> None:
    schema: dict[str, pl.DataType] = {
        "u": pl.Float64(),
        "i": pl.Int64(),
        "a": pl.List(pl.String),
        "at": pl.Int64(),
    }
    assert column_problems(schema, "events", EVENTS) == [
        "column 'u' for user_id is Float64, expected text or whole numbers",
        "column 'a' for action is List(String), expected text or whole numbers",
        "column 'at' for ts is Int64, expected times, or numbers with a time.format such as "
        "epoch_s",
        "no column 'n' for position; the file has u, i, a, at",
    ]
    epoch = EVENTS.model_copy(update={"time": Time(format="epoch_s")})
    assert not any("for ts" in each for each in column_problems(schema, "events", epoch))


_text = st.one_of(
    st.none(),
    st.text(max_size=8),
    st.sampled_from(
        ["1", "-1", "nan", "inf", "1e400", "yes", "click", "2024-01-01", "2999-01-01", "0001-01-01"]
    ),
)


@given(st.lists(st.fixed_dictionaries(dict.fromkeys(GOOD_EVENT, _text)), max_size=20), st.data())
def test_every_row_is_accepted_or_rejected_whatever_it_holds(
    rows: list[dict[str, str | None]], data: st.DataObject
) -> None:
    problems = [data.draw(st.sampled_from([None, None, "not CSV: x"])) for _ in rows]
    checked = judged(
        [{**row, PROBLEM: problem} for row, problem in zip(rows, problems, strict=True)],
        "events",
        EVENTS,
    )
    places = [*checked.accepted[PLACE], *checked.rejected[PLACE]]
    assert sorted(places) == sorted(f"x:{number}" for number in range(len(rows)))
    assert all(len(each) for each in checked.rejected["_reasons"])
    required = checked.accepted.select("user_id", "item_id", "action", "ts")
    assert sum(required.null_count().row(0)) == 0


@given(st.lists(st.fixed_dictionaries(dict.fromkeys(GOOD_ITEM, _text)), max_size=20))
def test_no_accepted_item_has_a_bad_price_or_no_id(rows: list[dict[str, str | None]]) -> None:
    checked = judged(rows, "items", ITEMS)
    assert len(checked.accepted) + len(checked.rejected) == len(rows)
    assert all(price >= 0 for price in checked.accepted["price"].drop_nulls())
    assert checked.accepted["price"].drop_nulls().is_finite().all()
    assert all(each.strip() for each in checked.accepted["item_id"])
