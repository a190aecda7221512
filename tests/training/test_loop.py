from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch

from pagoda import features
from pagoda.errors import CheckFailed, InputError
from pagoda.models import towers
from pagoda.models.base import TwoTowers
from pagoda.models.catalogue import Catalogue
from pagoda.models.inputs import item_batch
from pagoda.models.tables import Sizes
from pagoda.models.towers import Config
from pagoda.schemas import ACTIONS
from tests.training import toy
from tests.training.conftest import MakeExamples
from tests.training.small import EACH, MGDSPR, YOUTUBE_DNN, ZAM, temperature
from training import checkpoints
from training.data.batches import Examples, batches
from training.frequency import FrequencyConfig
from training.loop import Step, train
from training.loop_config import Finish, LoopConfig, Rewards
from training.losses import Mix, mixed
from training.negatives import Negatives
from training.objective import Objective
from training.optimisers import AdagradConfig, AdamConfig, clip_gradients, descend
from training.recipes import RECIPES, recipe

SHORT = LoopConfig(epochs=2, requests_per_batch=12, checkpoint_steps=3)
HARD = Negatives(impressed=2, mined=2, mined_first=3, mined_last=12)
EVERYTHING = replace(
    SHORT, negatives=replace(HARD, uniform=10, memory=2, memory_after=1), mix=Mix(most=5)
)
FINISHED = replace(EVERYTHING, finish=Finish(days=1))
ADAM = replace(EVERYTHING, optimiser=AdamConfig(), finish=Finish(days=1, optimiser=AdamConfig()))
STREAM = replace(EVERYTHING, order="stream", frequency=FrequencyConfig(slots=64), rewards=Rewards())


def built(config: Config, sizes: Sizes) -> TwoTowers:
    torch.manual_seed(3)
    return config.build(sizes)


def weights(model: TwoTowers) -> dict[str, torch.Tensor]:
    return {name: each.clone() for name, each in model.state_dict().items()}


@EACH
def test_eight_examples_are_learned_by_heart(
    config: Config, sizes: Sizes, make_examples: MakeExamples, catalogue: Catalogue
) -> None:
    shelves = ["milk", "tea", "bread", "apples", "soap", "cheese", "green tea", "black bread"]
    eight = make_examples(
        [
            toy.Basket(user=f"u{n}", at_ms=toy.T0 + n, taken=((shelf, f"i{n + 20}"),))
            for n, shelf in enumerate(shelves)
        ]
    )
    loop = LoopConfig(epochs=60, temperature=temperature(config), log_q="off")
    model = built(config, sizes)
    losses = train(model, eight, catalogue, loop)
    assert losses[0] > 1.5
    assert losses[-1] < losses[0] / 20  # of 2.1 for most; ZAM's has its words in it


@EACH
def test_the_same_seed_gives_the_same_losses_and_another_gives_others(
    config: Config, sizes: Sizes, examples: Examples, catalogue: Catalogue
) -> None:
    first, again, other = (
        train(
            built(config, sizes),
            examples,
            catalogue,
            LoopConfig(epochs=1, requests_per_batch=8, seed=seed),
        )
        for seed in (0, 0, 1)
    )
    assert first == again
    assert first != other
    assert len(first) == 48 // 8


def stopped_and_resumed(
    models: tuple[TwoTowers, TwoTowers],
    examples: Examples,
    catalogue: Catalogue,
    loop: LoopConfig,
    *,
    checkpoint: Path,
    stop_after: int,
) -> tuple[list[Step], list[Step], list[float]]:
    """The steps of the first, that is interrupted, and of the second, that goes on; its losses."""
    stopped, resumed = models
    before: list[Step] = []
    after: list[Step] = []

    def interrupt(step: Step) -> None:
        before.append(step)
        if step.step == stop_after:
            raise KeyboardInterrupt

    fit = partial(train, checkpoint=checkpoint)
    with pytest.raises(KeyboardInterrupt):
        fit(stopped, examples, catalogue, loop, on_step=interrupt)
    losses = fit(resumed, examples, catalogue, loop, on_step=after.append)
    return before, after, losses


@EACH
@pytest.mark.parametrize(
    "loop",
    [SHORT, EVERYTHING, FINISHED, STREAM, ADAM],
    ids=["plain", "everything", "finished", "stream", "adam"],
)
@pytest.mark.parametrize(("every", "stop_after"), [(4, 5), (3, 7)], ids=["epochs", "steps"])
def test_resumed_training_equals_uninterrupted_bit_for_bit(
    config: Config,
    loop: LoopConfig,
    every: int,
    stop_after: int,
    sizes: Sizes,
    examples: Examples,
    catalogue: Catalogue,
    tmp_path: Path,
) -> None:
    """Of four steps an epoch: from the end of the first, and from within the second."""
    loop = replace(loop, checkpoint_steps=every)
    whole = built(config, sizes)
    losses = train(whole, examples, catalogue, loop)
    stopped = built(config, sizes)
    resumed = config.build(sizes)  # other random weights: all must come from the checkpoint
    _, steps, found = stopped_and_resumed(
        (stopped, resumed),
        examples,
        catalogue,
        loop,
        checkpoint=tmp_path / "checkpoint.safetensors",
        stop_after=stop_after,
    )
    assert steps[0].step == stop_after // every * every + 1
    assert found == losses
    expected = weights(whole)
    assert all(torch.equal(each, expected[name]) for name, each in weights(resumed).items())


@pytest.mark.parametrize(("took_s", "at"), [(0.01, [2, 4, 6, 8]), (5.0, [2, 8])])
def test_checkpoints_that_take_long_are_fewer(
    took_s: float,
    at: list[int],
    sizes: Sizes,
    examples: Examples,
    catalogue: Catalogue,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    written: list[int] = []

    def write(*given: Any) -> float:
        written.append(len(given[-1]))
        return took_s

    monkeypatch.setattr(checkpoints, "write", write)
    loop = replace(SHORT, checkpoint_steps=2)
    losses = train(built(MGDSPR, sizes), examples, catalogue, loop, checkpoint=tmp_path / "none")
    assert len(losses) == at[-1]
    assert written == at


@pytest.mark.parametrize(("stop_after", "goes_on_with"), [(8, 7), (9, 9), (11, 9), (12, 12)])
def test_what_was_stopped_about_the_finish_goes_on_bit_for_bit(
    stop_after: int,
    goes_on_with: int,
    sizes: Sizes,
    examples: Examples,
    catalogue: Catalogue,
    tmp_path: Path,
) -> None:
    """Eight steps and four of the finish; kept after three, six, eight, and three of the finish."""
    loop = replace(EVERYTHING, finish=Finish())
    whole, resumed = built(MGDSPR, sizes), built(MGDSPR, sizes)
    losses = train(whole, examples, catalogue, loop)
    assert len(losses) == 12
    before, steps, found = stopped_and_resumed(
        (built(MGDSPR, sizes), resumed),
        examples,
        catalogue,
        loop,
        checkpoint=tmp_path / "checkpoint.safetensors",
        stop_after=stop_after,
    )
    assert {step.of for step in before} == {12}
    assert [step.step for step in steps] == list(range(goes_on_with, 13))
    assert found == losses
    expected = weights(whole)
    assert all(torch.equal(each, expected[name]) for name, each in weights(resumed).items())


def test_a_finish_goes_through_the_latest_requests_alone_at_its_own_rates(
    sizes: Sizes, examples: Examples, catalogue: Catalogue
) -> None:
    """A rate of zero changes nothing; one of embeddings alone only rows that the last day has."""
    plain, still, moved = (built(MGDSPR, sizes) for _ in range(3))
    train(plain, examples, catalogue, SHORT)
    at_rest = AdagradConfig(embedding_lr=0.0, dense_lr=0.0)
    train(still, examples, catalogue, replace(SHORT, finish=Finish(optimiser=at_rest)))
    before = weights(plain)
    assert all(torch.equal(each, before[name]) for name, each in weights(still).items())
    alone = Finish(days=1, optimiser=AdagradConfig(dense_lr=0.0))
    losses = train(moved, examples, catalogue, replace(SHORT, finish=alone))
    last = examples.latest(1)
    assert 0 < len(last) < examples.requests
    assert len(losses) == 2 * (examples.requests // 12) + len(last) // 12
    known = {"item_tower.tables.item.weight"}
    changed = {name for name, each in weights(moved).items() if not torch.equal(each, before[name])}
    assert known <= changed
    item_N = (moved.state_dict()[min(known)] != before[min(known)]).any(1)
    _, lines = examples.lines_of(last)
    seen = examples.behaviour.take(last)
    read = {0, *examples.item_B[lines].tolist()}
    for rows in (seen.real_time, seen.short_term, *seen.long_term.values()):
        read |= set(rows.values.tolist())
    assert set(torch.nonzero(item_N).flatten().tolist()) <= read


@EACH
def test_losses_in_bf16_are_near_those_in_fp32_and_weights_stay_fp32(
    config: Config, sizes: Sizes, examples: Examples, catalogue: Catalogue
) -> None:
    def losses(precision: Literal["fp32", "bf16"]) -> list[float]:
        model = built(config, sizes)
        found = train(model, examples, catalogue, replace(EVERYTHING, precision=precision))
        assert {each.dtype for each in model.parameters()} == {torch.float32}
        return found

    lower, full = losses("bf16"), losses("fp32")
    assert lower != full
    assert lower[:4] == pytest.approx(full[:4], rel=0.02)  # mined items may differ after an epoch


HINGE = replace(SHORT, loss="hinge")
IMPRESSED = replace(HARD, mined=0)
MINED = replace(HARD, impressed=0, mined_from=0)


@pytest.mark.parametrize(
    ("other", "without"),
    [
        (replace(SHORT, negatives=Negatives(uniform=10)), SHORT),
        (replace(SHORT, negatives=Negatives(batch=False, uniform=10)), SHORT),
        (replace(SHORT, negatives=Negatives(memory=2)), SHORT),
        (replace(SHORT, negatives=IMPRESSED), SHORT),
        (replace(SHORT, negatives=MINED), SHORT),
        (replace(SHORT, mix=Mix(most=5)), SHORT),
        (HINGE, SHORT),
        (replace(HINGE, negatives=IMPRESSED), HINGE),
        (replace(HINGE, negatives=MINED), HINGE),
    ],
    ids=[
        "uniform",
        "only uniform",
        "memory",
        "impressed",
        "mined",
        "mix",
        "hinge",
        "impressed in a hinge",
        "mined in a hinge",
    ],
)
def test_each_part_of_the_loss_changes_what_is_learned_and_is_learned_from(
    other: LoopConfig,
    without: LoopConfig,
    sizes: Sizes,
    examples: Examples,
    catalogue: Catalogue,
) -> None:
    longer = replace(other, epochs=12)
    losses = train(built(MGDSPR, sizes), examples, catalogue, longer)
    assert losses[:4] != train(built(MGDSPR, sizes), examples, catalogue, without)[:4]
    assert sum(losses[-4:]) < sum(losses[:4])


def test_chances_that_are_counted_need_batches_of_all_days() -> None:
    with pytest.raises(ValueError, match="stream's order needs frequency"):
        replace(SHORT, order="stream")
    pool_only = Negatives(batch=False, uniform=3)
    for right in ({"log_q": "off"}, {"negatives": pool_only}, {"loss": "hinge"}):
        replace(SHORT, order="stream", **right)


def test_a_loss_that_is_not_finite_stops_before_the_step_and_names_the_batch(
    sizes: Sizes, examples: Examples, catalogue: Catalogue
) -> None:
    model = built(MGDSPR, sizes)
    with torch.no_grad():
        next(model.parameters())[1:] = torch.nan
    before = weights(model)
    with pytest.raises(CheckFailed, match=r"epoch 0, batch 0.*loss is nan"):
        train(model, examples, catalogue, SHORT)
    after = weights(model)
    assert all(
        torch.equal(after[name].nan_to_num(), each.nan_to_num()) for name, each in before.items()
    )


def test_a_batch_of_one_request_needs_drawn_items(
    sizes: Sizes, examples: Examples, catalogue: Catalogue
) -> None:
    with pytest.raises(ValueError, match="no other request's item"):
        LoopConfig(requests_per_batch=1, negatives=Negatives(memory=3))
    drawn = LoopConfig(requests_per_batch=1, negatives=Negatives(memory=3, uniform=9))
    assert all(np.isfinite(train(built(YOUTUBE_DNN, sizes), examples, catalogue, drawn)))


def test_a_gradient_that_is_not_finite_stops_before_the_step() -> None:
    model = torch.nn.Linear(1, 1, bias=False)
    before = [each.clone() for each in model.parameters()]
    optimiser = torch.optim.SGD(model.parameters(), lr=1.0)
    steep = (model.weight * 0).sqrt().sum()  # 0, and nobody knows how steep
    with pytest.raises(CheckFailed, match=r"batch 3.*gradient's norm is (nan|inf)"):
        descend(model, optimiser, steep, clip_norm=1.0, where="batch 3")
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_an_estimate_of_chances_counts_the_steps_of_its_own_phase(
    sizes: Sizes, examples: Examples, catalogue: Catalogue
) -> None:
    """An item that the finish's first batch has taken was never seen before: a gap of one step."""
    rate, first_gap = 0.5, 10.0
    config = replace(STREAM, frequency=FrequencyConfig(rate=rate, first_gap=first_gap))
    objective = Objective(config, examples, catalogue, before=100)
    batch = next(batches(examples, catalogue, requests_per_batch=12, seed=0, epoch=0))
    objective.loss(built(MGDSPR, sizes), batch, step=100)
    kept = objective.kept["frequency"].tensors()
    assert set(kept["gap"].unique().tolist()) == {first_gap, (1 - rate) * first_gap + rate}


@EACH
def test_padding_rows_are_never_trained(
    config: Config, sizes: Sizes, examples: Examples, catalogue: Catalogue
) -> None:
    model = built(config, sizes)
    train(model, examples, catalogue, SHORT)
    for module in model.modules():
        if isinstance(module, torch.nn.Embedding):
            assert module.weight[0].eq(0).all()
            assert module.weight[1:].ne(0).all()


def test_gradients_are_clipped_by_their_norm_with_repeated_sparse_rows_summed() -> None:
    table = torch.nn.Embedding(5, 2, sparse=True)
    model = torch.nn.ModuleList([table, torch.nn.Linear(2, 1, bias=False)])
    table(torch.tensor([1, 1, 3])).sum().backward()
    model[1].weight.grad = torch.tensor([[2.0, 1.0]])
    assert clip_gradients(model, 1.0) == pytest.approx((4 + 4 + 1 + 1 + 4 + 1) ** 0.5)
    assert table.weight.grad is not None
    assert table.weight.grad.is_sparse
    assert clip_gradients(model, 9.0) == pytest.approx(1.0)


def test_tables_get_their_own_rate(sizes: Sizes) -> None:
    model = built(MGDSPR, sizes)
    tables, dense = AdagradConfig().build(model).param_groups
    assert (tables["lr"], dense["lr"]) == (0.1, 0.01)
    assert len(tables["params"]) == 8
    assert len(tables["params"]) + len(dense["params"]) == len(list(model.parameters()))


def test_adam_is_torchs_of_dense_weights_and_its_sparse_one_of_tables() -> None:
    def fresh() -> tuple[torch.nn.Embedding, torch.nn.Linear]:
        torch.manual_seed(0)
        return torch.nn.Embedding(9, 3, sparse=True), torch.nn.Linear(3, 2)

    config = AdamConfig(embedding_lr=0.05, dense_lr=0.01, mean_decay=0.8, square_decay=0.95)
    own, theirs = fresh(), fresh()
    steppers: list[list[torch.optim.Optimizer]] = [
        [config.build(torch.nn.ModuleList(own))],
        [
            torch.optim.SparseAdam(list(theirs[0].parameters()), lr=0.05, betas=(0.8, 0.95)),
            torch.optim.Adam(theirs[1].parameters(), lr=0.01, betas=(0.8, 0.95)),
        ],
    ]
    start = own[0].weight.detach().clone()
    for step in range(6):
        rows = torch.tensor([1, 1, 2 + step % 3])  # a row twice; others now and then
        for (table, linear), optimisers in zip((own, theirs), steppers, strict=True):
            linear(table(rows)).square().sum().backward()
            for each in optimisers:
                each.step()
                each.zero_grad()
    torch.testing.assert_close(own[0].weight, theirs[0].weight)
    torch.testing.assert_close(own[1].weight, theirs[1].weight)
    assert not torch.equal(own[0].weight[1], start[1])
    assert torch.equal(own[0].weight[5:], start[5:])


def test_rewards_weigh_lines_by_their_action(
    sizes: Sizes, examples: Examples, catalogue: Catalogue
) -> None:
    def first_loss(rewards: Rewards | None, bought: bool) -> float:
        action_B = np.full(examples.lines, ACTIONS.index("buy" if bought else "click"))
        lines = replace(examples, action_B=action_B)
        return train(built(MGDSPR, sizes), lines, catalogue, replace(SHORT, rewards=rewards))[0]

    plain = first_loss(None, bought=True)
    assert first_loss(Rewards(), bought=False) == pytest.approx(plain)
    assert first_loss(Rewards(), bought=True) == pytest.approx(4 * plain)


def test_what_a_model_learns_besides_is_part_of_the_loss(
    sizes: Sizes, examples: Examples, catalogue: Catalogue
) -> None:
    with_words, without = (
        train(built(config, sizes), examples, catalogue, replace(SHORT, epochs=20))
        for config in (ZAM, replace(ZAM, drawn_words=0))
    )
    words_in_a_title = 3  # "milk no. 1"; as yet each is told from five at even chances
    assert with_words[0] - without[0] == pytest.approx(words_in_a_title * 6 * np.log(2), rel=0.3)
    assert with_words[-1] < with_words[0] / 2


def test_vectors_become_stable_as_training_goes_on(
    sizes: Sizes, examples: Examples, catalogue: Catalogue
) -> None:
    """What makes a memory of earlier batches worth something, and a warm-up before it (CBNS).

    Relative to their length, which goes on growing.
    """
    model = built(YOUTUBE_DNN, sizes)
    items = item_batch(np.arange(1, len(catalogue) + 1), catalogue)
    seen: list[torch.Tensor] = []
    loop = replace(SHORT, epochs=20, negatives=Negatives(memory=4, memory_after=20))
    train(
        model,
        examples,
        catalogue,
        loop,
        on_step=lambda _step: seen.append(model.encode_item(items).detach()),
    )
    moved = [
        float(((after - before).norm(dim=1) / after.norm(dim=1)).mean())
        for before, after in pairwise(seen)
    ]
    assert np.mean(moved[-10:]) < np.mean(moved[:10]) / 5


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        (
            {"memory": 2, "memory_after": 8},
            ["memory_after: the memory", "fewer than the 8 steps"],
        ),
        (
            {"mined": 2, "mined_from": 2},
            ["mined_from: nothing would ever", "less than the 2 epochs"],
        ),
        ({"memory": 2, "memory_after": 9, "mined": 2, "mined_from": 3}, ["found 9", "found 3"]),
    ],
    ids=str,
)
def test_negatives_that_would_begin_after_the_end_are_refused(
    wrong: dict[str, int],
    named: list[str],
    sizes: Sizes,
    examples: Examples,
    catalogue: Catalogue,
) -> None:
    config = replace(SHORT, negatives=Negatives(**wrong))  # type: ignore[arg-type]
    with pytest.raises(InputError) as refused:
        train(built(MGDSPR, sizes), examples, catalogue, config)
    assert all(each in str(refused.value) for each in named)
    train(built(MGDSPR, sizes), examples, catalogue, config.going_on)  # their warm-up is over


def test_a_request_alone_is_refused_where_it_has_nothing_to_tell_its_items_from(
    sizes: Sizes, make_examples: MakeExamples, catalogue: Catalogue
) -> None:
    one = make_examples(toy.baskets(1))
    with pytest.raises(InputError, match="a request alone"):
        train(built(MGDSPR, sizes), one, catalogue, SHORT)
    drawn = replace(SHORT, negatives=Negatives(uniform=5))
    assert np.isfinite(train(built(MGDSPR, sizes), one, catalogue, drawn)).all()


@pytest.mark.parametrize("batch", [True, False])
def test_the_mix_is_of_a_third_of_the_negatives(
    monkeypatch: pytest.MonkeyPatch,
    batch: bool,
    sizes: Sizes,
    examples: Examples,
    catalogue: Catalogue,
) -> None:
    """What the batch has taken are columns in any case; negatives only if asked for."""
    asked: list[tuple[int, int]] = []

    def seen(score_BN: torch.Tensor, *, negatives: int, **given: Any) -> torch.Tensor:
        asked.append((negatives, score_BN.shape[1]))
        found = mixed(score_BN, negatives=negatives, **given)
        assert found.shape[1] == negatives // 3
        return found

    monkeypatch.setattr("training.objective.mixed", seen)
    config = replace(SHORT, negatives=Negatives(batch=batch, uniform=9), mix=Mix())
    train(built(MGDSPR, sizes), examples, catalogue, config)
    assert asked
    for negatives, columns in asked:
        assert negatives == (columns - 1 if batch else 9) < columns


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_has_its_name_a_kind_and_a_feature_service(name: str, sizes: Sizes) -> None:
    made = recipe(name)
    assert made.name == name
    assert towers.kind_of(made.model) in towers.KINDS
    assert features.service(made.service)
    assert made.model.build(sizes).state_dict()
