from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.oracles import held_out as oracle
from training.data.splits import PARTS, leave_last_out
from training.evaluation import unseen
from training.evaluation.metrics import MISSED, gains

GAMES = Path(__file__).parents[3] / "shared" / "data" / "amazon_videogames" / "Video.txt.gz"


@given(
    st.lists(
        st.tuples(st.sampled_from("uvwx"), st.sampled_from("abc"), st.integers(0, 9)), max_size=14
    )
)
def test_each_line_is_in_the_part_that_its_users_last_lines_say(
    lines: list[tuple[str, str, int]],
) -> None:
    lines = sorted(lines, key=lambda line: line[2])
    frame = pl.DataFrame(
        lines,
        schema={"user_key": pl.String, "item_key": pl.String, "t_ms": pl.Int64},
        orient="row",
    )
    expected = oracle.leave_last_out(lines)
    for part in PARTS:
        assert leave_last_out(frame, part).rows() == expected[part]


@given(st.data())
def test_ranks_among_the_unseen_agree_with_brute_force(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 12))
    lines = data.draw(st.integers(1, 4))
    candidate = st.integers(0, count - 1)
    scores = data.draw(
        st.lists(
            st.lists(st.integers(-2, 2), min_size=count, max_size=count),
            min_size=lines,
            max_size=lines,
        )
    )
    targets = data.draw(st.lists(st.integers(-1, count - 1), min_size=lines, max_size=lines))
    owned = data.draw(st.lists(st.lists(candidate, max_size=5), min_size=lines, max_size=lines))
    kept = data.draw(st.integers(1, 6))
    score_BN, target_B = np.array(scores, np.float32), np.array(targets)
    owns = [np.array(each, np.int64) for each in owned]
    drawn = unseen.draw(owns, target_B, [[n] for n in range(lines)], candidates=count, count=kept)
    reader = unseen.UnseenRanks(owns, target_B, drawn)
    reader.read(np.arange(lines), score_BN)
    of_all, of_drawn = reader.ranks["among unseen"], reader.ranks[f"among {kept} unseen"]
    for line, (target, own) in enumerate(zip(targets, owned, strict=True)):
        others = set(range(count)) - set(own) - {target}
        some = [each for each in drawn[line].tolist() if each != unseen.NOT_DRAWN]
        # Distinct unseen ones, as many as there are up to the number asked for.
        assert len(set(some)) == len(some) == min(kept, len(others))
        assert set(some) <= others
        for rank, among in ((of_all[line], sorted(others)), (of_drawn[line], some)):
            expected = oracle.rank_among(scores[line], target, among)
            assert (None if rank == MISSED else rank) == expected


def test_every_unseen_item_is_drawn_as_often() -> None:
    """5,000 draws of 3 of the 7 that are left: each 2,143 times but for chance (± 5 sigma)."""
    own, target = np.array([0, 0, 4]), 2
    counts = Counter(
        unseen.draw(
            [own] * 5_000, np.full(5_000, target), [[n] for n in range(5_000)],
            candidates=10, count=3,
        ).ravel().tolist()
    )  # fmt: skip
    assert set(counts) == {1, 3, 5, 6, 7, 8, 9}
    assert all(abs(count - 15_000 / 7) < 175 for count in counts.values())


def test_a_line_draws_the_same_whatever_lines_are_beside_it() -> None:
    owned, targets = [np.array([1]), np.array([2])], np.array([3, 4])
    both = unseen.draw(owned, targets, [[7, 1], [8, 2]], candidates=50, count=5)
    alone = unseen.draw(owned[1:], targets[1:], [[8, 2]], candidates=50, count=5)
    assert both[1].tolist() == alone[0].tolist()


@pytest.mark.skipif(not GAMES.exists(), reason="needs SASRec's Video.txt.gz in ../shared/data")
def test_popularity_on_sasrecs_games_is_what_others_measure() -> None:
    """HR@10 .478 and NDCG@10 .279, computed by others from the same file by this protocol."""
    lines = pl.read_csv(
        GAMES, separator=" ", has_header=False, new_columns=["user_key", "item_key"]
    ).with_row_index("t_ms")
    train, test = leave_last_out(lines, "train"), leave_last_out(lines, "test")
    order = train["item_key"].value_counts().sort("count", "item_key", descending=[True, False])
    items = pl.concat([order["item_key"], lines["item_key"].unique()]).unique(maintain_order=True)
    places = pl.DataFrame({"item_key": items, "place": range(len(items))})
    sample = test.sample(4_000, seed=1).join(places, on="item_key", maintain_order="left")
    had = lines.join(places, on="item_key").group_by("user_key").agg("place")
    owned = [
        np.array(own)
        for own in sample.join(had, on="user_key", maintain_order="left")["place_right"]
    ]
    targets = sample["place"].to_numpy()
    drawn = unseen.draw(
        owned, targets, [[user] for user in sample["user_key"]], candidates=len(items)
    )
    rank_B = ((drawn >= 0) & (drawn < targets[:, None])).sum(1)
    found = {name: each.mean() for name, each in gains(rank_B, pool=None, ks=(10,)).items()}
    assert found["recall@10"] == pytest.approx(0.478, abs=0.02)
    assert found["ndcg@10"] == pytest.approx(0.279, abs=0.02)
