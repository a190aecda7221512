from __future__ import annotations

import json
import os
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pagoda.text import Segmentation, Tokenizer, units_of

HAN = st.characters(min_codepoint=0x3400, max_codepoint=0x9FFF)
ANY_TEXT = st.text(st.one_of(st.characters(exclude_categories=()), HAN), max_size=80)
SEGMENTATIONS: tuple[Segmentation, ...] = ("characters", "jieba")
EITHER = st.sampled_from(SEGMENTATIONS)
TITLES = ["green tea", "Green-Tea bags", "牛奶", "苹果手机壳"]
SMALL = Tokenizer.fit(TITLES, min_count=1, buckets=7)


@settings(deadline=None)
@given(st.lists(ANY_TEXT, max_size=5), EITHER)
def test_no_text_is_an_error_and_numbers_fit_the_tables(
    texts: list[str], segmentation: Segmentation
) -> None:
    fitted = Tokenizer.fit(TITLES, segmentation=segmentation, buckets=7)
    found = fitted.encode(texts)
    for ragged, vocabulary in (
        (found.words, fitted.words),
        (found.bigrams, fitted.bigrams),
        (found.trigrams, fitted.trigrams),
    ):
        assert len(ragged) == len(texts)
        assert all(0 < number < vocabulary.size for number in ragged.values)


@settings(deadline=None)
@given(st.lists(ANY_TEXT, max_size=5), EITHER)
def test_any_texts_fit_a_tokenizer_that_json_keeps(
    texts: list[str], segmentation: Segmentation
) -> None:
    fitted = Tokenizer.fit(texts, segmentation=segmentation, buckets=3)
    again = Tokenizer.model_validate_json(fitted.model_dump_json())
    assert again == fitted
    backwards = Tokenizer.fit(list(reversed(texts)), segmentation=segmentation, buckets=3)
    assert backwards == fitted
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


def test_chinese_is_cut_into_words_with_their_characters_and_pairs_of_those() -> None:
    units = units_of("iPhone手机壳，特仑苏。Milk", "jieba")
    assert units.words == ["iphone", "手机", "壳", "特仑苏", "milk"]
    assert units.bigrams[:4] == ["iphone 手", "手 机", "机 壳", "壳 特"]
    assert [each for each in units.trigrams if "手" in each or "机" in each] == ["#手#", "#机#"]


@given(ANY_TEXT)
def test_words_hold_every_letter_in_order_however_they_are_cut(text: str) -> None:
    words = units_of(text, "jieba").words
    pieces = units_of(text).words
    assert "".join(words) == "".join(each for each in pieces if each.isalnum())
    assert all(each.isalnum() for each in words)


# Two brackets, U+2329 and U+232A, are Chinese ones once normalised.
BEFORE_HAN = st.characters(max_codepoint=0x2E7F, exclude_categories=()).filter(
    lambda each: max(unicodedata.normalize("NFKC", each)) < "\u2e80"
)


@given(st.text(BEFORE_HAN))
def test_without_han_characters_there_is_nothing_to_choose(text: str) -> None:
    assert units_of(text, "jieba") == units_of(text)


EARLIER = """{"version":1,"words":{"buckets":5,"units":["green","milk","tea","。","奶","牛","纯"]},
"bigrams":{"buckets":5,"units":["green tea","。 milk","奶 。","牛 奶","纯 牛"]},
"trigrams":{"buckets":5,"units":["#gr","#mi","#te","#。#","#奶#","#牛#","#纯#","ea#","een","en#",
"gre","ilk","lk#","mil","ree","tea"]},"max_words":32,"max_trigrams":96}"""


def test_a_tokenizer_of_before_there_was_a_choice_gives_the_numbers_it_gave() -> None:
    found = Tokenizer.model_validate_json(EARLIER).encode(["牛奶。milk tea", "iPhone手机壳"])
    assert found.words.values.tolist() == [11, 10, 9, 7, 8, 3, 2, 1, 5]
    assert found.bigrams.values.tolist() == [9, 8, 7, 2, 1, 5, 3]
    assert found.trigrams.values.tolist() == [
        11, 10, 9, 7, 19, 17, 18, 8, 21, 13, 5, 3, 3, 5, 1, 4, 3, 2, 4,
    ]  # fmt: skip
    assert found.words.offsets.tolist() == [0, 5, 9]


def test_the_choice_is_kept_with_the_vocabulary() -> None:
    fitted = Tokenizer.fit(TITLES, segmentation="jieba", buckets=7)
    assert json.loads(fitted.model_dump_json())["segmentation"] == "jieba"
    again = Tokenizer.model_validate_json(fitted.model_dump_json())
    assert {"苹果", "手机", "壳", "牛奶"} <= set(again.words.units)
    known = [number > 7 for number in again.encode(["牛奶手机"]).words.values]
    assert known == [True, True], "cut as the titles were"


def test_jieba_is_loaded_for_han_characters_only_and_leaves_no_trace(tmp_path: Path) -> None:
    """In a process of its own: what it imports, says and writes."""
    code = """
import sys
from pagoda.text import units_of
units_of("green tea カナ 한글", "jieba")
assert "jieba" not in sys.modules
assert units_of("手机", "jieba").words == ["手机"]
assert "jieba" in sys.modules
"""
    done = subprocess.run(
        [sys.executable, "-W", "error::SyntaxWarning", "-c", code],
        env=os.environ | {"TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout + done.stderr == ""
    assert not list(tmp_path.iterdir()), "no dictionary where others could change it"


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
