"""Removing a bundle: its folder, its collection, and what the lake kept for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.index.build import build
from pagoda import lake, pins, registry, release
from pagoda import settings as settings_module
from pagoda.cli import models
from pagoda.errors import InputError
from pagoda.index import milvus
from pagoda.schemas import INPUT_DAYS
from pagoda.settings import Settings
from tests.index.homes import own_home, quiet
from tests.training import toy

pytestmark = pytest.mark.servers


@pytest.fixture(scope="module")
def home(milvus_server: Settings, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A home with two indexed bundles; the second is live, the first is there to go back to."""
    folder: Path = tmp_path_factory.mktemp("removed")
    made = own_home(milvus_server, folder)
    for seed, name in enumerate(("rm_a", "rm_b")):
        toy.bundle(made, name, seed=seed)
        build(made, name, promote=True, progress=quiet)
    return made


def pin(home: Settings, bundle: str) -> None:
    """Keep a snapshot for a bundle, as its training does."""
    table = lake.open_table(home, INPUT_DAYS)
    if table.current_snapshot() is None:
        table.append(INPUT_DAYS.schema.empty_table())
    snapshot = lake.open_table(home, INPUT_DAYS).current_snapshot()
    assert snapshot is not None
    with pins.held(home, bundle, {INPUT_DAYS.name: snapshot.snapshot_id}):
        pass


def test_the_live_bundle_is_refused_and_stays_whole(home: Settings) -> None:
    with pytest.raises(InputError, match="rm_b' is live"):
        release.remove(home, "rm_b")
    assert registry.current(home) == "rm_b"
    with milvus(home) as client:
        assert client.has_collection("items_rm_b")


def test_of_several_all_or_none_is_removed(
    home: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(settings_module, "load", lambda: home)
    with pytest.raises(InputError) as refused:
        models.remove(["rm_a", "typo", "rm_b"])
    assert ["typo" in each for each in refused.value.problems] == [True, False]
    assert "rm_b' is live" in refused.value.problems[1]
    assert [each.name for each in registry.bundles(home)] == ["rm_a", "rm_b"]


def test_a_bundle_goes_with_its_collection_its_tags_and_the_way_back(home: Settings) -> None:
    pin(home, "rm_a")
    removed = release.remove(home, "rm_a")
    assert (removed.folder, removed.collection) == (True, True)
    assert removed.unpinned == [INPUT_DAYS.name]
    assert [each.name for each in registry.bundles(home)] == ["rm_b"]
    assert registry.pointer(home).earlier == ()
    assert pins.tables_of(home, "rm_a") == []
    with milvus(home) as client:
        assert not client.has_collection("items_rm_a")
    with pytest.raises(InputError, match="there is no bundle 'rm_a'"):
        release.remove(home, "rm_a")


def test_a_removal_that_was_killed_is_finished_by_another(home: Settings) -> None:
    going = home.bundles / ".removed-half"
    going.mkdir()
    (going / "item_vectors.safetensors").touch()
    assert release.remove(home, "half").folder
    assert not going.exists()
    with pytest.raises(InputError, match="there is no bundle 'half'"):
        release.remove(home, "half")


def test_tags_that_a_killed_training_left_go_by_the_name_of_its_bundle(home: Settings) -> None:
    pin(home, "never_written")
    removed = release.remove(home, "never_written")
    assert (removed.folder, removed.collection) == (False, False)
    assert removed.unpinned == [INPUT_DAYS.name]
