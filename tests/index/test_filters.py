from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pagoda.filters import STORED_BYTES, Filters, PriceRange, expression, literal, stored

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30)


def test_nothing_asked_is_no_expression() -> None:
    assert expression(Filters()) == ""
    assert not Filters()


def test_fields_are_all_to_hold_and_each_by_any_of_its_values() -> None:
    filters = Filters(brand=("a", "b"), shop=("s",), in_stock=True)
    assert expression(filters) == 'brand in ["a", "b"] and shop in ["s"] and in_stock == true'


def test_a_price_range_leaves_out_items_without_a_price() -> None:
    assert expression(Filters(price=PriceRange(max=2))) == "price >= 0.0 and price <= 2.0"
    assert expression(Filters(price=PriceRange(min=1))) == "price >= 1.0"
    assert expression(Filters(price=PriceRange())) == ""


def test_a_term_of_several_fields_is_one_alternative() -> None:
    clause = {"category": ("tea",), "leaf_category": ("tea",)}
    assert expression(Filters(brand=("a",)), [clause]) == (
        'brand in ["a"] and (category in ["tea"] or leaf_category in ["tea"])'
    )


@given(st.lists(texts, min_size=1, max_size=5))
def test_no_text_breaks_out_of_its_literal(values: list[str]) -> None:
    rendered = expression(Filters(brand=tuple(values)))
    assert rendered.startswith("brand in [")
    assert rendered.endswith("]")
    # The index ends a text at a NUL, so it holds, and is asked for, another character instead.
    assert _literals(rendered[len("brand in [") : -1]) == [
        value.replace("\0", "\ufffd") for value in values
    ]


@given(st.text(st.characters(codec="utf-8"), max_size=600), st.integers(1, 4))
def test_what_the_index_holds_of_a_text_fits_and_tells_texts_apart(text: str, times: int) -> None:
    held = stored(text * times)
    assert len(held.encode()) <= STORED_BYTES
    if len((text * times).encode()) <= STORED_BYTES:
        assert held == (text * times).replace("\0", "\ufffd")
    assert stored(text * times + "a") != stored(text * times + "b")


@given(st.text(min_size=1, max_size=5), st.sampled_from(["\ud800", "\udfff"]))
def test_lone_surrogates_are_refused(text: str, surrogate: str) -> None:
    with pytest.raises(ValueError, match="surrogate"):
        literal(text + surrogate)
    with pytest.raises(ValidationError):
        Filters(brand=(text + surrogate,))


def test_a_field_that_is_no_text_field_is_refused() -> None:
    with pytest.raises(ValueError, match="no filter on 'price'"):
        expression(Filters(), [{"price": ("1",)}])


@pytest.mark.parametrize(
    "wrong",
    [
        {"size": ["x"]},
        {"brand": "acme"},
        {"brand": [""]},
        {"brand": ["x"] * 201},
        {"brand": ["x" * 513]},
        {"price": {"min": -1}},
        {"price": {"min": 2, "max": 1}},
        {"price": {"max": float("nan")}},
        {"in_stock": "perhaps"},
    ],
)
def test_filters_that_make_no_sense_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Filters.model_validate(wrong)


def _literals(inside: str) -> list[str]:
    """The string literals of a list, read by a scanner of our own: quote, escapes, quote."""
    found, at = [], 0
    while at < len(inside):
        assert inside[at] == '"', inside
        end = at + 1
        while inside[end] != '"':
            end += 2 if inside[end] == "\\" else 1
        found.append(json.loads(inside[at : end + 1]))
        at = end + 1
        assert at == len(inside) or inside[at : at + 2] == ", ", inside
        at += 2
    return found
