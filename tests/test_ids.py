"""Keys are stable, positive and apart by kind."""

from __future__ import annotations

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from pagoda.ids import key_of, keys_of


def test_a_key_is_the_first_63_bits_of_blake2b_for_ever() -> None:
    # Pinned: a changed key orphans every row of every installation.
    assert key_of("user", "1") == 6_468_795_340_993_770_595
    digest = hashlib.blake2b(b"user\x001", digest_size=8).digest()
    assert key_of("user", "1") == int.from_bytes(digest, "big") % 2**63


@given(st.text())
def test_keys_fit_a_positive_int64(identifier: str) -> None:
    assert 0 <= key_of("item", identifier) < 2**63


@given(st.text())
def test_one_string_has_different_keys_for_different_kinds(identifier: str) -> None:
    assert key_of("item", identifier) != key_of("user", identifier)


@given(st.lists(st.text()))
def test_many_keys_are_the_keys_of_each(identifiers: list[str]) -> None:
    assert keys_of("item", identifiers).tolist() == [key_of("item", each) for each in identifiers]
