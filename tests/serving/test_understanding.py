from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from pagoda.filters import Filters, PriceRange
from pagoda.models.catalogue import FIELDS
from pagoda.shelf import Shelf
from pagoda.understanding import Vocabulary, control
from tests.training import toy

ROWS = [
    {"brand": "Acme", "category": "Tea", "leaf_category": "Green Tea", "colour": "red"},
    {"brand": "Acme", "category": "Tea", "leaf_category": "Black Tea", "colour": None},
    {"brand": "64", "category": "Milk", "leaf_category": "Milk", "colour": "red"},
    {"brand": 'O\'Hara "x"', "category": "Milk", "leaf_category": "MILK", "colour": "blue"},
    {"brand": None, "category": None, "leaf_category": None, "colour": None},
]


def shelf_of(rows: list[dict[str, str | None]]) -> Shelf:
    """Items with these fields, in this order."""
    whole = [{"item_key": n, "item_id": f"i{n}", **row} for n, row in enumerate(rows)]
    return Shelf(pa.Table.from_pylist(whole, schema=FIELDS))


SHELF = shelf_of(ROWS)
VOCABULARY = Vocabulary(SHELF)
EVERYTHING = np.ones(len(ROWS), bool)


def _phrases(query: str) -> list[str]:
    return [term.phrase for term in VOCABULARY.terms(query)]


def test_the_longest_term_wins() -> None:
    assert _phrases("acme green tea") == ["acme", "green tea"]
    assert _phrases("green acme tea") == ["green", "acme", "tea"]


def test_a_term_names_every_field_and_spelling_that_reads_like_it() -> None:
    (term,) = VOCABULARY.terms("MILK")
    assert term.clause == {"category": ("Milk",), "leaf_category": ("MILK", "Milk")}


def test_words_of_a_category_name_all_that_have_them() -> None:
    (term,) = VOCABULARY.terms("tea")
    assert term.clause == {"category": ("Tea",), "leaf_category": ("Black Tea", "Green Tea")}


def test_a_brand_must_be_named_whole() -> None:
    assert _phrases("hara") == []


def test_a_word_that_a_hundred_categories_share_names_none() -> None:
    many = [{"category": f"other kind{n}"} for n in range(101)]
    vocabulary = Vocabulary(shelf_of(many))
    assert vocabulary.terms("other") == []
    assert [term.phrase for term in vocabulary.terms("other kind7")] == ["other kind7"]


def test_punctuation_in_a_brand_is_no_obstacle() -> None:
    (term,) = VOCABULARY.terms("o hara X")
    assert term.clause == {"brand": ('O\'Hara "x"',)}


def test_a_brand_of_digits_only_is_not_taken_for_a_size() -> None:
    assert _phrases("milk 64 oz") == ["milk"]


def test_a_term_said_twice_counts_once() -> None:
    assert _phrases("tea and more tea") == ["tea"]


@given(st.text())
def test_no_text_is_an_error(text: str) -> None:
    VOCABULARY.terms(text)


def test_terms_that_leave_enough_are_all_kept() -> None:
    terms = VOCABULARY.terms("red milk")
    decided = control(SHELF, terms, passing=EVERYTHING, min_relevant=1)
    assert (decided.kept, decided.dropped, decided.matches) == (tuple(terms), (), 1)


def test_the_most_selective_term_is_dropped_first() -> None:
    decided = control(SHELF, VOCABULARY.terms("blue milk"), passing=EVERYTHING, min_relevant=2)
    assert [term.phrase for term in decided.kept] == ["milk"]
    assert [term.phrase for term in decided.dropped] == ["blue"]
    assert decided.matches == 2


def test_nothing_is_dropped_for_what_the_filters_alone_leave_out() -> None:
    """Two items pass the filter: two matches are then enough."""
    passing = SHELF.passing(Filters(category=("Milk",)))
    decided = control(SHELF, VOCABULARY.terms("milk"), passing=passing, min_relevant=10)
    assert [term.phrase for term in decided.kept] == ["milk"]


@given(
    query=st.lists(st.sampled_from(["red", "blue", "tea", "milk", "acme", "green", "black"])),
    least=st.integers(1, 10),
    brand=st.none() | st.sampled_from(["Acme", "64"]),
)
def test_control_never_leaves_less_than_enough(
    query: list[str], least: int, brand: str | None
) -> None:
    terms = VOCABULARY.terms(" ".join(query))
    passing = SHELF.passing(Filters(brand=(brand,) if brand else ()))
    decided = control(SHELF, terms, passing=passing, min_relevant=least)
    assert decided.matches >= min(least, int(passing.sum()))
    assert {term.phrase for term in decided.kept + decided.dropped} == {
        term.phrase for term in terms
    }
    expected = passing.copy()
    for term in decided.kept:
        expected &= SHELF.satisfying(term.clause)
    assert decided.matches == expected.sum()


TOY = toy.items(60).sort_by("item_key")
TOY_ROWS = TOY.to_pylist()
TOY_SHELF = Shelf(TOY)


@given(
    brands=st.lists(st.sampled_from([*toy.BRANDS, "nobody"]), max_size=3),
    colours=st.lists(st.sampled_from(["red", "blue", "green"]), max_size=2),
    low=st.none() | st.integers(0, 70),
    high=st.none() | st.integers(0, 70),
    in_stock=st.none() | st.booleans(),
)
def test_what_passes_is_what_a_reader_of_the_rows_would_pick(
    brands: list[str],
    colours: list[str],
    low: int | None,
    high: int | None,
    in_stock: bool | None,
) -> None:
    if low is not None and high is not None and low > high:
        low, high = high, low
    filters = Filters(
        brand=tuple(brands),
        colour=tuple(colours),
        price=PriceRange(min=low, max=high),
        in_stock=in_stock,
    )
    assert TOY_SHELF.passing(filters).tolist() == [
        (not brands or row["brand"] in brands)
        and (not colours or row["colour"] in colours)
        and (low is None or row["price"] >= low)
        and (high is None or row["price"] <= high)
        and (in_stock is None or row["in_stock"] == in_stock)
        for row in TOY_ROWS
    ]


def test_an_item_that_the_table_does_not_know_has_no_row() -> None:
    assert SHELF.rows(np.array([1, 77, 0])).tolist() == [1, -1, 0]
    assert shelf_of([]).rows(np.array([0])).tolist() == [-1]
    assert SHELF.known(np.array([77])) == {}
