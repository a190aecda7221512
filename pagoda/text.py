"""Text to numbers: words, bigrams and letter trigrams (MGDSPR's units).

Text is cut into pieces: lower-case words of scripts that have letters, single Chinese, Japanese or
Korean characters. Neighbouring pieces are bigrams, the letters of a piece between two `#` trigrams:
so `#字#` is the character unigram of the paper, and a pair of characters its character bigram.
Words are the pieces too, or with `jieba` what that makes of neighbouring Han characters.

Units of the training texts have a number each; any other unit shares one of a fixed number of hash
buckets, so that no text is ever an error.

Numbers of one kind: 0 is padding, 1..buckets are the hash buckets, then the vocabulary.
"""

from __future__ import annotations

import re
import unicodedata
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pagoda import segmentation as chinese
from pagoda.models.ragged import Ragged

MAX_CHARACTERS = 512
Segmentation = Literal["characters", "jieba"]
_CJK = "\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff"
_HAN = "\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_PIECE = re.compile(rf"[{_CJK}]|[^\W_{_CJK}]+")
_RUN = re.compile(rf"(?P<han>[{_HAN}]+)|{_PIECE.pattern}")


@dataclass(frozen=True, kw_only=True)
class Units:
    """The units of one text as strings, in order."""

    words: list[str]
    bigrams: list[str]
    trigrams: list[str]


@dataclass(frozen=True, kw_only=True)
class Texts:
    """Tokenised texts, one ragged row each, as numbers of the three kinds."""

    words: Ragged
    bigrams: Ragged
    trigrams: Ragged

    def __len__(self) -> int:
        return len(self.words)


def units_of(text: str, segmentation: Segmentation = "characters") -> Units:
    """Cut one text; anything but letters and digits only separates."""
    text = unicodedata.normalize("NFKC", text[:MAX_CHARACTERS]).casefold()[:MAX_CHARACTERS]
    if segmentation == "jieba":
        # Cut into characters, some marks (。《) are words: bundles have been trained with that.
        text = "".join(each if each.isalnum() else " " for each in text)
    pieces: list[str] = _PIECE.findall(text)
    return Units(
        words=pieces if segmentation == "characters" else list(_words(text)),
        bigrams=[f"{left} {right}" for left, right in pairwise(pieces)],
        trigrams=[f"#{each}#"[at : at + 3] for each in pieces for at in range(len(each))],
    )


def _words(text: str) -> Iterator[str]:
    for run in _RUN.finditer(text):
        if run["han"]:
            yield from chinese.words_of(run["han"])
        else:
            yield run[0]


class Vocabulary(BaseModel):
    """The numbers of one kind of unit."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    buckets: int = Field(ge=1)
    units: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _units_are_distinct(self) -> Vocabulary:
        if len(set(self.units)) != len(self.units):
            raise ValueError("a unit stands twice in the vocabulary")
        return self

    @cached_property
    def _number_of(self) -> dict[str, int]:
        return {unit: self.buckets + 1 + at for at, unit in enumerate(self.units)}

    @property
    def size(self) -> int:
        """Rows of an embedding table for this kind, padding included."""
        return 1 + self.buckets + len(self.units)

    def number(self, unit: str) -> int:
        """The unit's number, or that of its hash bucket."""
        known = self._number_of.get(unit)
        if known is not None:
            return known
        return 1 + zlib.crc32(unit.encode("utf-8", "surrogatepass")) % self.buckets


class Tokenizer(BaseModel):
    """Text to numbers; part of the bundle, stored as JSON.

    Attributes:
        segmentation: what words are; files from before there was a choice do not have it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    segmentation: Segmentation = "characters"
    words: Vocabulary
    bigrams: Vocabulary
    trigrams: Vocabulary
    max_words: int = Field(default=32, ge=1)
    max_trigrams: int = Field(default=96, ge=1)

    @classmethod
    def fit(
        cls,
        texts: Iterable[str],
        *,
        segmentation: Segmentation = "characters",
        min_count: int = 1,
        buckets: int = 1000,
    ) -> Tokenizer:
        """A tokenizer whose vocabulary is every unit that stands in `min_count` of the texts."""
        counts: tuple[Counter[str], Counter[str], Counter[str]] = (Counter(), Counter(), Counter())
        for text in texts:
            units = units_of(text, segmentation)
            for counter, found in zip(
                counts, (units.words, units.bigrams, units.trigrams), strict=True
            ):
                counter.update(set(found))
        words, bigrams, trigrams = (
            Vocabulary(
                buckets=buckets,
                # The most frequent first and ties by name: the same texts in any order give the
                # same numbers. A lone surrogate has no UTF-8 form and stays with the buckets.
                units=tuple(
                    unit
                    for unit, count in sorted(counter.items(), key=lambda kv: (-kv[1], kv[0]))
                    if count >= min_count and unit.isprintable()
                ),
            )
            for counter in counts
        )
        return cls(segmentation=segmentation, words=words, bigrams=bigrams, trigrams=trigrams)

    def encode(self, texts: Sequence[str]) -> Texts:
        """Numbers of every text's units; a text without any gets empty rows."""
        rows: tuple[list[list[int]], list[list[int]], list[list[int]]] = ([], [], [])
        for text in texts:
            units = units_of(text, self.segmentation)
            words = units.words[: self.max_words]
            rows[0].append([self.words.number(unit) for unit in words])
            rows[1].append([self.bigrams.number(u) for u in units.bigrams[: self.max_words - 1]])
            rows[2].append([self.trigrams.number(u) for u in units.trigrams[: self.max_trigrams]])
        words_, bigrams_, trigrams_ = (Ragged.from_rows(each) for each in rows)
        return Texts(words=words_, bigrams=bigrams_, trigrams=trigrams_)
