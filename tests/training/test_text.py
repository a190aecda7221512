from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pagoda.text import Tokenizer, units_of

ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=80)
SMALL = Tokenizer.fit(["green tea", "Green-Tea bags", "牛奶"], min_count=1, buckets=7)


@settings(deadline=None)
@given(st.lists(ANY_TEXT, max_size=5))
def test_no_text_is_an_error_and_numbers_fit_the_tables(texts: list[str]) -> None:
    found = SMALL.encode(texts)
    for ragged, vocabulary in (
        (found.words, SMALL.words),
        (found.bigrams, SMALL.bigrams),
        (found.trigrams, SMALL.trigrams),
    ):
        assert len(ragged) == len(texts)
        assert all(0 < number < vocabulary.size for number in ragged.values)


@settings(deadline=None)
@given(st.lists(ANY_TEXT, max_size=5))
def test_any_texts_fit_a_tokenizer_that_json_keeps(texts: list[str]) -> None:
    fitted = Tokenizer.fit(texts, buckets=3)
    again = Tokenizer.model_validate_json(fitted.model_dump_json())
    assert again == fitted
    assert Tokenizer.fit(list(reversed(texts)), buckets=3) == fitted
    assert again.encode(texts).words.values.tolist() == fitted.encode(texts).words.values.tolist()


def test_latin_is_cut_into_words_pairs_and_letter_trigrams() -> None:
    units = units_of("Green TEA, 2kg")
    assert units.words == ["green", "tea", "2kg"]
    assert units.bigrams == ["green tea", "tea 2kg"]
    assert units.trigrams[:5] == ["#gr", "gre", "ree", "een", "en#"]


def test_chinese_is_cut_into_characters_and_their_pairs() -> None:
    units = units_of("纯牛奶milk")
    assert units.words == ["纯", "牛", "奶", "milk"]
    assert units.bigrams[0] == "纯 牛"
    assert units.trigrams[:3] == ["#纯#", "#牛#", "#奶#"]


def test_known_words_have_numbers_of_their_own_and_unseen_ones_a_bucket() -> None:
    words = SMALL.encode(["green tea bags 牛 never-seen"]).words.values.tolist()
    assert len(set(words[:4])) == 4
    assert all(number > SMALL.words.buckets for number in words[:4])
    assert all(1 <= number <= SMALL.words.buckets for number in words[4:])


@pytest.mark.parametrize("text", ["", "   ", "?!…", "\ud800", "\x00"])
def test_text_without_letters_has_no_units(text: str) -> None:
    assert units_of(text).words == []


def test_a_huge_text_is_cut_short() -> None:
    found = SMALL.encode(["tea " * 100_000])
    assert len(found.words) == 1
    assert len(found.words.values) <= SMALL.max_words
