"""Towers on a device that is not the processor: everything a step needs is brought to it.

The card is none (`tests.training.card`); one that is has its test at the end.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch

from pagoda.models.base import TwoTowers
from pagoda.models.catalogue import Catalogue
from pagoda.models.tables import Sizes
from pagoda.models.towers import Config
from tests.training.card import CARD, Card
from tests.training.small import MGDSPR, SMALL, built
from tests.training.test_loop import EVERYTHING, FINISHED, HINGE, STREAM, stopped_and_resumed
from training.data.batches import Examples
from training.loop import train
from training.loop_config import LoopConfig
from training.vectors import encode_items, encode_lines

# All models in the loop that has most parts, one model in the others.
CASES = pytest.mark.parametrize(
    ("config", "loop"),
    [
        *(pytest.param(config, STREAM, id=name) for name, config in SMALL.items()),
        pytest.param(MGDSPR, EVERYTHING, id="counted chances"),
        pytest.param(MGDSPR, FINISHED, id="finished"),
        pytest.param(MGDSPR, HINGE, id="hinge"),
    ],
)
_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no card")


def _vectors(
    model: TwoTowers, examples: Examples, catalogue: Catalogue
) -> tuple[np.ndarray, np.ndarray]:
    lines = [user_BD.numpy() for _, user_BD in encode_lines(model, examples, catalogue)]
    return encode_items(model, catalogue), np.concatenate(lines)


@CASES
def test_training_on_a_card_computes_what_the_processor_computes(
    config: Config, loop: LoopConfig, sizes: Sizes, examples: Examples, catalogue: Catalogue
) -> None:
    here, there = built(config, sizes), built(config, sizes)
    losses = train(here, examples, catalogue, loop)
    with Card():
        there.to(CARD)
        assert train(there, examples, catalogue, loop) == pytest.approx(losses, rel=1e-3)
        assert {each.device for each in there.parameters()} == {CARD}
        vectors = _vectors(there, examples, catalogue)
    for found, expected in zip(vectors, _vectors(here, examples, catalogue), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-2, atol=1e-3)


@pytest.mark.filterwarnings("ignore:.*which is a no-op")  # torch sees that the card is none
def test_what_was_stopped_on_a_card_goes_on_there(
    sizes: Sizes, examples: Examples, catalogue: Catalogue, tmp_path: Path
) -> None:
    loop = replace(EVERYTHING, checkpoint_steps=3)
    losses = train(built(MGDSPR, sizes), examples, catalogue, loop)
    with Card():
        stopped = built(MGDSPR, sizes).to(CARD)
        resumed = MGDSPR.build(sizes).to(CARD)  # other weights: all must come from the checkpoint
        _, steps, found = stopped_and_resumed(
            (stopped, resumed),
            examples,
            catalogue,
            loop,
            checkpoint=tmp_path / "checkpoint.safetensors",
            stop_after=5,
        )
    assert steps[0].step == 4
    assert found == pytest.approx(losses, rel=1e-3)


def test_what_a_card_refuses_is_refused() -> None:
    here, place, dice = torch.ones(3), torch.tensor([0, 2]), torch.Generator()
    with Card():
        there = here.to(CARD)
        assert (there + 1).cpu().tolist() == [2.0, 2.0, 2.0]
        assert there[place].cpu().tolist() == there[place.to(CARD)].cpu().tolist() == [1.0, 1.0]
        for wrong in (
            lambda: there + here,
            lambda: here[place.to(CARD)],
            lambda: there.index_put((place,), here[:2]),
        ):
            with pytest.raises(RuntimeError, match="two devices"):
                wrong()
        with pytest.raises(RuntimeError, match="the processor's dice"):
            torch.empty_like(there).uniform_(generator=dice)
        with pytest.raises(RuntimeError, match="behind this one's back"):
            torch.tensor([1.0, 2.0], device=CARD) + there[:2]


@_CUDA
@CASES
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_training_on_a_real_card_computes_what_the_processor_computes(
    config: Config,
    loop: LoopConfig,
    precision: Literal["fp32", "bf16"],
    sizes: Sizes,
    examples: Examples,
    catalogue: Catalogue,
) -> None:
    loop = replace(loop, precision=precision)
    here, there = built(config, sizes), built(config, sizes).to("cuda")
    losses = train(here, examples, catalogue, loop)
    assert train(there, examples, catalogue, loop)[:4] == pytest.approx(losses[:4], rel=0.02)
