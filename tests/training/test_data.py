from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from pagoda.ids import key_of
from pagoda.models.catalogue import Catalogue
from pagoda.models.ragged import Ragged
from pagoda.text import Tokenizer
from pagoda.windows import DAY_MS, WindowSpec
from tests.training import toy
from tests.training.conftest import MakeExamples
from training.data.batches import IN_BATCH, Examples, Order, batches, chances, prepare
from training.negatives import Negatives, draw


def test_rows_are_cut_at_their_own_moment_and_the_future_is_not_seen(
    make_examples: MakeExamples,
) -> None:
    """A row whose arrays hold later events, as a wrong join would give them, gains nothing."""
    basket = toy.Basket(user="u1", at_ms=toy.T0, taken=(("milk", "i0"),), clicks=20)
    plain = make_examples([basket])
    later = toy.record_batch([basket]).to_pylist()[0]
    for name in ("click", "query"):
        later[f"user_day__{name}_ts"] += [toy.T0, toy.T0 + 1]
        later[f"user_day__{name}_events"] += [1, 2]
    later["user_day__click_items"] += [key_of("item", "i3")] * 2
    later["user_day__query_texts"] += ["planted", "planted"]
    planted = prepared([later], [basket], make_examples)
    for name in ("real_time", "short_term", "queries"):
        assert (
            getattr(planted.behaviour, name).values.tolist()
            == getattr(plain.behaviour, name).values.tolist()
        )
    assert "planted" not in planted.text_list


def prepared(
    rows: list[dict[str, object]], made: list[toy.Basket], make_examples: MakeExamples
) -> Examples:
    import pyarrow as pa

    batch = pa.RecordBatch.from_pylist(rows, schema=toy.record_batch(made).schema)
    patch = pytest.MonkeyPatch()
    patch.setattr(toy, "record_batch", lambda _made: batch)
    try:
        return make_examples(made)
    finally:
        patch.undo()


def test_sequences_are_the_windows_oldest_first(
    make_examples: MakeExamples, catalogue: Catalogue
) -> None:
    basket = toy.Basket(user="u1", at_ms=toy.T0, taken=(("milk", "i0"),), clicks=60)
    found = make_examples([basket]).behaviour
    row = toy.feature_rows("u1", toy.T0, clicks=60)["user_day"]
    assert row is not None
    numbers = catalogue.numbers(np.array(row["click_items"])).tolist()
    assert found.real_time[0].tolist() == numbers[-50:]
    assert found.short_term[0].tolist() == numbers[:-50]
    assert found.long_term["buy"][0].tolist() == numbers[:2][::-1]
    assert len(found.long_term["collect"][0]) == 0


def test_a_line_without_a_row_and_a_doubled_row_are_refused(
    catalogue: Catalogue, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    baskets = toy.baskets(3)
    rows, lines = toy.record_batch(baskets), pl.DataFrame(toy.lines(baskets))
    for batches_, message in (([rows.slice(1)], "no feature row"), ([rows, rows], "one request")):
        with pytest.raises(ValueError, match=message):
            prepare(
                batches_, lines, catalogue, tokenizer, spec=WindowSpec(), stats=(), folder=tmp_path
            )


def test_an_item_that_the_catalogue_lacks_is_item_0_and_has_its_key(
    make_examples: MakeExamples, catalogue: Catalogue
) -> None:
    basket = toy.Basket(user="u1", at_ms=toy.T0, taken=(("milk", "i0"), ("milk", "gone")))
    found = make_examples([basket])
    assert found.item_B.tolist() == [0, *catalogue.numbers(np.array([key_of("item", "i0")]))]
    assert found.item_key_B.tolist() == [key_of("item", "gone"), key_of("item", "i0")]


def test_an_epoch_takes_every_request_once_in_an_order_of_its_own(
    examples: Examples, catalogue: Catalogue
) -> None:
    def taken(epoch: int) -> list[int]:
        return [
            len(batch.positive_B)
            for batch in batches(examples, catalogue, requests_per_batch=8, seed=0, epoch=epoch)
        ]

    assert sum(taken(0)) == examples.lines
    assert taken(0) == taken(0)
    assert taken(0) != taken(1)


def test_some_requests_are_gone_through_alone_and_each_once(
    examples: Examples, catalogue: Catalogue
) -> None:
    among = np.array([1, 4, 5, 9, 20, 33, 40, 47])
    found = batches(examples, catalogue, requests_per_batch=4, seed=0, epoch=0, among=among)
    taken = [item for batch in found for item in batch.items.item_M[batch.positive_B].tolist()]
    wanted = [
        item
        for request, item in zip(examples.request_B, examples.item_B.tolist(), strict=True)
        if request in among
    ]
    assert sorted(taken) == sorted(wanted)


def test_chances_among_some_requests_are_those_of_batches_of_them(
    examples: Examples, catalogue: Catalogue
) -> None:
    """Of one batch that holds them all every item of theirs is sure, and no other possible."""
    among = np.array([1, 4, 5, 9])
    held = chances(examples, 4, pool=len(catalogue), negatives=IN_BATCH, among=among)
    others = chances(examples, 48, pool=len(catalogue), negatives=IN_BATCH)
    theirs = set(examples.item_B[np.isin(examples.request_B, among)].tolist())
    every = np.array(sorted(set(examples.item_B.tolist())))
    assert (others.log_q(every) > -1e-6).all()
    some = np.array(sorted(theirs))
    assert (held.log_q(some) > others.log_q(some) - 1e-6).all()
    assert (held.log_q(np.setdiff1d(every, some)) < -5).all()


@pytest.mark.parametrize("days", [1, 2, 3])
def test_the_latest_requests_are_those_of_the_last_days(examples: Examples, days: int) -> None:
    moments = examples.t_ms_U.tolist()
    last = max(moment // DAY_MS for moment in moments)
    expected = [at for at, moment in enumerate(moments) if moment // DAY_MS > last - days]
    assert examples.latest(days).tolist() == expected


def test_only_items_of_the_same_basket_are_false_negatives(
    examples: Examples, catalogue: Catalogue
) -> None:
    batch = next(batches(examples, catalogue, requests_per_batch=8, seed=0, epoch=0))
    item_of_line = batch.items.item_M[batch.positive_B]
    for line, request in enumerate(batch.user.request_B):
        basket = set(item_of_line[batch.user.request_B == request].tolist())
        masked = set(batch.items.item_M[batch.excluded_BP[line]].tolist())
        assert masked == basket - {int(item_of_line[line])}


def test_log_q_is_the_share_of_batches_that_hold_the_item(
    examples: Examples, catalogue: Catalogue
) -> None:
    """Counted over many draws of a batch's others, for a request that lacks the item."""
    size = 6
    held = chances(examples, size, pool=len(catalogue), negatives=IN_BATCH)
    q = np.exp(held.log_q(np.arange(len(catalogue) + 1)))
    requests_of = {
        item: set(examples.request_B[examples.item_B == item].tolist())
        for item in np.unique(examples.item_B).tolist()
    }
    common = sorted(requests_of, key=lambda item: -len(requests_of[item]))[:4]
    dice = np.random.default_rng(0)
    for item in common:
        outsiders = [n for n in range(examples.requests) if n not in requests_of[item]]
        held = [
            bool(
                requests_of[item]
                & set(
                    dice.permutation([n for n in range(examples.requests) if n != outsiders[0]])[
                        : size - 1
                    ].tolist()
                )
            )
            for _ in range(2_000)
        ]
        assert q[item] == pytest.approx(np.mean(held), abs=0.06)


@pytest.mark.parametrize("others_count", [True, False])
def test_drawn_items_are_columns_and_only_they_where_others_do_not_count(
    examples: Examples, catalogue: Catalogue, *, others_count: bool
) -> None:
    negatives = Negatives(batch=others_count, uniform=12)
    batch, again = (
        next(
            batches(examples, catalogue, requests_per_batch=8, seed=5, epoch=0, negatives=negatives)
        )
        for _ in range(2)
    )
    items = batch.items.item_M.numpy()
    drawn = set(draw(12, pool=len(catalogue), seed=(5, 0, 0)).tolist())
    assert items.tolist() == again.items.item_M.tolist()
    assert drawn < set(items.tolist())
    item_of_line = items[batch.positive_B.numpy()]
    for line, request in enumerate(batch.user.request_B):
        basket = set(item_of_line[(batch.user.request_B == request).numpy()].tolist())
        counted = set(items.tolist()) if others_count else drawn
        left = set(items[~batch.excluded_BP[line].numpy()].tolist())
        assert left == counted - basket | {int(item_of_line[line])}


def test_hard_items_are_those_of_the_lines_own_request_and_no_columns_of_others(
    examples: Examples, catalogue: Catalogue
) -> None:
    """Told by what the toy's searches showed; mined ones are planted, one line's number each."""
    shown: dict[tuple[int, int], set[int]] = {}
    for row in toy.not_taken(toy.baskets(48)):
        number = int(catalogue.numbers(np.array([row["item_key"]]))[0])
        shown.setdefault((row["user_key"], row["t_ms"]), set()).add(number)
    moments = list(zip(examples.user_key_U.tolist(), examples.t_ms_U.tolist(), strict=True))
    mined = np.zeros((examples.lines, 1), np.int64)
    mined[::2, 0] = 1 + np.arange(0, examples.lines, 2) % len(catalogue)
    order = np.random.default_rng([5, 0]).permutation(examples.requests)
    found = []
    for impressed in (0, 2):
        batch = next(
            batches(
                examples,
                catalogue,
                requests_per_batch=8,
                seed=5,
                epoch=0,
                negatives=Negatives(impressed=impressed),
                mined_LK=mined,
            )
        )
        _, lines = examples.lines_of(np.sort(order[:8]))
        item_M, counts = batch.items.item_M.numpy(), []
        for line, places in zip(lines, batch.hard_BK, strict=True):
            request = examples.request_B[line]
            taken = set(examples.item_B[examples.request_B == request].tolist())
            may_be = shown.get(moments[request], set()) - taken
            hard = item_M[places[places >= 0].numpy()].tolist()
            planted = set(mined[line].tolist()) - {0}
            assert planted <= set(hard) <= may_be | planted
            assert len(set(hard)) == len(hard)
            assert len(set(hard) - planted) <= impressed
            assert len(hard) >= min(impressed, len(may_be))
            counts.append(len(hard))
        found.append((item_M[: batch.columns].tolist(), batch.excluded_BP.tolist(), sum(counts)))
    assert found[0][:2] == found[1][:2]
    assert found[0][2] < found[1][2]


def test_ragged_rows_are_taken_and_padded() -> None:
    ragged = Ragged.from_rows([[1, 2, 3], [], [4]])
    taken = ragged.take(np.array([2, 0, 0, 1]))
    assert [taken[row].tolist() for row in range(4)] == [[4], [1, 2, 3], [1, 2, 3], []]
    values, mask = taken.padded()
    assert values.tolist() == [[4, 0, 0], [1, 2, 3], [1, 2, 3], [0, 0, 0]]
    assert mask.sum(1).tolist() == [1, 3, 3, 0]
    assert Ragged.from_rows([]).padded()[0].shape == (0, 1)


def test_the_streams_order_shuffles_within_a_day_only(
    make_examples: MakeExamples, catalogue: Catalogue
) -> None:
    """Eight requests a day for five days: item n is taken on day n // 8."""
    midnight = toy.T0 - toy.T0 % DAY_MS
    made = make_examples(
        [
            toy.Basket(user=f"u{n}", at_ms=midnight + n * DAY_MS // 8, taken=(("milk", f"i{n}"),))
            for n in range(40)
        ]
    )
    at = {key: n for n, key in enumerate(key_of("item", f"i{n}") for n in range(40))}

    def taken(order: Order, epoch: int, size: int = 4) -> list[list[int]]:
        found = batches(made, catalogue, requests_per_batch=size, seed=0, epoch=epoch, order=order)
        return [sorted(at[catalogue.keys[n - 1]] for n in each.items.item_M) for each in found]

    first, second = taken("stream", 0), taken("stream", 1)
    assert [{item // 8 for item in each} for each in first] == [{n // 2} for n in range(10)]
    assert first != second
    assert sorted(item for each in first for item in each) == list(range(40))
    # What is over is of the first day: the newest are learned.
    assert set(range(8, 40)) < {item for each in taken("stream", 0, size=7) for item in each}
    assert any(len({item // 8 for item in each}) > 1 for each in taken("shuffled", 0))
