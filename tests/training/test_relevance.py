from __future__ import annotations

import json
import re
import shutil
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from click.testing import Result
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import pad
from typer.testing import CliRunner

from pagoda import relevance as judges
from pagoda.bundle import Metric
from pagoda.errors import BundleRefused, InputError, NothingToDo
from pagoda.ids import key_of
from pagoda.models.catalogue import Catalogue
from pagoda.models.relevance import FIELDS, ItemTexts, Relevance, RelevanceConfig
from pagoda.models.tables import Sizes
from pagoda.relevance import Judge, Record
from pagoda.settings import Lake, Settings
from pagoda.text import Tokenizer
from pagoda.windows import DAY_MS
from tests.oracles import relevance as oracle
from tests.training import judged_shop, shop, toy
from tests.training.small import MGDSPR, built
from training import evaluate, relevance
from training.data.batches import Examples
from training.evaluation import p_good, scores
from training.evaluation.channels import Channels
from training.evaluation.judging import judge as judge_all
from training.evaluation.trial import Trial
from training.mismatches import KINDS, LABELLED, RANDOM, Pair, Swaps, pairs
from training.relevance import (
    IN_COMMON,
    MODEL,
    JudgeConfig,
    auc,
    held_out,
    held_to_labels,
    parts,
    train,
)
from training.vectors import encode_items

ITEMS = toy.items().sort_by("item_key")
ROWS = ITEMS.to_pylist()
CONFIG = JudgeConfig()


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


# Mismatches ------------------------------------------------------------------------------------

SWAPS = Swaps(ITEMS)


@given(
    row=st.integers(0, len(ROWS) - 1),
    named=st.sets(st.sampled_from(["brand", "colour", "leaf_category", "first_category"])),
    around=st.sampled_from(["", "cheap", "for me"]),
    seed=st.integers(0, 99),
)
def test_a_swapped_query_asks_for_what_the_item_is_not(
    row: int, named: set[str], around: str, seed: int
) -> None:
    """One phrase that the query had of the item has made room for words that the item has not."""
    item = ROWS[row]
    query = " ".join([*(item[name] for name in sorted(named) if item[name]), around]).strip()
    found = list(SWAPS.of(query, row, np.random.default_rng(seed)))
    assert found == list(SWAPS.of(query, row, np.random.default_rng(seed)))
    kinds = {"brand": "brand", "colour": "colour"}
    able = {kinds.get(name, "category") for name in named if item[name]}
    assert [kind for kind, _ in found] == list(dict.fromkeys(kind for kind, _ in found))
    assert {kind for kind, _ in found} == able
    own = set(words(" ".join(item[name] or "" for name in FIELDS)))
    for kind, swapped in found:
        gone = set(words(query)) - set(words(swapped))
        come = set(words(swapped)) - set(words(query))
        assert gone <= own
        assert gone
        assert come - own
        assert around in swapped
        values = {
            each[name]
            for each in ROWS
            for name in ("leaf_category", "category", "first_category", "brand", "colour")
            if kinds.get(name, "category") == kind and each[name]
        }
        assert any(come == set(words(value)) for value in values)


def test_a_query_that_names_nothing_of_the_item_has_no_swap() -> None:
    row = next(at for at, each in enumerate(ROWS) if each["leaf_category"] == "tea")
    for query in ("milk", "", "cheap", "no. 3"):
        assert not list(SWAPS.of(query, row, np.random.default_rng(0)))


def test_good_pairs_are_told_from_random_items_and_from_swapped_queries() -> None:
    labels = judged_shop.labels(40)
    labels.good["milk"] = {"i0": True, "i1": False, "elsewhere": True}
    found = pairs(labels, ITEMS, seed=0)
    assert found == pairs(labels, ITEMS, seed=0)
    assert found != pairs(labels, ITEMS, seed=1)
    people = {
        (query, item, good)
        for query, of_query in labels.good.items()
        for item, good in of_query.items()
        if item != "elsewhere"
    }
    told = [pair for pair in found if pair.kind == LABELLED]
    assert {(each.query, ROWS[each.item]["item_id"], each.good) for each in told} == people
    assert len(told) == len(people)
    assert {pair.kind for pair in found} == set(KINDS)
    before = None
    for pair in found:
        if pair.kind == LABELLED:
            before = pair
            continue
        assert not pair.good
        assert before is not None
        assert before.good
        if pair.kind == RANDOM:
            assert pair.query == before.query
            assert ROWS[pair.item]["item_id"] not in labels.good[pair.query]
        else:
            assert pair.item == before.item
            assert pair.query != before.query


def test_where_a_substitute_is_good_neither_brand_nor_colour_is_swapped() -> None:
    found = pairs(replace(judged_shop.labels(40), best=False), ITEMS, seed=0)
    assert {pair.kind for pair in found} == {LABELLED, RANDOM, "category"}


# The model -------------------------------------------------------------------------------------


def small() -> Relevance:
    torch.manual_seed(0)
    model = RelevanceConfig(width=8, field_width=3, hidden=6).build(30).eval()
    with torch.no_grad():
        model.word.weight[1:].normal_()
        model.field.weight[1:].normal_()
    return model


QUERY = torch.tensor([[3, 4, 0], [5, 0, 0]])
ITEM = torch.tensor([[3, 9, 7, 2], [1, 1, 0, 0]])
FIELD = torch.tensor([[1, 1, 2, 4], [1, 3, 0, 0]])


def test_padding_and_other_pairs_change_nothing() -> None:
    model = small()
    with torch.no_grad():
        together = model(QUERY, ITEM, FIELD)
        assert together[0] != together[1]
        wider = model(pad(QUERY, (0, 3)), pad(ITEM, (0, 2)), pad(FIELD, (0, 2)))
        torch.testing.assert_close(wider, together)
        for at, (n, m) in enumerate(((2, 4), (1, 2))):
            alone = model(QUERY[[at], :n], ITEM[[at], :m], FIELD[[at], :m])
            torch.testing.assert_close(alone, together[[at]])
        assert not torch.equal(model(QUERY, ITEM, FIELD.clamp(max=1)), together)


def test_a_side_without_words_is_finite_with_finite_gradients() -> None:
    model = small()
    nothing, something = torch.zeros(1, 1, dtype=torch.int64), torch.tensor([[4, 5]])
    sides = (nothing, something)
    odds = torch.cat([model(query, item, item.clamp(max=1)) for query in sides for item in sides])
    odds.sum().backward()
    assert odds.isfinite().all()
    for each in model.parameters():
        assert each.grad is not None
        values = each.grad.coalesce().values() if each.grad.is_sparse else each.grad
        assert values.isfinite().all()


def test_items_are_their_words_field_by_field() -> None:
    tokenizer = Tokenizer.fit([*toy.SHELVES, *toy.BRANDS, *(row["title"] for row in ROWS)])
    texts = ItemTexts.of(ITEMS, tokenizer)
    assert len(texts) == len(ROWS)
    for at, row in enumerate(ROWS):
        expected = [
            (number, place)
            for place, name in enumerate(FIELDS, 1)
            for number in tokenizer.encode([row[name] or ""]).words[0].tolist()
        ]
        found = zip(texts.words[at].tolist(), texts.fields[at].tolist(), strict=True)
        assert list(found) == expected


# The judge -------------------------------------------------------------------------------------

SCORES = st.lists(st.integers(-3, 3).map(float), min_size=1, max_size=12)


@given(good=SCORES, bad=SCORES)
def test_auc_is_the_share_of_pairs_in_the_right_order(good: list[float], bad: list[float]) -> None:
    assert auc(np.array(good), np.array(bad)) == pytest.approx(oracle.auc(good, bad))


@pytest.fixture(scope="module")
def learned_and_left() -> tuple[list[Pair], list[Pair]]:
    return parts(judged_shop.labels(160), ITEMS, seed=0)


@pytest.fixture(scope="module")
def judge(learned_and_left: tuple[list[Pair], list[Pair]]) -> Judge:
    learned, left = learned_and_left
    return held_to_labels(train(ITEMS, learned, CONFIG), ITEMS, left)[0]


def odds(judge: Judge, *asked: tuple[str, str]) -> list[float]:
    row_of = {row["item_id"]: at for at, row in enumerate(ROWS)}
    items = judge.items(ITEMS).take(np.array([row_of[item] for _, item in asked]))
    return judge.odds(judge.queries([query for query, _ in asked]), items).tolist()


def test_held_out_labels_are_told_apart_better_than_by_words_in_common(
    judge: Judge, learned_and_left: tuple[list[Pair], list[Pair]]
) -> None:
    _, left = learned_and_left
    again, told = held_to_labels(judge, ITEMS, left)
    assert again.threshold == judge.threshold
    assert set(told[IN_COMMON]) | {"precision"} == set(told[MODEL])
    assert 0.5 < told[IN_COMMON]["auc"] < 0.9
    assert told[MODEL]["auc"] > 0.95
    for kind in ("auc", "auc_brand", "auc_colour", "auc_category"):
        assert told[MODEL][kind] > told[IN_COMMON][kind] + 0.1
    assert told[MODEL]["precision"] > 0.9


def test_the_threshold_is_where_as_many_count_as_relevant_as_people_call_good(
    judge: Judge, learned_and_left: tuple[list[Pair], list[Pair]]
) -> None:
    told = [pair for pair in learned_and_left[1] if pair.kind == LABELLED]
    of_pairs = odds(judge, *((pair.query, ROWS[pair.item]["item_id"]) for pair in told))
    called = [each >= judge.threshold for each in of_pairs]
    assert sum(called) == sum(pair.good for pair in told)


def test_mismatches_are_what_teaches_the_judge_to_look_at_each_word(
    judge: Judge, learned_and_left: tuple[list[Pair], list[Pair]]
) -> None:
    learned, left = learned_and_left
    people = [pair for pair in learned if pair.kind == LABELLED]
    _, by_labels = held_to_labels(train(ITEMS, people, CONFIG), ITEMS, left)
    _, hardened = held_to_labels(judge, ITEMS, left)
    for kind in ("auc_brand", "auc_colour"):
        assert hardened[MODEL][kind] > by_labels[MODEL][kind] + 0.02
    fitting = odds(judge, ("acme milk", "i0"), ("acme corp red milk", "i0"), ("loaf", "i2"))
    swapped = odds(judge, ("globex milk", "i0"), ("acme corp blue milk", "i0"), ("soap", "i2"))
    assert min(fitting) > judge.threshold > max(swapped)


def test_nothing_is_learned_from_held_out_queries(
    learned_and_left: tuple[list[Pair], list[Pair]],
) -> None:
    labels = judged_shop.labels(160)
    flipped = {
        query: {item: good ^ held_out(query) for item, good in of_query.items()}
        for query, of_query in labels.good.items()
    }
    learned, left = parts(replace(labels, good=flipped), ITEMS, seed=0)
    assert learned == learned_and_left[0]
    assert left != learned_and_left[1]
    assert 0.1 < sum(map(held_out, labels.good)) / len(labels.good) < 0.3


def test_the_same_seed_gives_the_same_judge_and_another_gives_another() -> None:
    learned, _ = parts(judged_shop.labels(20), ITEMS, seed=0)
    config = replace(CONFIG, epochs=1)
    first, again, other = (
        train(ITEMS, learned, replace(config, seed=seed)).model.state_dict() for seed in (0, 0, 1)
    )
    assert all(torch.equal(each, again[name]) for name, each in first.items())
    assert not torch.equal(first["word.weight"], other["word.weight"])


# P_good ----------------------------------------------------------------------------------------


@pytest.fixture
def trial(examples: Examples, catalogue: Catalogue) -> Trial:
    past = pl.DataFrame(
        [
            {"user_key": 1, "item_key": key_of("item", f"i{n}"), "t_ms": toy.T0 - DAY_MS}
            for n in range(50)
        ]
    )
    return Trial(examples=examples, catalogue=catalogue, history=past, starts_ms=toy.T0)


def test_shares_are_of_what_the_judge_finds_good_and_near_the_truth(
    judge: Judge, trial: Trial
) -> None:
    lines = trial.examples.lines
    score_BN = np.random.default_rng(0).normal(size=(lines, 50)).astype(np.float32)
    every = Channels(trial, name="toy", lines=lines)
    scores.read([(np.arange(lines), score_BN)], [every])
    found = p_good.gains(trial, judge, every.orders, ks=(3, 80))
    numbers = trial.candidates.tolist()
    row_of = {key: at for at, key in enumerate(ITEMS["item_key"].to_pylist())}
    items = [ROWS[row_of[int(trial.catalogue.keys[number - 1])]] for number in numbers]
    true: dict[str, list[float]] = defaultdict(list)
    for at, (line, orders) in enumerate(every.orders.items()):
        query = trial.examples.queries[line]
        of_items = odds(judge, *((query, item["item_id"]) for item in items))
        by_judge = [each >= judge.threshold for each in of_items]
        truly = [item["leaf_category"] == query for item in items]
        for method, order in orders.items():
            shares = {k: oracle.p_good(order.tolist(), by_judge, k) for k in (3, 80)}
            assert {k: found[method][f"p_good_model@{k}"][at] for k in (3, 80)} == shares
            true[method].append(oracle.p_good(order.tolist(), truly, 3))
    for method, shares_L in true.items():
        told = found[method]["p_good_model@3"].mean()
        assert told == pytest.approx(np.mean(shares_L), abs=0.05)
    assert np.mean(true["toy"]) < 0.3 < 0.9 < np.mean(true["bm25"])


def test_every_method_is_judged_beside_the_usual_metrics(
    judge: Judge, trial: Trial, catalogue: Catalogue, sizes: Sizes
) -> None:
    towers = built(MGDSPR, sizes)
    vectors = encode_items(towers, catalogue)
    plain = judge_all(trial, towers, vectors, week="test", name="toy")
    found = judge_all(trial, towers, vectors, week="test", name="toy", by_model=judge)
    assert found[: len(plain)] == plain
    added = {each.method: each for each in found[len(plain) :]}
    assert list(added) == list(dict.fromkeys(each.method for each in plain))
    for each in added.values():
        assert each.rows == p_good.ROWS
        low, high = each.intervals["p_good_model@10"]
        assert low <= each.values["p_good_model@10"] <= high
    # The best of a shelf's eight or nine candidates stand first.
    of_method = {method: each.values["p_good_model@10"] for method, each in added.items()}
    assert 0.75 < of_method["bm25"] < 1
    assert of_method["most popular"] < 0.4


# Keeping it, and what people see ---------------------------------------------------------------


@pytest.fixture
def home(tmp_path: Path, judge: Judge, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A home with a toy bundle and a judge."""
    monkeypatch.setenv("PAGODA_HOME", str(tmp_path))
    toy.save(tmp_path / "bundles")
    made = Settings(home=tmp_path)
    record = Record(
        dataset="toy",
        good=("E",),
        config={"model": {}},
        threshold=judge.threshold,
        counts={},
        held_out={MODEL: {"auc": 0.915, "precision": 0.8}, IN_COMMON: {"auc": 0.6}},
    )
    judges.save(made, judge, record)
    return made


def test_a_judge_comes_back_as_it_was_saved_and_takes_an_earlier_ones_place(
    home: Settings, judge: Judge
) -> None:
    again, record = judges.load(home)
    asked = (("acme milk", "i0"), ("loaf", "i2"), ("zzz", "i5"))
    assert odds(again, *asked) == pytest.approx(odds(judge, *asked), rel=1e-4)
    assert (again.threshold, again.tokenizer) == (judge.threshold, judge.tokenizer)
    judges.save(home, replace(judge, threshold=9.0), record.model_copy(update={"threshold": 9.0}))
    assert judges.load(home)[0].threshold == 9.0
    assert [each.name for each in home.home.iterdir() if "relevance" in each.name] == ["relevance"]


@pytest.mark.parametrize("file", [*judges.FILES, judges.RECORD])
@pytest.mark.parametrize("content", [b"{}", None], ids=["altered", "gone"])
def test_one_that_is_not_whole_is_refused(home: Settings, file: str, content: bytes | None) -> None:
    path = judges.folder_of(home) / file
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BundleRefused, match=r"cannot be used.*pagoda relevance --labels"):
        judges.load(home)


@pytest.fixture
def evaluated(home: Settings, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """`pagoda evaluate` on metrics that are made up."""

    def judge_bundle(*_: object, by_model: Judge | None, **__: object) -> list[Metric]:
        plain = Metric(week="test", method="toy", rows="all", count=9, values={"recall@10": 0.5})
        values = {"p_good_model@10": 0.123}
        by_judge = Metric(week="test", method="toy", rows=p_good.ROWS, count=9, values=values)
        return [plain, *([by_judge] if by_model else [])]

    monkeypatch.setattr(evaluate, "judge_bundle", judge_bundle)
    return lambda *options: CliRunner(env={"COLUMNS": "160"}).invoke(evaluate.app, [*options])


def test_people_see_what_the_judge_says_and_how_well_it_judges(
    evaluated: Callable[..., Result],
) -> None:
    assert "relevance" not in evaluated().stdout
    said = evaluated("--relevance")
    assert said.exit_code == 0, said.output
    for each in ("p_good_model@10", ".123", "by model", "0.915", "0.600", "good is E"):
        assert each in said.stdout
    told = json.loads(evaluated("--relevance", "--json").stdout)
    assert told["relevance"]["held_out"][MODEL]["auc"] == 0.915
    assert told["metrics"][-1]["values"] == {"p_good_model@10": 0.123}
    assert "relevance" not in json.loads(evaluated("--json").stdout)


def test_a_judge_of_another_data_set_or_of_other_labels_is_refused(
    home: Settings, judge: Judge, evaluated: Callable[..., Result], tmp_path: Path
) -> None:
    (tmp_path / "labels.csv").write_text("query,item_id,label\nmilk,i0,E\nmilk,i1,S\n")
    labels = ("--labels", str(tmp_path / "labels.csv"))
    assert evaluated("--relevance", *labels).exit_code == 0
    _, record = judges.load(home)
    judges.save(home, judge, record.model_copy(update={"dataset": "other"}))
    refused = evaluated("--relevance", *labels, "--good", "E", "--good", "S").exception
    assert isinstance(refused, InputError)
    assert len(refused.problems) == 2
    shutil.rmtree(judges.folder_of(home))
    assert isinstance(evaluated("--relevance").exception, NothingToDo)


def test_a_judge_is_trained_on_labels_of_the_lakes_items(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PAGODA_HOME", str(tmp_path))
    made = Settings(home=tmp_path, lake=Lake())
    shop.fill(made)
    labels = judged_shop.labels(120)
    lines = [
        f"{query},{item},{'E' if good else 'I'}"
        for query, of_query in labels.good.items()
        for item, good in of_query.items()
    ]

    def run(*some: str) -> Result:
        (tmp_path / "labels.csv").write_text("\n".join(["query,item_id,label", *some]))
        options = ["--labels", str(tmp_path / "labels.csv"), "--json"]
        return CliRunner().invoke(relevance.app, options)

    for few in ([], lines[:30]):
        refused = run(*few).exception
        assert isinstance(refused, NothingToDo)
        assert "at least 20 pairs of each sort" in str(refused)
    result = run(*lines, "milk,elsewhere,E")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["held_out"][MODEL]["auc"] > 0.9 > told["held_out"][IN_COMMON]["auc"]
    counts = told["counts"]
    pairs_of_people = counts["labelled pairs learned from"] + counts["labelled pairs held out"]
    assert pairs_of_people == len(lines)
    judge, record = judges.load(made)
    assert record.good == ("E",)
    assert record.dataset == "toy"
    assert odds(judge, ("acme milk", "i0"))[0] >= judge.threshold
