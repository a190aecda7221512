"""Lines of JDsearch's users: judged, then as the events and searches that they tell of.

A user's id is the line's number. What lists mean and how times come about is in
`jobs.imports.jdsearch`. All functions are pure, from frame to frame.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta

import polars as pl

from jobs.imports.read import PLACE, PROBLEM, RAW
from jobs.imports.rows import REASONS

COLUMNS = (
    "query",
    "candidate_wid_list",
    "candidate_label_list",
    "history_qry_list",
    "history_wid_list",
    "history_type_list",
    "history_time_list",
)
SEARCHED_AT = datetime(2022, 10, 17, tzinfo=UTC)
SAME_SEARCH = timedelta(minutes=30)  # the usual time-out of a session

_NO_QUERY = "-1"
_TERMS = r"\x18|\^X"  # between terms: Ctrl-X, which editors show as ^X
_ACTIONS = {"CLICK": "click", "CART": "cart", "ORD": "buy", "FLW": "collect"}
_LABELS = {"0.0": "impression", "1.0": "click", "2.0": "cart", "3.0": "buy"}
_SECONDS = r"^\d{1,10}$"
_SINCE_1970 = int(SEARCHED_AT.timestamp())


def words(text: pl.Expr) -> pl.Expr:
    """Terms as words."""
    return text.str.replace_all(_TERMS, " ")


def judged(batch: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The good lines, their lists split, with `user`; and the others with all `_reasons`."""
    lists = [name for name in COLUMNS if name != "query"]
    split = batch.with_columns(_split(name) for name in lists)
    reasons = pl.concat_list(PROBLEM, *_defects()).list.drop_nulls()
    known = split.with_columns(
        reasons.alias(REASONS), pl.col(PLACE).str.extract(r":(\d+)$").alias("user")
    )
    bad = pl.col(REASONS).list.len() > 0
    return known.filter(~bad), known.filter(bad).select(PLACE, RAW, REASONS)


def events(lines: pl.DataFrame) -> pl.DataFrame:
    """What the users of good lines did, and what their last searches displayed."""
    done = _history(lines).select(
        pl.format("{}-{}", "user", "number").alias("event_id"),
        "user",
        "item",
        "action",
        "search_id",
        pl.lit(None, pl.Int32).alias("position"),
        "ts",
        PLACE,
    )
    displayed = (
        lines.select(
            "user",
            pl.col("candidate_wid_list").alias("item"),
            pl.col("candidate_label_list").alias("label"),
            _last_search().alias("search_id"),
            PLACE,
        )
        .explode("item", "label")
        .with_columns(
            pl.col("label").replace_strict(_LABELS).alias("action"),
            pl.int_range(pl.len(), dtype=pl.Int32).over("user").alias("position"),
            pl.lit(SEARCHED_AT).alias("ts"),
        )
    )
    shown = displayed.with_columns(pl.lit("impression").alias("action"))
    taken = displayed.filter(pl.col("action") != "impression")
    event_id = pl.format("{}-{}-{}", "search_id", "position", "action").alias("event_id")
    return _finished(
        pl.concat([done, *(each.select(event_id, *done.columns[1:]) for each in (shown, taken))])
    ).rename({"item": "item_id"})


def searches(lines: pl.DataFrame) -> pl.DataFrame:
    """The searches of good lines, the last ones among them."""
    earlier = _history(lines).filter("begins").select("search_id", "user", "query", "ts", PLACE)
    last = lines.select(
        _last_search().alias("search_id"),
        "user",
        "query",
        pl.lit(SEARCHED_AT).alias("ts"),
        PLACE,
    )
    return _finished(pl.concat([earlier, last])).with_columns(words(pl.col("query")))


def taken_first(lines: pl.DataFrame) -> tuple[int, int]:
    """How many lists have something taken and something not; in how many the taken stand first."""
    taken = pl.col("candidate_label_list").list.eval(pl.element() != "0.0")
    count = taken.list.sum()
    mixed = lines.filter((count > 0) & (count < taken.list.len()))
    first = mixed.filter(taken.list.head(count).list.all())
    return len(mixed), len(first)


def _history(lines: pl.DataFrame) -> pl.DataFrame:
    """A row a thing done, in the order of time, each with its search, if it had one.

    `begins`: the row is the first of its search.
    """
    count = pl.col("history_wid_list").list.len()
    to_last = pl.col("to_last") - pl.col("gap").cum_sum().over("user")
    gaps = pl.col("history_time_list").cast(pl.List(pl.Int64))
    searched, again = pl.col("query") != _NO_QUERY, pl.col("query").shift().over("user")
    begins = (
        again.is_null() | (pl.col("query") != again) | (pl.col("gap") > SAME_SEARCH.total_seconds())
    )
    return (
        lines.filter(count > 0)
        .select(
            "user",
            pl.col("history_qry_list").alias("query"),
            pl.col("history_wid_list").alias("item"),
            pl.col("history_type_list").alias("type"),
            gaps.list.head(count).alias("gap"),
            gaps.list.sum().alias("to_last"),
            PLACE,
        )
        .explode("query", "item", "type", "gap")
        .with_columns(
            pl.col("type").replace_strict(_ACTIONS).alias("action"),
            pl.int_range(1, pl.len() + 1).over("user").alias("number"),
            (pl.lit(SEARCHED_AT) - pl.duration(seconds=to_last)).alias("ts"),
            (searched & begins).alias("begins"),
        )
        .with_columns(
            pl.when(searched)
            .then(pl.format("{}-s{}", "user", pl.col("begins").cum_sum().over("user")))
            .alias("search_id")
        )
    )


def _last_search() -> pl.Expr:
    return pl.format("{}-last", "user")


def _finished(rows: pl.DataFrame) -> pl.DataFrame:
    """Ids are unique, so nobody will ask for the line again: it may be long, and rows are many."""
    return rows.rename({"user": "user_id"}).with_columns(pl.lit(b"").alias(RAW))


# Judging ---------------------------------------------------------------------------------------


def _split(name: str) -> pl.Expr:
    nothing = pl.lit([], dtype=pl.List(pl.String))
    elements = pl.col(name).str.split("_")
    return pl.when(pl.col(name) == "").then(nothing).otherwise(elements).alias(name)


def _defects() -> Iterator[pl.Expr]:
    """What may be wrong with a line; null where it is not."""
    yield _if(words(pl.col("query")).str.strip_chars() == "", "query is empty")
    yield _if(_length("candidate_wid_list") == 0, "candidate_wid_list is empty")
    yield _unequal("candidate_label_list", "candidate_wid_list")
    yield _unequal("history_qry_list", "history_wid_list")
    yield _unequal("history_type_list", "history_wid_list")
    yield _unequal("history_time_list", "history_wid_list", more=1)
    for name in ("candidate_wid_list", "history_qry_list", "history_wid_list"):
        yield _if(pl.col(name).list.contains(""), f"{name} has an empty element")
    yield _unknown("candidate_label_list", _LABELS)
    yield _unknown("history_type_list", _ACTIONS)
    times = pl.col("history_time_list")
    unread = times.list.eval(pl.element().filter(~pl.element().str.contains(_SECONDS))).list
    yield _if(
        unread.len() > 0, "history_time_list has what is no number of seconds", unread.first()
    )
    seconds = times.list.slice(1).list.eval(pl.element().cast(pl.Int64, strict=False)).list.sum()
    yield _if(seconds > _SINCE_1970, "history_time_list reaches back before 1970", seconds)


def _length(name: str) -> pl.Expr:
    return pl.col(name).list.len().cast(pl.Int64)


def _unequal(name: str, other: str, *, more: int = 0) -> pl.Expr:
    wanted = _length(other) + more
    found = pl.format("{}, expected {}", _length(name), wanted)
    return _if(_length(name) != wanted, f"{name} has another length than {other} asks for", found)


def _unknown(name: str, known: Mapping[str, str]) -> pl.Expr:
    others = pl.col(name).list.set_difference(list(known)).list
    return _if(others.len() > 0, f"{name} has an unknown element", others.first())


def _if(bad: pl.Expr, kind: str, detail: pl.Expr | None = None) -> pl.Expr:
    """The reason, where it holds of a line that could be split into its columns."""
    shown = pl.lit(kind) if detail is None else pl.format("{}: '{}'", pl.lit(kind), detail)
    return pl.when(pl.col(PROBLEM).is_null() & bad).then(shown)
