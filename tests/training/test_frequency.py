"""The streaming estimate against true frequencies, by simulation."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from pagoda.models.catalogue import Catalogue
from training.data.batches import Examples, batches
from training.frequency import EstimatedChances, Frequency, FrequencyConfig
from training.loop_config import LoopConfig
from training.negatives import Negatives
from training.objective import Objective

ITEMS = np.arange(1, 41)
SOME = FrequencyConfig(rate=0.02)


def zipf() -> npt.NDArray[np.float64]:
    """The true chance of each item to be in a batch, from 0.8 down to 0.02."""
    chance: npt.NDArray[np.float64] = 0.8 / np.arange(1, len(ITEMS) + 1)
    return chance


def follow(
    frequency: Frequency, chance: npt.NDArray[np.float64], first: int, steps: int
) -> npt.NDArray[np.float64]:
    """See so many batches; the mean of the estimate over their second half."""
    dice = np.random.default_rng(first)
    found = []
    for step in range(first, first + steps):
        frequency.see(ITEMS[dice.random(len(ITEMS)) < chance], step=step)
        if step >= first + steps // 2 and step % 10 == 0:
            found.append(1 / frequency.chance(ITEMS))
    mean: npt.NDArray[np.float64] = 1 / np.mean(found, axis=0)
    return mean


def test_the_estimate_tends_to_the_true_chance_and_follows_a_shift_of_popularity() -> None:
    frequency, before, after = Frequency(SOME), zipf(), zipf()[::-1]
    found = follow(frequency, before, 1, 25_000)
    np.testing.assert_allclose(found, before, rtol=0.2)
    found = follow(frequency, after, 25_001, 25_000)
    np.testing.assert_allclose(found, after, rtol=0.2)


def test_an_item_never_seen_has_the_first_gap_and_a_gap_is_a_moving_mean() -> None:
    frequency = Frequency(FrequencyConfig(rate=0.5, first_gap=10))
    one = np.array([7])
    assert frequency.chance(one) == pytest.approx(1 / 10)
    frequency.see(one, step=4)  # 0.5 · 10 + 0.5 · 4
    assert frequency.chance(one) == pytest.approx(1 / 7)
    frequency.see(one, step=5)  # 0.5 · 7 + 0.5 · 1
    assert frequency.chance(one) == pytest.approx(1 / 4)
    for step in range(6, 60):
        frequency.see(one, step=step)
    assert frequency.chance(one) == pytest.approx(1)


def test_collisions_only_shorten_gaps_and_more_hashes_undo_them() -> None:
    """Alone in its slots an item has the estimate that the crowd's can only exceed."""

    def of(slots: int, hashes: int) -> npt.NDArray[np.float64]:
        return follow(
            Frequency(FrequencyConfig(rate=0.02, slots=slots, hashes=hashes)), zipf(), 1, 3_000
        )

    alone, crowded, helped = of(2**16, 1), of(24, 1), of(24, 5)
    assert (crowded > alone * 1.05).any()
    assert (crowded >= alone * 0.8).all()
    assert np.log(crowded / alone).mean() > 1.5 * np.log(helped / alone).mean()


def test_log_q_of_the_batch_is_the_estimate_and_other_sources_add_to_it() -> None:
    def estimated(negatives: Negatives) -> EstimatedChances:
        made = EstimatedChances(SOME, pool=100, negatives=negatives)
        made.see(ITEMS, step=50)
        return made

    batch = estimated(Negatives())
    p = batch.chance(ITEMS)
    np.testing.assert_allclose(batch.log_q(ITEMS), np.log(p), rtol=1e-5)
    both = estimated(Negatives(uniform=20)).log_q(ITEMS, remembered=2)
    np.testing.assert_allclose(both, np.log(1 - (1 - p) ** 3 * 0.8), rtol=1e-5)


def test_what_is_kept_goes_on_as_if_nothing_had_happened() -> None:
    whole, stopped = Frequency(SOME), Frequency(SOME)
    follow(whole, zipf(), 1, 100)
    follow(stopped, zipf(), 1, 100)
    resumed = Frequency(SOME)
    resumed.take_up(stopped.tensors())  # nor do the two go on together
    follow(whole, zipf(), 101, 100)
    follow(resumed, zipf(), 101, 100)
    assert np.array_equal(whole.chance(ITEMS), resumed.chance(ITEMS))
    assert not np.array_equal(whole.chance(ITEMS), stopped.chance(ITEMS))


def test_where_it_begins_as_counted_the_estimate_is_the_count_and_moves_on_from_there() -> None:
    counted = np.array([0.0, 0.5, 0.02, 0.0, 1.0])
    begun = EstimatedChances(
        FrequencyConfig(rate=0.5), pool=4, negatives=Negatives(), counted=counted
    )
    np.testing.assert_allclose(begun.chance(np.arange(5)), counted)
    begun.see(np.array([2]), step=10)  # 0.5 · 50 + 0.5 · 10
    assert begun.chance(np.array([2])) == pytest.approx(1 / 30)
    crowded = EstimatedChances(
        FrequencyConfig(slots=1, hashes=2), pool=4, negatives=Negatives(), counted=counted[:3]
    )
    assert crowded.chance(np.array([2])) == pytest.approx(0.5)  # a collision shortens the gap


def test_towers_that_go_on_know_at_once_who_is_popular(
    examples: Examples, catalogue: Catalogue
) -> None:
    """After no step at all; a few from the first gap all items would seem as frequent."""
    config = LoopConfig(requests_per_batch=12, order="stream", frequency=SOME)
    assert config.going_on.frequency != SOME
    frequency = Objective(config.going_on, examples, catalogue).kept["frequency"]
    assert isinstance(frequency, EstimatedChances)
    held = [
        set(batch.items.item_M[batch.positive_B].tolist())
        for epoch in range(50)
        for batch in batches(examples, catalogue, requests_per_batch=12, seed=0, epoch=epoch)
    ]
    taken = np.array(sorted(set().union(*held)))
    share = np.mean([[item in each for item in taken] for each in held], axis=0)
    assert share.max() > 2 * share.min()
    np.testing.assert_allclose(frequency.chance(taken), share, atol=0.05)


@pytest.mark.parametrize("wrong", [{"rate": 0}, {"rate": 1.5}, {"slots": 0}, {"first_gap": 0.5}])
def test_settings_that_mean_nothing_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be"):
        FrequencyConfig(**wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="needs the batch"):
        LoopConfig(frequency=SOME, negatives=Negatives(batch=False, uniform=3))
