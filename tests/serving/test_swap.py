"""Bundles change under load: no request fails, and no vector meets another's collection."""

from __future__ import annotations

import threading
import time
from collections import Counter
from typing import Any

import httpx
import numpy as np
import pytest

from pagoda import registry, release
from pagoda.bundle import Bundle, Request
from pagoda.settings import Settings
from tests.serving.conftest import running
from tests.training import toy

pytestmark = pytest.mark.servers


def test_swapping_bundles_under_load_fails_and_mixes_nothing(home: Settings) -> None:
    bundles = {name: Bundle.load(home.bundles / name) for name in ("serve_a", "serve_b")}
    expected = {name: _best(bundle, "soap") for name, bundle in bundles.items()}
    assert expected["serve_a"] != expected["serve_b"]
    wrong: list[Any] = []
    served: Counter[str] = Counter()
    stop = threading.Event()

    def load(url: str) -> None:
        with httpx.Client(base_url=url, timeout=30) as client:
            while not stop.is_set():
                answer = client.post("/search", json={"query": "soap", "k": 5, "relevance": "off"})
                if answer.status_code != 200:
                    wrong.append(answer.text)
                    continue
                found = answer.json()
                served[found["bundle"]] += 1
                if [item["item_id"] for item in found["results"]] != expected[found["bundle"]]:
                    wrong.append(found)

    with running(home) as url:
        threads = [threading.Thread(target=load, args=(url,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        try:
            for name in ("serve_b", "serve_a", "serve_b", "serve_a"):
                release.release(home, name)
                assert _serves(url, name)
        finally:
            stop.set()
            for thread in threads:
                thread.join()
            release.release(home, "serve_a")
    assert wrong == []
    assert min(served["serve_a"], served["serve_b"]) > 10


def test_a_bundle_that_is_not_whole_never_serves(home: Settings) -> None:
    path = toy.bundle(home, "serve_broken", seed=9)
    with running(home) as url:
        assert _serves(url, "serve_a")
        with (path / "items.arrow").open("r+b") as file:
            file.seek(200)
            file.write(b"\0\0\0\0")
        registry.promote(home, "serve_broken")
        try:
            assert _bundle_problem(url, "items.arrow: altered")
            answer = httpx.post(f"{url}/search", json={"query": "milk"})
            assert answer.status_code == 200
            assert answer.json()["bundle"] == "serve_a"
        finally:
            registry.rollback(home)
        assert _serves(url, "serve_a")


def _best(bundle: Bundle, query: str) -> list[str]:
    (vector,) = bundle.embed([Request(query=query, at_ms=0, rows={})])
    best = np.argsort(-(bundle.item_vectors @ vector))[:5]
    found: list[str] = bundle.items["item_id"].take(best).to_pylist()
    return found


def _serves(url: str, name: str) -> bool:
    for _ in range(200):
        if httpx.get(f"{url}/ready", timeout=30).json()["bundle"] == name:
            return True
        time.sleep(0.05)
    return False


def _bundle_problem(url: str, text: str) -> bool:
    for _ in range(200):
        found = httpx.get(f"{url}/ready", timeout=30).json()["dependencies"]["bundle"]
        if text in found["detail"]:
            return True
        time.sleep(0.05)
    return False
