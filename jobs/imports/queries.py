"""Queries for purchases that came without any: the words of the product's category path.

The protocol of personalised product search research (Ai et al., SIGIR 2017, section 5.1): a
shopper is taken to have asked for a shelf, in words of the category path, lower case, without
stop words and repeated words. One line of a basket makes one search, in one of four forms,
uniform by a hash of seed, basket and product:

    0  department + category      "grocery frzn ice"
    1  category                   "frzn ice"
    2  type                       "ice crushed cubed"
    3  one word of the type       "crushed"

Departure: four forms, where the paper has the whole path only, so that queries differ in how
much they say. A product without category or type makes no search. What the hash decides depends
on nothing else: not on the order of lines, the slice of households or the machine.

`checksum` pins the outcome; every number from these queries names `PROTOCOL`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from functools import lru_cache

VERSION = 1
SEED = 2017
PROTOCOL = f"words of the category path (Ai et al., SIGIR 2017; four forms; v{VERSION} seed {SEED})"

_STOP_WORDS = """
a all an and any as at by except for from in less more not of on only or other over than the to
under up with
"""
STOP_WORDS = frozenset(_STOP_WORDS.split())
_WORD = re.compile(r"[a-z0-9]+")
_HAS_LETTERS = re.compile(r"[a-z].*[a-z]")


def query_of(
    basket: int, product: int, *, department: str, category: str, kind: str, seed: int = SEED
) -> str:
    """The query of one line; `kind` is the product type. Deterministic, never empty."""
    chance = _hash(seed, basket, product)
    form, chance = chance % 4, chance // 4
    if form == 0:
        return " ".join(words_of(f"{department} {category}"))
    if form == 1:
        return " ".join(words_of(category))
    kind_words = words_of(kind)
    if form == 2:
        return " ".join(kind_words)
    telling = [word for word in kind_words if _HAS_LETTERS.search(word)] or kind_words
    return telling[chance % len(telling)]


@lru_cache(maxsize=100_000)
def words_of(path: str) -> tuple[str, ...]:
    """Lower-case words in order, each once, without stop words (unless nothing else is left)."""
    words = tuple(dict.fromkeys(_WORD.findall(path.lower())))
    telling = tuple(word for word in words if word not in STOP_WORDS)
    return telling or words or (path.strip().lower(),)


def query_file(rows: Iterable[tuple[int, int, str]]) -> Iterator[bytes]:
    """The lines of the query file from (basket, product, query), in that order."""
    for basket, product, query in sorted(rows):
        yield f"{basket}\t{product}\t{query}\n".encode()


def checksum(rows: Iterable[tuple[int, int, str]]) -> str:
    """SHA-256 of the query file, hexadecimal."""
    digest = hashlib.sha256()
    for line in query_file(rows):
        digest.update(line)
    return digest.hexdigest()


def _hash(seed: int, basket: int, product: int) -> int:
    digest = hashlib.blake2b(f"{seed}\0{basket}\0{product}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big")
