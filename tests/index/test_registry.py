from __future__ import annotations

import json
import multiprocessing
from itertools import pairwise
from pathlib import Path

import pytest

from pagoda import registry
from pagoda.errors import InputError, NothingToDo
from pagoda.settings import Settings
from tests.training import toy


@pytest.fixture
def home(tmp_path: Path) -> Settings:
    """Settings of an empty home with three bundles, a, b and c."""
    settings = Settings(home=tmp_path)
    for name in ("a", "b", "c"):
        toy.bundle(settings, name)
    return settings


def test_without_bundles_the_next_step_is_said(tmp_path: Path) -> None:
    with pytest.raises(NothingToDo, match="pagoda train"):
        registry.latest(Settings(home=tmp_path))
    assert registry.current(Settings(home=tmp_path)) is None


def test_promoting_makes_a_bundle_current_and_keeps_the_way_back(home: Settings) -> None:
    for name in ("a", "b", "c"):
        registry.promote(home, name)
    assert registry.current(home) == "c"
    assert registry.rollback(home) == "b"
    assert registry.rollback(home) == "a"
    with pytest.raises(NothingToDo):
        registry.rollback(home)
    assert registry.current(home) == "a"


def test_promoting_the_current_bundle_again_changes_nothing(home: Settings) -> None:
    registry.promote(home, "a")
    before = registry.pointer(home)
    registry.promote(home, "a")
    assert registry.pointer(home) == before


def test_promoting_back_and_forth_does_not_lengthen_the_way_back(home: Settings) -> None:
    for name in ("a", "b", "a", "b", "a"):
        registry.promote(home, name)
    assert registry.pointer(home).earlier == ("b",)


def test_going_back_skips_bundles_that_were_removed(home: Settings) -> None:
    for name in ("a", "b", "c"):
        registry.promote(home, name)
    (home.bundles / "b" / "bundle.json").unlink()
    assert registry.rollback(home) == "a"


@pytest.mark.parametrize("name", ["nope", "../a", "", ".", "a/b"])
def test_a_name_that_is_no_bundle_is_refused_with_those_there_are(
    home: Settings, name: str
) -> None:
    with pytest.raises(InputError, match="a, b, c"):
        registry.promote(home, name)


def test_drafts_and_unreadable_folders_are_no_bundles(home: Settings) -> None:
    (home.bundles / ".draft-d-1").mkdir()
    (home.bundles / "e").mkdir()
    (home.bundles / "e" / "bundle.json").write_text('{"format": 99}')
    assert [manifest.name for manifest in registry.bundles(home)] == ["a", "b", "c"]
    assert registry.latest(home) == "c"


def test_a_broken_pointer_says_where_it_is_and_what_to_do(home: Settings) -> None:
    (home.bundles / registry.POINTER).write_text(json.dumps({"format": 1, "currant": "a"}))
    with pytest.raises(InputError, match=r"current\.json.*pagoda models promote"):
        registry.current(home)


def test_processes_that_promote_at_once_lose_no_move(home: Settings) -> None:
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        pool.starmap(_promote_often, [(str(home.home), name) for name in ("a", "b", "c")])
    moves = [move.bundle for move in registry.pointer(home).history]
    repeats = [one for one, other in pairwise(moves) if one == other]
    assert set(moves) == {"a", "b", "c"}
    assert repeats == []
    assert moves[-1] == registry.current(home)


def _promote_often(home: str, name: str) -> None:
    for _ in range(20):
        registry.promote(Settings(home=Path(home)), name)
