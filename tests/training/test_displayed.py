"""How what searches displayed is ranked, on the toy shop."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from pagoda.bundle import Metric
from pagoda.errors import InputError
from pagoda.ids import key_of
from pagoda.metric_table import DISPLAYED, first_rows, table
from pagoda.models.catalogue import Catalogue
from pagoda.models.mgdspr import Mgdspr, MgdsprConfig
from pagoda.models.tables import Sizes
from pagoda.text import Tokenizer
from tests.oracles import metrics as oracle
from tests.training import toy
from tests.training.conftest import MakeExamples
from tests.training.small import whole
from training import evaluate
from training.data.batches import Examples
from training.evaluation import displayed
from training.evaluation.displayed import GRADES, lists_of
from training.evaluation.funnel import Funnel
from training.evaluation.judging import judge
from training.evaluation.trial import Trial
from training.labels import Labels
from training.vectors import encode_items

SEARCHES = 5
ITEMS = (*(f"i{n}" for n in range(14)), "gone")  # the catalogue lacks the last one
CONFIG = MgdsprConfig(width=16, attribute_width=8, heads=2)
Shown = list[dict[str, str]]  # what each search displayed: item to what came of it


def moment(number: int) -> int:
    return toy.T0 + number


@pytest.fixture(scope="module")
def judged(make_examples: MakeExamples) -> Examples:
    """A search of each of five users, and what was taken from it."""
    return make_examples(
        [
            toy.Basket(user=f"u{n}", at_ms=moment(n), taken=((toy.SHELVES[n], f"i{n}"),), clicks=9)
            for n in range(SEARCHES)
        ]
    )


@pytest.fixture(scope="module")
def model(catalogue: Catalogue, tokenizer: Tokenizer) -> Mgdspr:
    torch.manual_seed(0)
    return CONFIG.build(Sizes.of(catalogue, tokenizer)).eval()


def trial_of(examples: Examples, catalogue: Catalogue, shown: Shown, before: list[str]) -> Trial:
    """A trial of these lists, once these items had an event each."""
    return Trial(
        examples=examples,
        catalogue=catalogue,
        history=pl.DataFrame(
            [(key_of("user", "u"), key_of("item", item), toy.T0 - 1 - n)
             for n, item in enumerate(before)],
            schema={"user_key": pl.Int64, "item_key": pl.Int64, "t_ms": pl.Int64}, orient="row",
        ),
        starts_ms=toy.T0,
        displayed=pl.DataFrame(
            [(f"s{n}", key_of("user", f"u{n}"), moment(n), toy.SHELVES[n], key_of("item", item),
              action) for n, each in enumerate(shown) for item, action in each.items()],
            schema=["search_id", "user_key", "t_ms", "query", "item_key", "action"], orient="row",
        ),
    )  # fmt: skip


def expected(
    shown: Shown, before: list[str], score: Callable[[int, str], float]
) -> list[dict[str, float]]:
    popular = Counter(before)
    return [
        oracle.of_list(
            [
                (score(n, item), popular[item], key_of("item", item), GRADES[action])
                for item, action in each.items()
            ]
        )
        for n, each in enumerate(shown)
    ]


def by_list(found: dict[str, Any]) -> list[dict[str, float]]:
    rows = zip(*found.values(), strict=True)
    return [dict(zip(found, map(float, row), strict=True)) for row in rows]


def agree(found: list[dict[str, float]], wanted: list[dict[str, float]]) -> bool:
    return [pytest.approx(each) for each in wanted] == found


lists_of_any = st.lists(
    st.dictionaries(
        st.sampled_from(ITEMS), st.sampled_from(list(GRADES)), min_size=1, max_size=len(ITEMS)
    ).filter(lambda each: set(each.values()) != {"impression"}),
    min_size=1,
    max_size=SEARCHES,
)


@given(
    lists_of_any,
    st.lists(st.sampled_from(ITEMS), max_size=6),
    st.dictionaries(st.sampled_from(ITEMS), st.integers(-1, 1)),
)
def test_metrics_agree_with_sorting_every_list(
    judged: Examples,
    catalogue: Catalogue,
    shown: Shown,
    before: list[str],
    scores: dict[str, int],
) -> None:
    """Few different scores: ties are for popularity, then for the item's key."""
    lists = lists_of(trial_of(judged, catalogue, shown, before))
    of_key = {key_of("item", item): scores.get(item, 0) for item in ITEMS}
    keys = {int(catalogue.numbers(np.array([key]))[0]): key for key in of_key}
    score_C = np.array([of_key[keys[item]] for item in lists.item_C.tolist()], np.float32)
    found = by_list(displayed.gains(lists, score_C))
    assert agree(found, expected(shown, before, lambda _, item: scores.get(item, 0)))
    by_popularity = by_list(displayed.gains(lists, lists.events_C))
    assert agree(by_popularity, expected(shown, before, lambda *_: 0))


SHOWN: Shown = [
    {f"i{n}": "click", f"i{n + 1}": "impression", f"i{n + 2}": "buy", "gone": "cart"}
    for n in range(SEARCHES)
]
BEFORE = ["i3", "i3", "i4", "gone"]


def test_towers_bm25_and_popularity_rank_what_was_displayed(
    judged: Examples, catalogue: Catalogue, model: Mgdspr
) -> None:
    vectors = encode_items(model, catalogue)
    trial = trial_of(judged, catalogue, SHOWN, BEFORE)
    found = {each.method: each for each in judge(trial, model, vectors, week="test", name="toy")}
    with torch.no_grad():
        user_BD = model.encode_user(whole(judged, catalogue)).numpy()
    of_user = dict(zip(trial.users.tolist(), user_BD, strict=True))
    numbers = {item: int(catalogue.numbers(np.array([key_of("item", item)]))[0]) for item in ITEMS}
    there = sorted({item for each in SHOWN for item in each} - {"gone"})
    words = {
        each["item_id"]: f"{each['first_category']} {each['title']}".lower().replace(".", "")
        for each in catalogue.table.to_pylist()
    }
    documents = [words[item].split() for item in there]

    def by_towers(n: int, item: str) -> float:
        if item == "gone":
            return -np.inf
        return float(of_user[key_of("user", f"u{n}")] @ vectors[numbers[item] - 1])

    def by_bm25(n: int, item: str) -> float:
        if item == "gone":
            return 0.0
        return round(oracle.bm25(documents, [toy.SHELVES[n]])[there.index(item)], 5)

    for method, score in (
        ("toy", by_towers),
        ("bm25", by_bm25),
        ("most popular", lambda *_: 0.0),
    ):
        wanted = expected(SHOWN, BEFORE, score)
        assert found[method].rows == DISPLAYED
        assert found[method].count == SEARCHES
        for name in ("mrr", "p@1", "ndcg@10"):
            mean = sum(each[name] for each in wanted) / SEARCHES
            assert found[method].values[name] == pytest.approx(mean), (method, name)
    assert found.keys() == {"toy", "bm25", "most popular"}


def test_a_search_without_a_line_is_judged_too(
    judged: Examples, catalogue: Catalogue, model: Mgdspr
) -> None:
    """All that was taken is not in the catalogue: no line, no vector, and yet a list."""
    trial = trial_of(judged, catalogue, SHOWN, BEFORE)
    assert trial.displayed is not None
    other = trial.displayed.filter(search_id="s0").with_columns(
        pl.lit("s9").alias("search_id"), pl.lit("another query").alias("query")
    )
    more = Trial(
        examples=judged,
        catalogue=catalogue,
        history=trial.history,
        starts_ms=toy.T0,
        displayed=pl.concat([trial.displayed, other]),
    )
    assert lists_of(more).line_L.tolist().count(-1) == 1
    found = judge(more, model, encode_items(model, catalogue), week="test", name="toy")
    assert {each.count for each in found} == {SEARCHES + 1}


def test_what_is_known_after_the_days_began_moves_no_metric(
    judged: Examples, catalogue: Catalogue, model: Mgdspr
) -> None:
    vectors = encode_items(model, catalogue)
    trial = trial_of(judged, catalogue, SHOWN, BEFORE)
    later = pl.DataFrame(
        [(key_of("user", "u1"), key_of("item", f"i{n % 9}"), toy.T0 + n) for n in range(99)],
        schema=trial.history.schema, orient="row",
    )  # fmt: skip
    leaky = Trial(
        examples=judged,
        catalogue=catalogue,
        history=pl.concat([trial.history, later]),
        starts_ms=toy.T0,
        displayed=trial.displayed,
    )
    one, other = (judge(each, model, vectors, week="test", name="toy") for each in (trial, leaky))
    assert one == other


def test_the_order_in_which_candidates_come_moves_no_metric(
    judged: Examples, catalogue: Catalogue
) -> None:
    trial = trial_of(judged, catalogue, SHOWN, [])
    assert trial.displayed is not None
    turned = Trial(
        examples=judged,
        catalogue=catalogue,
        history=trial.history,
        starts_ms=toy.T0,
        displayed=trial.displayed.reverse(),
    )
    alike = [
        by_list(displayed.gains(lists, np.zeros(len(lists.item_C))))
        for lists in map(lists_of, (trial, turned))
    ]
    assert alike[0] == alike[1]


def test_what_judges_the_first_of_all_candidates_is_refused_there(
    judged: Examples, catalogue: Catalogue, model: Mgdspr
) -> None:
    trial = trial_of(judged, catalogue, SHOWN, [])
    vectors = encode_items(model, catalogue)
    labels = Labels({"milk": {"i0": True}})
    funnel = Funnel(min_relevant=10, pre_ranker=None)
    for option, asked in (
        ("labels", {"labels": labels}),
        ("funnel", {"funnel": funnel}),
        ("relevance", {"by_model": object()}),
    ):
        with pytest.raises(InputError, match=f"{option}.*what searches displayed is ranked"):
            judge(trial, model, vectors, week="test", name="toy", **asked)


# What people see -------------------------------------------------------------------------------


@pytest.fixture
def metrics(judged: Examples, catalogue: Catalogue, model: Mgdspr) -> list[Metric]:
    trial = trial_of(judged, catalogue, SHOWN, BEFORE)
    return judge(trial, model, encode_items(model, catalogue), week="test", name="toy")


def test_the_table_has_the_metrics_of_lists(metrics: list[Metric]) -> None:
    rows = table(first_rows(metrics))
    assert [each["method"] for each in rows] == ["toy", "most popular", "bm25"]
    assert list(rows[0]) == ["rows", "lines", "method", "mrr", "P@1", "NDCG@10"]


def test_evaluate_shows_lists_and_has_no_recall_to_draw(
    metrics: list[Metric], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy.save(tmp_path / "bundles")
    monkeypatch.setenv("PAGODA_HOME", str(tmp_path))
    monkeypatch.setattr(evaluate, "judge_bundle", lambda *_, **__: metrics)
    runner = CliRunner(env={"COLUMNS": "160"})
    for options in ([], ["--all"]):
        said = runner.invoke(evaluate.app, options)
        assert said.exit_code == 0, said.output
        assert "P@1" in said.stdout
        assert "R@10 " not in said.stdout
    found = json.loads(runner.invoke(evaluate.app, ["--json"]).stdout)["metrics"]
    assert {each["rows"] for each in found} == {DISPLAYED}
    manifest = tmp_path / "bundles" / "toy" / "bundle.json"
    told = json.loads(manifest.read_text())
    told["dataset"]["split"] = "displayed"
    manifest.write_text(json.dumps(told))
    drawn = runner.invoke(evaluate.app, ["--plot", str(tmp_path / "recall.svg")])
    assert isinstance(drawn.exception, InputError)
    assert "no recall to draw" in str(drawn.exception)
