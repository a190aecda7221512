from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.oracles import losses as oracle
from training.losses import Mix, mixed, pairwise_hinge, sampled_softmax


@settings(deadline=None)
@given(
    st.integers(0, 10_000),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.sampled_from([0.5, 2.0]),
)
def test_loss_agrees_with_loops(
    seed: int, corrected: bool, positive_too: bool, mixing: bool, temperature: float
) -> None:
    dice = np.random.default_rng(seed)
    users, items = dice.normal(size=(5, 3)), dice.normal(size=(6, 3))
    request = np.array([0, 0, 1, 2, 2])
    positive = np.array([0, 1, 2, 3, 0])
    baskets = [{0, 1}, {0, 1}, {2}, {0, 3}, {0, 3}]
    q = dice.uniform(0.1, 1, size=6)
    excluded = torch.tensor(
        [[item in baskets[line] - {positive[line]} for item in range(6)] for line in range(5)]
    )
    assert len(request) == len(positive)
    score = torch.tensor(users) @ torch.tensor(items).T / temperature
    extra = torch.tensor(dice.normal(size=(5, 2))) if mixing else None
    found = sampled_softmax(
        score,
        positive_B=torch.tensor(positive),
        excluded_BN=excluded,
        log_q_N=torch.tensor(np.log(q)) if corrected else None,
        correct_positive=positive_too,
        further_BK=extra,
    )
    expected = oracle.sampled_softmax(
        users.tolist(),
        items.tolist(),
        positive=positive.tolist(),
        baskets=baskets,
        q=q.tolist() if corrected else None,
        correct_positive=positive_too,
        temperature=temperature,
        mixed=None if extra is None else extra.tolist(),
    )
    assert found.item() == pytest.approx(expected, rel=1e-9)
    hinge = pairwise_hinge(
        score, positive_B=torch.tensor(positive), excluded_BN=excluded, margin=temperature
    )
    assert hinge.item() == pytest.approx(
        oracle.pairwise_hinge(score.tolist(), positive, baskets, margin=temperature), rel=1e-9
    )


@pytest.mark.parametrize(("negatives", "hard"), [(2_048, 684), (640, 213), (1, 1)])
def test_the_papers_hard_negatives_are_684_of_2048(negatives: int, hard: int) -> None:
    score_BN = torch.randn(1, negatives + 1)
    found = mixed(
        score_BN,
        positive_B=torch.tensor([0]),
        excluded_BN=torch.zeros_like(score_BN, dtype=torch.bool),
        negatives=negatives,
        mix=Mix(low=0, high=0),
        dice=torch.Generator(),
    )
    expected = score_BN[:, 1:].sort(descending=True).values[:, :hard]
    torch.testing.assert_close(found, expected)


@given(st.integers(0, 10_000), st.booleans())
def test_mixed_scores_are_those_of_mixed_vectors(seed: int, through_positive: bool) -> None:
    """Vectors are built and scored here; production mixes scores."""
    dice = np.random.default_rng(seed)
    user = torch.tensor(dice.normal(size=(3, 4)))
    item = torch.tensor(dice.normal(size=(10, 4)), requires_grad=True)
    positive, excluded = torch.tensor([2, 0, 5]), torch.tensor(dice.uniform(size=(3, 10)) < 0.3)
    excluded[torch.arange(3), positive] = False
    # Three of nine negatives, by either bound.
    bound = dice.choice([{"most": 3, "share": 1.0}, {"most": 9}])
    mix = Mix(low=0.4, high=0.6, through_positive=through_positive, **bound)
    score = user @ item.T
    found = mixed(
        score,
        positive_B=positive,
        excluded_BN=excluded,
        negatives=9,
        mix=mix,
        dice=_seeded(seed),
    )
    alpha = torch.empty(3, 3, dtype=found.dtype).uniform_(0.4, 0.6, generator=_seeded(seed))
    expected = torch.full_like(found, -torch.inf)
    for line in range(3):
        left = [n for n in range(10) if n != positive[line] and not excluded[line, n]]
        hard = sorted(left, key=lambda n: -score[line, n].item())[:3]
        for place, n in enumerate(hard):
            ends = item[positive[line]], item[n]
            kept = ends[0] if through_positive else ends[0].detach()
            share = alpha[line, place]
            expected[line, place] = user[line] @ (share * kept + (1 - share) * ends[1])
    torch.testing.assert_close(found, expected)
    gradients = [
        torch.autograd.grad(each[~each.isinf()].sum(), item, retain_graph=True)[0]
        for each in (found, expected)
    ]
    torch.testing.assert_close(*gradients)


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_log_q_of_negatives_makes_the_expected_gradient_that_of_the_full_softmax() -> None:
    """Batches drawn by known, skewed chances: corrected agrees, uncorrected does not."""
    dice = np.random.default_rng(0)
    items, user = dice.normal(size=(400, 3)) / 2, dice.normal(size=3)
    positive, temperature = 4, 1.0
    # The popular half of one corner of the space: plain in-batch softmax pushes it away too hard.
    q = np.where(items[:, 0] > 0, 0.9, 0.15)
    draws = 400
    corrected, plain = (
        np.mean(
            [
                _gradient(dice, items, user, positive, q, temperature, correct=correct)
                for _ in range(draws)
            ],
            axis=0,
        )
        for correct in (True, False)
    )
    full = np.array(
        oracle.full_softmax_gradient(user.tolist(), items.tolist(), positive, temperature)[0]
    )
    assert np.abs(corrected - full).max() < 0.02
    assert np.abs(plain - full).max() > 0.1


def test_log_q_of_all_keeps_the_full_softmax_as_the_optimum_in_the_smallest_batches() -> None:
    """At the true distribution's own logits the expected gradient is zero, counted exactly.

    Four items, every possible batch; without the correction it is not zero.
    """
    chance, q = [0.5, 0.3, 0.15, 0.05], [0.9, 0.2, 0.6, 0.3]
    expected = {True: torch.zeros(4), False: torch.zeros(4)}
    for taken in range(4):
        others = [item for item in range(4) if item != taken]
        for held in product((False, True), repeat=3):
            weight = chance[taken]
            for item, there in zip(others, held, strict=True):
                weight *= q[item] if there else 1 - q[item]
            batch = [taken, *(item for item, there in zip(others, held, strict=True) if there)]
            for corrected in (True, False):
                logits = torch.tensor(chance).log().requires_grad_()
                sampled_softmax(
                    logits[batch].unsqueeze(0),
                    positive_B=torch.tensor([0]),
                    excluded_BN=torch.zeros(1, len(batch), dtype=torch.bool),
                    log_q_N=torch.tensor(q)[batch].log() if corrected else None,
                    correct_positive=True,
                ).backward()
                assert logits.grad is not None
                expected[corrected] += weight * logits.grad
    assert expected[True].abs().max() < 1e-6
    assert expected[False].abs().max() > 0.02


def _gradient(
    dice: np.random.Generator,
    items: np.ndarray,
    user: np.ndarray,
    positive: int,
    q: np.ndarray,
    temperature: float,
    *,
    correct: bool,
) -> np.ndarray:
    """The user vector's gradient for one batch: the positive, and others by their chances."""
    held = np.flatnonzero(dice.uniform(size=len(items)) < q)
    batch = np.union1d(held, [positive])
    user_BD = torch.tensor(user[None], requires_grad=True)
    sampled_softmax(
        user_BD @ torch.tensor(items[batch]).T / temperature,
        positive_B=torch.tensor([int(np.searchsorted(batch, positive))]),
        excluded_BN=torch.zeros(1, len(batch), dtype=torch.bool),
        log_q_N=torch.tensor(np.log(q[batch])) if correct else None,
        correct_positive=False,
    ).backward()
    assert user_BD.grad is not None
    return user_BD.grad.numpy()[0]


def test_a_reward_is_a_lines_weight_in_the_mean() -> None:
    score = torch.tensor([[1.0, 0.5, -1.0], [0.0, 2.0, 0.3]])

    def loss(lines: list[int], rewards: list[float] | None) -> float:
        return sampled_softmax(
            score[lines],
            positive_B=torch.tensor([0, 1])[lines],
            excluded_BN=torch.zeros(len(lines), 3, dtype=torch.bool),
            log_q_N=None,
            correct_positive=False,
            reward_B=None if rewards is None else torch.tensor(rewards),
        ).item()

    expected = (4 * loss([0], None) + loss([1], None)) / 2
    assert loss([0, 1], [4.0, 1.0]) == pytest.approx(expected)
