"""`pagoda bench train`: all compute the same or on the same, and a difference would be told."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from pagoda.errors import CheckFailed
from pagoda.models.catalogue import Catalogue
from pagoda.models.inputs import user_batch
from pagoda.settings import PROJECT_ROOT
from training.bench import sequences, ways
from training.bench.towers import require_equal
from training.bench.ways import LINES, Kind, Plain
from training.data.batches import Examples, batches
from training.loop import train
from training.loop_config import LoopConfig

REQUESTS = 3


@pytest.fixture(scope="module")
def made() -> Catalogue:
    return ways.catalogue(50, seed=0)


@pytest.fixture(scope="module")
def rows(made: Catalogue) -> Examples:
    return ways.examples(made, requests=2 * REQUESTS, seed=0)


@pytest.fixture(scope="module")
def taken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("taken") / "rows"
    sequences.write(folder, items=50, samples=130, seed=0)
    return folder


def model(kind: Kind, made: Catalogue) -> torch.nn.Module:
    return ways.built(kind, made, width=16, seed=0)


@pytest.mark.parametrize("kind", ["mgdspr", "alpha_dnn"])
def test_what_is_not_shared_changes_nothing_that_is_learned(
    kind: Kind, made: Catalogue, rows: Examples
) -> None:
    config = LoopConfig(requests_per_batch=REQUESTS, epochs=3)
    shared, plain = model(kind, made), Plain(model(kind, made))
    assert train(plain, rows, made, config) == pytest.approx(
        train(shared, rows, made, config), rel=1e-4
    )
    assert any(
        not torch.equal(one, other)
        for one, other in zip(model(kind, made).parameters(), shared.parameters(), strict=True)
    )


def test_nor_does_it_of_interactions(taken: Path) -> None:
    made, rows = ways.interactions(sequences.read(taken))
    config = LoopConfig(requests_per_batch=40, epochs=2)
    shared, plain = model("sasrec", made), Plain(model("sasrec", made))
    assert train(plain, rows, made, config) == pytest.approx(
        train(shared, rows, made, config), rel=1e-4
    )


def test_a_sample_is_an_event_and_what_its_user_took_before_it(taken: Path) -> None:
    of_user: dict[str, list[int]] = {}
    for line in (taken / "rows.inter").read_text().splitlines()[1:]:
        user, item, order = line.split("\t")
        of_user.setdefault(user, []).append(int(item))
        assert int(order) == len(of_user[user]) - 1
    expected = Counter(
        (tuple(items[max(at - 50, 0) : at]), items[at])
        for items in of_user.values()
        for at in range(1, len(items))
    )
    assert expected.total() == 130
    assert max(len(before) for before, _ in expected) == 50
    made, rows = ways.interactions(sequences.read(taken))
    assert made.table["item_id"].to_pylist() == [str(number) for number in range(1, 51)]
    before = rows.behaviour.real_time
    found = [(tuple(before[at].tolist()), int(rows.item_B[at])) for at in range(rows.lines)]
    assert Counter(found) == expected
    for at in range(rows.lines):  # the last is the newest
        ages = rows.behaviour.real_time_age_s[at]
        assert ages.tolist() == list(range(len(before[at]), 0, -1))


def test_a_digest_tells_other_samples_and_no_other_order() -> None:
    dice = np.random.default_rng(0)
    before, item = dice.integers(0, 3, (40, 4)), dice.integers(1, 3, 40)
    said = sequences.digest(before, item)
    order = dice.permutation(40)
    assert sequences.digest(before[order], item[order]) == said
    for at in np.ndindex(before.shape):
        other = before.copy()
        other[at] += 1
        assert sequences.digest(other, item) != said
    assert sequences.digest(before, item[::-1]) != said


def test_the_peer_computes_with_the_platforms_torch() -> None:
    platform, peers = (
        re.search(r"^torch==(\S+)", (PROJECT_ROOT / "requirements" / lock).read_text(), re.M)
        for lock in ("platform.lock", "peers.lock")
    )
    assert platform
    assert peers
    assert platform[1] == peers[1]


def test_every_line_stands_alone(made: Catalogue, rows: Examples) -> None:
    (batch, *_) = batches(rows, made, requests_per_batch=REQUESTS, seed=0, epoch=0)
    alone = ways.alone(batch.user)
    lines = REQUESTS * LINES
    assert len(alone.real_time.at_UT) == len(alone.texts.words_XN) == lines
    used = torch.cat(
        [
            alone.real_time.at_UT[alone.real_time.mask_UT],
            alone.short_term.at_UT[alone.short_term.mask_UT],
            *(bags.at for bags in alone.long_term.values()),
        ]
    )
    assert len(used.unique()) == len(used)
    shown = user_batch(  # the same lines, each a request of its own
        rows.behaviour.take(rows.request_B[:LINES]),
        made,
        rows.texts,
        request_B=torch.arange(LINES).numpy(),
        text_B=rows.text_B[:LINES],
    )
    first = ways.alone(
        user_batch(
            rows.behaviour.take(rows.request_B[:1]),
            made,
            rows.texts,
            request_B=torch.zeros(LINES, dtype=torch.int64).numpy(),
            text_B=rows.text_B[:LINES],
        )
    )
    clicked = [
        each.items.item_M[each.real_time.at_UT][each.real_time.mask_UT] for each in (first, shown)
    ]
    assert torch.equal(*clicked)


def test_other_losses_are_told() -> None:
    require_equal({"pagoda": {"losses": [1.0, 2.0]}, "plain": {"losses": [1.0, 2.0001]}})
    with pytest.raises(CheckFailed, match="losses of pagoda and plain differ"):
        require_equal({"pagoda": {"losses": [1.0, 2.0]}, "plain": {"losses": [1.0, 2.1]}})


def test_other_samples_are_told_whatever_the_model() -> None:
    ours = {"losses": [1.0], "rows": "a"}
    require_equal({"pagoda": ours, "peer": {"rows": "a"}})
    with pytest.raises(CheckFailed, match="samples of pagoda and peer differ"):
        require_equal({"pagoda": ours, "peer": {"rows": "b"}})
