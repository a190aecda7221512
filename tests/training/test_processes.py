"""Two processes that torchrun starts learn what one does.

    torchrun --nproc-per-node 2 -m tests.training.test_processes FOLDER

works through the folder's cases in each process; here they are held to one process. Without
dropout: each process draws its noise for its own lines.
"""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pagoda.errors import InputError
from pagoda.models.catalogue import Catalogue
from pagoda.models.tables import Sizes
from pagoda.models.towers import Config
from pagoda.settings import PROJECT_ROOT
from tests.training.small import MGDSPR, SMALL
from training import processes
from training.data.batches import Examples
from training.frequency import FrequencyConfig
from training.loop import Step, train
from training.loop_config import LoopConfig, Rewards
from training.losses import Mix
from training.negatives import Negatives

WITH_NOISE = MGDSPR
NO_NOISE = replace(MGDSPR, dropout=0.0)
PLAIN = LoopConfig(epochs=2, requests_per_batch=13, checkpoint_steps=2)
NEGATIVES = Negatives(
    uniform=10, memory=2, memory_after=1, impressed=2, mined=2, mined_first=3, mined_last=12
)
EVERYTHING = replace(
    PLAIN,
    negatives=NEGATIVES,
    mix=Mix(most=5),
    order="stream",
    frequency=FrequencyConfig(slots=64),
    rewards=Rewards(),
)
HINGE = replace(PLAIN, loss="hinge", negatives=NEGATIVES)
BF16 = replace(PLAIN, precision="bf16")


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a training gave, and what its random numbers would go on with."""

    losses: list[float]
    steps: list[Step]
    weights: dict[str, Tensor]
    random: float


@dataclass(frozen=True)
class Shop:
    sizes: Sizes
    examples: Examples
    catalogue: Catalogue

    def learned(
        self, config: Config, loop: LoopConfig, *, checkpoint: Path | None = None, stop: int = 0
    ) -> Run:
        """Train; if asked to, stop after a step and go on from the checkpoint."""
        steps: list[Step] = []

        def see(step: Step) -> None:
            steps.append(step)
            if len(steps) == stop:
                raise KeyboardInterrupt

        def once() -> Run:
            torch.manual_seed(3)
            model = config.build(self.sizes)
            losses = train(
                model, self.examples, self.catalogue, loop, checkpoint=checkpoint, on_step=see
            )
            weights = dict(model.state_dict())
            return Run(losses=losses, steps=steps, weights=weights, random=float(torch.rand(())))

        if not stop:
            return once()
        with pytest.raises(KeyboardInterrupt):
            once()
        return once()

    def handed_over(self) -> list[float] | None:
        """As `pagoda train` does it: only the first process has a model and rows."""
        if processes.rank():
            return processes.follow()
        torch.manual_seed(3)
        model = NO_NOISE.build(self.sizes)
        return processes.from_first(partial(train, model, self.examples, self.catalogue, PLAIN))()

    def refused(self) -> str:
        with pytest.raises(InputError) as error:
            self.learned(NO_NOISE, replace(EVERYTHING, requests_per_batch=1))
        return str(error.value)


def main(folder: Path) -> None:
    cases: dict[str, Callable[[], Any]] = pickle.loads((folder / "cases").read_bytes())  # noqa: S301
    torch.set_num_threads(1)
    with processes.joined():
        found = {name: case() for name, case in cases.items()}
        (folder / str(processes.rank())).write_bytes(pickle.dumps(found))


LEARNED: dict[str, tuple[Config, LoopConfig]] = {
    "everything": (NO_NOISE, EVERYTHING),
    "hinge": (NO_NOISE, HINGE),
    "bf16": (NO_NOISE, BF16),
    "a table that nobody reads": (replace(NO_NOISE, query="last_item"), PLAIN),
    **{kind: (NO_NOISE if config == MGDSPR else config, PLAIN) for kind, config in SMALL.items()},
}
Found = tuple[dict[str, Any], dict[str, Any]]


@pytest.fixture(scope="module")
def shop(sizes: Sizes, examples: Examples, catalogue: Catalogue) -> Shop:
    return Shop(sizes, examples, catalogue)


@pytest.fixture(scope="module")
def found(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> Found:
    """What either process found."""
    folder = tmp_path_factory.mktemp("processes")
    cases = {name: partial(shop.learned, *case) for name, case in LEARNED.items()} | {
        "resumed": partial(
            shop.learned, NO_NOISE, EVERYTHING, checkpoint=folder / "resumed", stop=3
        ),
        "with noise": partial(shop.learned, WITH_NOISE, PLAIN),
        "handed over": shop.handed_over,
        "refused": shop.refused,
    }
    (folder / "cases").write_bytes(pickle.dumps(cases))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    subprocess.run(
        [*torchrun, "--nproc-per-node=2", "-m", "tests.training.test_processes", str(folder)],
        cwd=PROJECT_ROOT,
        check=True,
        timeout=600,
    )
    one, other = (pickle.loads((folder / each).read_bytes()) for each in "01")  # noqa: S301
    return one, other


@pytest.mark.parametrize("name", LEARNED)
def test_two_processes_learn_what_one_does_with_the_same_recipe(
    name: str, shop: Shop, found: Found
) -> None:
    alone = shop.learned(*LEARNED[name])
    one, other = (each[name] for each in found)
    near = 1e-2 if name == "bf16" else 1e-4
    assert one.losses == pytest.approx(alone.losses, rel=near)
    norms = [[step.gradient_norm for step in each.steps] for each in (one, alone)]
    assert norms[0] == pytest.approx(norms[1], rel=10 * near)
    assert [step.lines for step in one.steps] == [step.lines for step in alone.steps]
    assert one.losses == other.losses
    assert all(torch.equal(each, other.weights[key]) for key, each in one.weights.items())


def test_two_processes_go_on_from_a_checkpoint_bit_for_bit(found: Found) -> None:
    for each in found:
        whole, resumed = each["everything"], each["resumed"]
        assert [step.step for step in resumed.steps] == [1, 2, 3, 3, 4, 5, 6]
        assert resumed.losses == whole.losses
        assert all(torch.equal(each, resumed.weights[key]) for key, each in whole.weights.items())


def test_each_process_draws_its_own_noise_and_has_the_same_weights(found: Found) -> None:
    one, other = (each["with noise"] for each in found)
    assert one.random != other.random
    assert one.losses == other.losses
    assert all(torch.equal(each, other.weights[key]) for key, each in one.weights.items())


def test_the_other_process_gets_everything_from_the_first(found: Found) -> None:
    assert found[0]["handed over"] == found[0]["mgdspr"].losses


def test_more_processes_than_a_batch_has_requests_are_refused(found: Found) -> None:
    for each in found:
        assert "a batch has 1 requests for 2 processes" in each["refused"]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
