from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from jobs.imports import queries

PATH = {"department": "GROCERY", "category": "FRZN ICE", "kind": "ICE - CRUSHED/CUBED"}


def test_the_four_forms_are_the_words_of_the_path() -> None:
    asked = {queries.query_of(1, product, **PATH) for product in range(200)}
    assert asked == {
        "grocery frzn ice",
        "frzn ice",
        "ice crushed cubed",
        "ice",
        "crushed",
        "cubed",
    }


def test_the_four_forms_are_equally_frequent() -> None:
    path = {"department": "A1", "category": "B2", "kind": "C3 D4 D5"}
    forms = Counter(
        {"a1 b2": 0, "b2": 1, "c3 d4 d5": 2}.get(queries.query_of(7, product, **path), 3)
        for product in range(4_000)
    )
    assert all(900 < count < 1_100 for count in forms.values())


def test_a_query_depends_on_seed_basket_and_product_only() -> None:
    first = [queries.query_of(basket, 5, **PATH) for basket in range(50)]
    assert first == [queries.query_of(basket, 5, **PATH) for basket in range(50)]
    assert first != [queries.query_of(basket, 6, **PATH) for basket in range(50)]
    assert first != [queries.query_of(basket, 5, **PATH, seed=1) for basket in range(50)]


def test_stop_words_and_repeated_words_go_unless_nothing_else_is_left() -> None:
    assert queries.words_of("MEAT & MEAT FOR THE GRILL") == ("meat", "grill")
    assert queries.words_of("OTHER") == ("other",)


@given(st.text(min_size=1), st.text(min_size=1), st.integers(0), st.integers(0))
def test_no_query_is_longer_than_its_path_or_made_of_other_words(
    category: str, kind: str, basket: int, product: int
) -> None:
    query = queries.query_of(basket, product, department="d1", category=category, kind=kind)
    path = f"d1 {category} {kind}".lower()
    assert len(query) <= len(path)
    assert all(word in path for word in query.split())
