from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
import torch
from click.testing import Result
from typer.testing import CliRunner

from pagoda import ranker as rankers
from pagoda.bundle import Bundle, Metric, as_json
from pagoda.errors import InputError, NothingToDo
from pagoda.ids import key_of, keys_of
from pagoda.models.catalogue import Catalogue
from pagoda.models.inputs import user_batch
from pagoda.models.mgdspr import MgdsprConfig
from pagoda.models.tables import Sizes
from pagoda.ranker import Record
from pagoda.text import Tokenizer
from pagoda.windows import DAY_MS
from tests.oracles import graded as graded_oracle
from tests.oracles import metrics as oracle
from tests.training import toy
from tests.training.conftest import MakeExamples
from tests.training.small import MGDSPR, built
from tests.training.test_bst import SMALL as BST
from training import evaluate
from training.data.batches import Examples
from training.evaluation import judging, same_category, scores
from training.evaluation.channels import Channels
from training.evaluation.funnel import Funnel
from training.evaluation.graded import JudgedPairs
from training.evaluation.intervals import intervals
from training.evaluation.judging import judge
from training.evaluation.metrics import MISSED
from training.evaluation.row_sets import row_sets
from training.evaluation.same_category import SameCategory
from training.evaluation.scores import TargetRanks
from training.evaluation.trial import Trial
from training.labels import Labels
from training.vectors import encode_items

WEEK_MS = toy.T0


def history(*events: tuple[str, str, int]) -> pl.DataFrame:
    return pl.DataFrame(
        [
            {"user_key": key_of("user", user), "item_key": key_of("item", item), "t_ms": t_ms}
            for user, item, t_ms in events
        ]
    )


@pytest.fixture(scope="session")
def past() -> pl.DataFrame:
    """Everybody took some items before the week, i0 most often."""
    events = [(f"u{n % 12}", f"i{n * 7 % 50}", WEEK_MS - DAY_MS - n) for n in range(120)] + [
        ("u1", "i0", WEEK_MS - n) for n in range(1, 40)
    ]
    return history(*events)


@pytest.fixture
def trial(examples: Examples, catalogue: Catalogue, past: pl.DataFrame) -> Trial:
    return Trial(examples=examples, catalogue=catalogue, history=past, starts_ms=WEEK_MS)


def test_a_line_of_an_item_that_the_catalogue_lacks_counts_as_a_miss(
    make_examples: MakeExamples, catalogue: Catalogue, past: pl.DataFrame, sizes: Sizes
) -> None:
    """It counts as a repeat if it was taken before, whatever the catalogue knows."""
    basket = toy.Basket(user="u1", at_ms=WEEK_MS, taken=(("milk", "i0"), ("milk", "gone")))
    before = pl.concat([past, history(("u1", "gone", WEEK_MS - 1))])
    made = make_examples([basket])
    trial = Trial(examples=made, catalogue=catalogue, history=before, starts_ms=WEEK_MS)
    model = built(MGDSPR, sizes)
    vectors = encode_items(model, catalogue)
    own, category = TargetRanks(trial.targets), SameCategory(trial)
    scores.read(scores.by_towers(trial, model, vectors), [own, category])
    assert own.rank_B[0] == MISSED != own.rank_B[1]
    assert category.known_B.tolist() == [False, True]
    assert row_sets(trial)["repeats"].all()
    found = judge(trial, model, vectors, week="test", name="toy")
    (everything,) = (each for each in found if (each.method, each.rows) == ("toy", "all"))
    assert everything.count == 2
    assert everything.values["recall@1000"] == 0.5


def test_scores_come_a_few_lines_at_a_time_where_candidates_are_many(
    trial: Trial, catalogue: Catalogue, sizes: Sizes, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = built(MGDSPR, sizes)
    vectors = encode_items(model, catalogue)
    whole = list(scores.by_towers(trial, model, vectors))
    monkeypatch.setattr(scores, "_SCORES_PER_PASS", 2 * len(trial.candidates) + 1)
    parts = list(scores.by_towers(trial, model, vectors))
    assert max(len(lines) for lines, _ in parts) == 2 < max(len(lines) for lines, _ in whole)
    for of in (0, 1):
        joined = [np.concatenate([each[of] for each in some]) for some in (parts, whole)]
        np.testing.assert_allclose(*joined, rtol=1e-5, atol=1e-6)


def test_towers_are_ranked_over_all_candidates(
    trial: Trial, examples: Examples, catalogue: Catalogue, tokenizer: Tokenizer
) -> None:
    torch.manual_seed(0)
    config = MgdsprConfig(width=16, attribute_width=8, heads=2)
    model = config.build(Sizes.of(catalogue, tokenizer)).eval()
    vectors = encode_items(model, catalogue)
    reader = TargetRanks(trial.targets)
    scores.read(scores.by_towers(trial, model, vectors), [reader])
    found = reader.rank_B
    batch = user_batch(
        examples.behaviour,
        catalogue,
        examples.texts,
        request_B=examples.request_B,
        text_B=examples.text_B,
    )
    with torch.no_grad():
        score_BN = model.encode_user(batch).numpy() @ vectors[trial.candidates - 1].T
    expected = [
        oracle.rank(line.tolist(), target)
        for line, target in zip(score_BN.astype(np.float64), trial.targets.tolist(), strict=True)
    ]
    close = [None if rank == MISSED else int(rank) for rank in found]
    # Other batch shapes round the last bit otherwise: neighbours may swap.
    assert all(
        a is b is None or (a is not None and b is not None and abs(a - b) <= 1)
        for a, b in zip(close, expected, strict=True)
    )


def test_candidates_are_titled_items_with_an_event_before_the_week_most_popular_first(
    trial: Trial, catalogue: Catalogue
) -> None:
    ids = catalogue.table["item_id"].to_pylist()
    candidates = [ids[number - 1] for number in trial.candidates]
    assert candidates[0] == "i0"
    assert set(candidates) == {f"i{n}" for n in range(50)}


def test_a_target_that_is_no_candidate_is_a_miss(trial: Trial, catalogue: Catalogue) -> None:
    ids = np.array(catalogue.table["item_id"].to_pylist())
    cold = np.array([int(item[1:]) >= 50 for item in ids[trial.examples.item_B - 1]])
    assert ((trial.targets == -1) == cold).all()


def test_a_repeat_is_a_pair_with_an_event_before_the_line(
    examples: Examples, catalogue: Catalogue
) -> None:
    line = 3
    user = int(examples.user_key_U[examples.request_B[line]])
    item = int(catalogue.keys[examples.item_B[line] - 1])
    at_ms = int(examples.t_ms_U[examples.request_B[line]])
    for t_ms, expected in ((at_ms - 1, True), (at_ms, False)):
        events = pl.DataFrame([{"user_key": user, "item_key": item, "t_ms": t_ms}])
        trial = Trial(examples=examples, catalogue=catalogue, history=events, starts_ms=WEEK_MS)
        assert row_sets(trial)["repeats"][line] == expected


def test_planted_future_events_move_no_metric(
    trial: Trial, examples: Examples, catalogue: Catalogue, tokenizer: Tokenizer
) -> None:
    torch.manual_seed(0)
    config = MgdsprConfig(width=16, attribute_width=8, heads=2)
    model = config.build(Sizes.of(catalogue, tokenizer)).eval()
    vectors = encode_items(model, catalogue)
    last = int(examples.t_ms_U.max())
    planted = history(*[(f"u{n % 12}", f"i{n % 60}", last + n) for n in range(1, 900)])
    leaky = Trial(
        examples=examples,
        catalogue=catalogue,
        history=pl.concat([trial.history, planted]),
        starts_ms=WEEK_MS,
    )
    judged = [judge(each, model, vectors, week="test", name="toy") for each in (trial, leaky)]
    assert judged[0] == judged[1]
    assert {each.method for each in judged[0]} == {
        "toy", "most popular", "bm25", "popular among matching", "repeat first",
    }  # fmt: skip
    assert {each.rows for each in judged[0]} == {*row_sets(trial), same_category.ROWS}


@pytest.mark.parametrize("without", [0, 7], ids=["all known", "some without"])
def test_the_share_in_the_taken_items_category_is_what_counting_gives(
    trial: Trial, catalogue: Catalogue, without: int
) -> None:
    """Scores are drawn; `without` candidates have no category."""
    categories = catalogue.table["category"].to_pylist()
    categories[: 3 * without : 3] = [None] * without
    at = catalogue.table.schema.get_field_index("category")
    table = catalogue.table.set_column(at, "category", pa.array(categories, pa.string()))
    trial = replace(trial, catalogue=replace(catalogue, table=table))
    lines, dice = trial.examples.lines, np.random.default_rng(0)
    score_BN = dice.random((lines, len(trial.candidates)), np.float32)
    reader = SameCategory(trial, ks=(3, 500))
    for some in np.array_split(dice.permutation(lines), 4):
        reader.read(some, score_BN[some])
    expected: list[list[float]] = []
    for line, of_line in enumerate(score_BN.tolist()):
        taken = categories[trial.examples.item_B[line] - 1]
        if taken is None:
            continue
        ranked = [categories[trial.candidates[column] - 1] for column in oracle.ranking(of_line)]
        expected.append([ranked[:3].count(taken) / 3, ranked.count(taken) / len(ranked)])
    found = reader.gains()
    assert list(found) == ["category@3", "category@500"]
    assert int(reader.known_B.sum()) == len(expected) <= lines
    np.testing.assert_allclose(np.stack(list(found.values()), 1), expected)


def test_intervals_are_of_whole_users(trial: Trial) -> None:
    user_B = trial.examples.user_key_U[trial.examples.request_B]
    hit_B = user_B == user_B[0]
    whole = judging.metrics("test", {"some": np.where(hit_B, 0, MISSED)}, trial)[0]
    assert whole.rows == "all"
    by_user = intervals(hit_B[:, None].astype(float), user_B)
    assert by_user is not None
    assert whole.intervals["recall@10"] == tuple(by_user[0])


@pytest.fixture
def judged(trial: Trial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """`pagoda evaluate` on a toy bundle whose ranks are made up."""
    toy.save(tmp_path / "bundles")
    monkeypatch.setenv("PAGODA_HOME", str(tmp_path))
    lines = np.arange(trial.examples.lines)
    ranks = {"toy": lines, "other <&>": np.full(len(lines), MISSED)}
    found = judging.metrics("test", ranks, trial)
    monkeypatch.setattr(evaluate, "judge_bundle", lambda *_, **__: found)

    def call(*options: str) -> Result:
        result = CliRunner(env={"COLUMNS": "160"}).invoke(evaluate.app, [*options])
        assert result.exit_code == 0, result.output
        return result

    return call


def test_people_see_few_columns_and_sets_first(judged: Callable[..., Result]) -> None:
    said = judged().stdout
    assert "toy, test week" in said
    assert "non-repeats" in said
    assert "tail items" not in said
    assert "R@10 " in said
    assert "R@500" not in said
    assert re.search(r"\.\d{3} \(\.\d{3}–\.\d{3}\)", said)
    assert "tail items" in judged("--sets").stdout
    everything = judged("--all").stdout
    assert all(each in everything for each in ("tail items", "R@500", "NDCG@1000", "mrr", "auc"))


def test_json_has_every_set_metric_and_interval(judged: Callable[..., Result]) -> None:
    metrics = json.loads(judged("--json").stdout)["metrics"]
    read = [Metric.model_validate(each) for each in metrics]
    assert len({each.rows for each in read}) == 11
    whole = next(each for each in read if (each.method, each.rows) == ("toy", "all"))
    assert len(whole.values) == 12
    assert set(whole.intervals) == set(whole.values)
    assert all(low <= whole.values[name] <= high for name, (low, high) in whole.intervals.items())


def test_recall_is_drawn_against_k(judged: Callable[..., Result], tmp_path: Path) -> None:
    judged("--plot", str(tmp_path / "recall.svg"))
    drawn = ElementTree.parse(tmp_path / "recall.svg").getroot()  # noqa: S314 - our own file
    lines = drawn.findall(".//{*}polyline")
    assert len(lines) == 4, "two methods, all rows and non-repeats"
    for line in lines:
        heights = [float(point.split(",")[1]) for point in line.attrib["points"].split()]
        assert len(heights) == 5
        assert heights == sorted(heights, reverse=True), "recall grows with K"
    assert "other <&>" in [each.text for each in drawn.iter("{http://www.w3.org/2000/svg}text")]


def test_labels_add_the_share_of_every_methods_ranking_that_is_good(
    trial: Trial, catalogue: Catalogue, sizes: Sizes
) -> None:
    model = built(MGDSPR, sizes)
    vectors = encode_items(model, catalogue)
    query = trial.examples.queries[0]
    good = {f"i{n}": n % 4 == 0 for n in range(0, 60, 2)}
    plain = judge(trial, model, vectors, week="test", name="toy")
    found = judge(trial, model, vectors, week="test", name="toy", labels=Labels({query: good}))
    assert found[: len(plain)] == plain
    every = Channels(trial, name="toy", lines=trial.examples.lines)
    scores.read(scores.by_towers(trial, model, vectors), [every])
    column_of = trial.columns_of(keys_of("item", good)).tolist()
    places = {at: is_good for at, is_good in zip(column_of, good.values(), strict=True) if at >= 0}
    added = {each.method: each for each in found[len(plain) :]}
    assert list(added) == list(dict.fromkeys(each.method for each in plain))
    for method, each in added.items():
        assert each.rows == "labelled queries"
        orders = [
            of_line[method].tolist()
            for line, of_line in every.orders.items()
            if trial.examples.queries[line] == query
        ]
        assert each.count == len(orders)
        for name, law in (("p_good_condensed", graded_oracle.condensed),
                          ("judged", graded_oracle.judged)):  # fmt: skip
            shares = [law(order, places, 10) for order in orders]
            assert each.values[f"{name}@10"] == pytest.approx(np.mean(shares))


def test_scores_are_gone_through_once_for_all_that_is_asked(
    trial: Trial, catalogue: Catalogue, sizes: Sizes, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, encoded = built(MGDSPR, sizes), []
    encode_user = model.encode_user
    monkeypatch.setattr(
        model, "encode_user", lambda batch: encoded.append(len(batch.text_B)) or encode_user(batch)
    )
    found = judge(
        replace(trial, starts_ms=None),
        model,
        encode_items(model, catalogue),
        week="test",
        name="toy",
        labels=Labels({trial.examples.queries[0]: {"i0": True}}),
        funnel=Funnel(min_relevant=10, pre_ranker=None),
    )
    assert {"all", "among unseen", "labelled queries", "drawn lines"} <= {m.rows for m in found}
    assert sum(encoded) == trial.examples.lines


def test_labels_of_other_items_are_refused_before_anything_is_encoded(trial: Trial) -> None:
    labels = Labels({trial.examples.queries[0]: {"elsewhere": True}})
    with pytest.raises(NothingToDo, match="no judged query has a labelled item"):
        judge(trial, None, None, week="test", name="toy", labels=labels)  # type: ignore[arg-type]


def test_labels_are_shown_in_a_table_of_their_own(
    judged: Callable[..., Result],
    trial: Trial,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    query = trial.examples.queries[0]
    ranks = {"toy": np.zeros(trial.examples.lines, np.int64)}

    def judge_bundle(*_: object, labels: Labels | None, **__: object) -> list[Metric]:
        plain = judging.metrics("test", ranks, trial)
        if labels is None:
            return plain
        pairs = JudgedPairs(trial, labels)
        return plain + pairs.metrics({"toy": pairs.column_P}, week="test")

    monkeypatch.setattr(evaluate, "judge_bundle", judge_bundle)
    path = tmp_path / "labels.csv"
    path.write_text(f"query,item_id,label\n{query},i0,S\n{query},i1,C\n")
    assert "labelled queries" not in judged().stdout
    assert "p_good@10" in judged("--labels", str(path)).stdout
    assert "judged@500" in judged("--labels", str(path), "--all").stdout
    for good, share in ((("--good", "E", "--good", "S"), 0.5), ((), 0.0)):
        told = json.loads(judged("--labels", str(path), *good, "--json").stdout)["metrics"][-1]
        assert told["values"]["p_good_condensed@10"] == share


def test_options_that_nothing_would_come_of_are_refused(judged: Callable[..., Result]) -> None:
    for options in (("--good", "E"), ("--ranked", "7")):
        refused = CliRunner().invoke(evaluate.app, options)
        assert isinstance(refused.exception, InputError)
        assert options[0] in str(refused.exception)


def test_a_funnel_adds_what_of_every_method_comes_through(
    trial: Trial, catalogue: Catalogue, sizes: Sizes
) -> None:
    model = built(MGDSPR, sizes)
    vectors = encode_items(model, catalogue)
    plain = judge(trial, model, vectors, week="test", name="toy")
    funnel = Funnel(min_relevant=10, pre_ranker=None, k=12)
    found = judge(trial, model, vectors, week="test", name="toy", funnel=funnel)
    added = found[len(plain) :]
    assert found[: len(plain)] == plain
    assert [each.method for each in added] == list(dict.fromkeys(each.method for each in plain))
    for each in added:
        low, high = each.intervals["num_prank@12"]
        assert low <= each.values["num_prank@12"] <= high
    # A shelf has ten items, the candidates eight or nine of them: what matches stands first.
    of_method = {each.method: each.values["num_prank@12"] for each in added}
    assert 8 <= of_method["bm25"] == of_method["popular among matching"] <= 9
    assert of_method["most popular"] < 4


def test_without_queries_there_is_nothing_to_control(
    trial: Trial, catalogue: Catalogue, sizes: Sizes
) -> None:
    silent = replace(trial.examples, text_list=[""] * len(trial.examples.text_list))
    model, funnel = built(MGDSPR, sizes), Funnel(min_relevant=10, pre_ranker=None)
    with pytest.raises(InputError, match=r"--funnel.*needs queries"):
        judge(
            replace(trial, examples=silent),
            model,
            encode_items(model, catalogue),
            week="test",
            name="toy",
            funnel=funnel,
        )


def test_a_funnel_has_the_bundles_own_pre_ranker_and_a_table_of_its_own(
    judged: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = evaluate.judge_bundle()
    asked: list[Funnel | None] = []

    def judge_bundle(*_: object, funnel: Funnel | None, **__: object) -> list[Metric]:
        asked.append(funnel)
        values = {"num_prank@1000": 612.34, "num_rank@7": 5.0}
        through = Metric(week="test", method="toy", rows="drawn lines", count=200, values=values)
        return [*plain, *([through] if funnel else [])]

    monkeypatch.setattr(evaluate, "judge_bundle", judge_bundle)
    assert "num_prank" not in judged().stdout
    without = judged("--funnel", "--ranked", "7")
    assert "no pre-ranker" in without.stderr
    assert "num_prank@1000" in without.stdout
    assert "612.3" in without.stdout
    bundle = Bundle.load(tmp_path / "bundles" / "toy")
    model = BST.build(Sizes.read(bundle.manifest.model.sizes))
    config = {"model": dict(as_json(BST))}
    fingerprint = bundle.manifest.fingerprint
    rankers.save(bundle, model, Record(fingerprint=fingerprint, config=config, counts={}))
    assert "no pre-ranker" not in judged("--funnel").stderr
    first, second, third = asked
    assert first is None
    assert second == Funnel(min_relevant=10, pre_ranker=None, ranked=7)
    assert third is not None
    assert third.pre_ranker is not None
    assert torch.equal(third.pre_ranker.item.weight, model.item.weight)


def test_a_folder_that_is_not_there_is_named_before_the_work(
    judged: Callable[..., Result], tmp_path: Path
) -> None:
    result = CliRunner().invoke(evaluate.app, ["--plot", str(tmp_path / "gone" / "recall.svg")])
    assert isinstance(result.exception, InputError)
    assert str(tmp_path / "gone") in str(result.exception)
