"""A collection that Milvus calls loaded and does not serve yet, by a client made to answer so."""

from __future__ import annotations

from typing import Any, cast

import pytest
from pymilvus import MilvusClient
from pymilvus.exceptions import MilvusException

from pagoda.index import load

NOT_SERVED = MilvusException(503, "failed to query: channel lacks[channel=channel not subscribed]")
REFUSED = MilvusException(1100, "invalid parameter")


class Answering:
    """Answers `query` by what it was given, one after the other."""

    def __init__(self, *answers: Exception | int) -> None:
        self.loaded: list[str] = []
        self.left = list(answers)

    def load_collection(self, name: str, **_: Any) -> None:
        self.loaded.append(name)

    def query(self, name: str, **_: Any) -> list[dict[str, int]]:
        assert name == self.loaded[-1]
        answer = self.left.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return [{"count(*)": answer}]


def test_loading_waits_until_a_node_serves_the_collection() -> None:
    client = Answering(NOT_SERVED, NOT_SERVED, 7)
    assert load(cast("MilvusClient", client), "items_a") == 7
    assert (client.loaded, client.left) == (["items_a"], [])


def test_any_other_refusal_ends_it_at_once() -> None:
    client = Answering(REFUSED, 7)
    with pytest.raises(MilvusException, match="invalid parameter"):
        load(cast("MilvusClient", client), "items_a")
    assert client.left == [7]
