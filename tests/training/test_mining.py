from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from pagoda.models.catalogue import Catalogue
from pagoda.models.tables import Sizes
from tests.oracles import mining as oracle
from tests.training.small import MGDSPR, built
from training.data.batches import Examples
from training.mining import Mined, ranked
from training.negatives import Negatives
from training.vectors import encode_items, encode_lines

RANKS = Negatives(mined=3, mined_first=4, mined_last=9)


@given(st.integers(0, 10_000), st.integers(1, 12), st.integers(1, 8), st.integers(0, 6))
def test_ranks_are_those_of_brute_force_however_the_pool_is_cut(
    seed: int, per_pass: int, first: int, more: int
) -> None:
    dice = np.random.default_rng(seed)
    users, items = dice.normal(size=(3, 4)), dice.normal(size=(10, 4))
    taken = [set(dice.integers(1, 11, size=count).tolist()) for count in (0, 2, 4)]
    found = ranked(
        torch.tensor(users),
        torch.tensor(items),
        taken=(
            np.repeat(np.arange(3), [len(each) for each in taken]),
            np.array([item for each in taken for item in each], np.int64),
        ),
        first=first,
        last=first + more,
        items_per_pass=per_pass,
    )
    for row, user, own in zip(found, users.tolist(), taken, strict=True):
        expected = oracle.ranked(user, items.tolist(), own, first=first, last=first + more)
        assert [each for each in row.tolist() if each] == expected


def test_every_line_draws_from_its_own_ranks_and_the_same_again(
    examples: Examples, catalogue: Catalogue, sizes: Sizes
) -> None:
    model = built(MGDSPR, sizes)
    items = encode_items(model, catalogue).tolist()
    model.train()  # the search itself is not to drop anything out
    found, again, other = (Mined(examples.lines, RANKS) for _ in range(3))
    for mined, epoch in ((found, 1), (again, 1), (other, 2)):
        mined.mine(model, examples, catalogue, seed=(0, epoch))
    assert model.training
    assert found.items_LK.tolist() == again.items_LK.tolist() != other.items_LK.tolist()
    model.eval()
    for lines, user_BD in encode_lines(model, examples, catalogue):
        for line, user in zip(lines, user_BD.tolist(), strict=True):
            own = set(examples.item_B[examples.request_B == examples.request_B[line]].tolist())
            may_be = oracle.ranked(user, items, own, first=4, last=9)
            drawn = set(found.items_LK[line].tolist())
            assert len(drawn) == 3
            assert drawn <= set(may_be)
