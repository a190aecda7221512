"""What a reproduction consists of, and how it draws conclusions: variants, lines, differences."""

from __future__ import annotations

import re
import statistics
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.simulate.tables import IMPRESSIONS
from pagoda.bundle import as_json
from pagoda.errors import InputError
from pagoda.ids import key_of
from pagoda.models.mgdspr import QUERY_ROWS, MgdsprConfig
from pagoda.schemas import SEARCHES
from pagoda.settings import Settings
from tests.conftest import Home
from tests.training import shop as shops
from training.data.lines import Span
from training.evaluation.intervals import intervals
from training.recipes import seeded
from training.reproduce import homes, record
from training.reproduce.claims import CLAIMS, answer, verdict
from training.reproduce.findings import Found, Value
from training.reproduce.ground import drawn, latest, truth
from training.reproduce.plan import FULL, SIZES, SMALL, chosen
from training.reproduce.plots import Point, Series, chart
from training.reproduce.record import Facts, GroundRecord, RunRecord
from training.reproduce.variants import (
    ALPHAS,
    BASE,
    BASELINE,
    CORRECTED,
    CORRECTED_ALPHAS,
    HINGE,
    PLAIN,
    PLAIN_BASELINE,
    TAUS,
    VARIANTS,
    fingerprint,
)

# Variants ------------------------------------------------------------------------------------

_NO = {
    "mgs": {"model.mgs": False},
    "trm": {"model.fusion": "mean"},
    "tau": {"loop.temperature": 1.0},
    "i_mix": {"loop.mix": None},
}
_BARE = {key: value for each in _NO.values() for key, value in each.items()}
DIFFERENCES: Mapping[str, Mapping[str, Any]] = {
    "mgdspr": {},
    **{f"without {name}": fields for name, fields in _NO.items()},
    "bare": _BARE,
    **{
        f"bare + {name}": {key: value for key, value in _BARE.items() if key not in fields}
        for name, fields in _NO.items()
    },
    "hinge": {"loop.mix": None, "loop.loss": "hinge"},
    **{f"without row {row}": {"model.drop_rows": [row]} for row in QUERY_ROWS},
    "without zero vector": {"model.zero_vector": False},
    "scaled attention": {"model.scaled_attention": True},
    "id alone": {"model.item_side": False},
    "CLS sees the others only": {"model.fusion": "others"},
    "concat and DNN": {"model.fusion": "concat"},
    "LSTM over titles": {"model.title": "lstm"},
    "transformer over titles": {"model.title": "transformer"},
    "with user statistics": {"model.stats": True},
    "without log q": {"loop.log_q": "off"},
    "negatives of the pool": {
        "loop.log_q": "off",
        "loop.negatives.batch": False,
        "loop.negatives.uniform": 2048,
    },
    "without i_mix and log q": {"loop.mix": None, "loop.log_q": "off"},
    "of the pool, without tau": {
        "loop.temperature": 1.0,
        "loop.log_q": "off",
        "loop.negatives.batch": False,
        "loop.negatives.uniform": 2048,
    },
    "of the pool, without i_mix": {
        "loop.mix": None,
        "loop.log_q": "off",
        "loop.negatives.batch": False,
        "loop.negatives.uniform": 2048,
    },
    "of each line, without i_mix": {
        "loop.mix": None,
        "loop.log_q": "off",
        "loop.negatives.batch": False,
        "loop.negatives.each": 16,
    },
    "negatives of batch and pool": {"loop.negatives.uniform": 1024},
    "negatives of batch and memory": {
        "loop.negatives.memory": 4,
        "loop.negatives.memory_after": 100,
    },
    **{f"tau {tau:g}": {"loop.temperature": tau} for tau in (0.5, 4.0, 8.0)},
    "alpha 0": {"loop.mix.low": 0.0, "loop.mix.high": 0.0},
    "alpha 0.1–0.3": {"loop.mix.low": 0.1, "loop.mix.high": 0.3},
    "alpha 0.7–0.9": {"loop.mix.low": 0.7, "loop.mix.high": 0.9},
    "alpha 0, corrected": {
        "loop.mix.low": 0.0,
        "loop.mix.high": 0.0,
        "loop.mix.corrected": True,
    },
    "alpha 0.4–0.6, corrected": {"loop.mix.corrected": True},
    "alpha 0.7–0.9, corrected": {
        "loop.mix.low": 0.7,
        "loop.mix.high": 0.9,
        "loop.mix.corrected": True,
    },
    "tau 0.5, 4 epochs": {"loop.temperature": 0.5, "loop.epochs": 4},
    "tau 8, 4 epochs": {"loop.temperature": 8.0, "loop.epochs": 4},
}


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, each in value.items():
        if isinstance(each, Mapping):
            found |= _flat(each, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = each
    return found


@pytest.mark.parametrize("name", [name for name in VARIANTS if BASELINE not in name])
def test_a_variant_differs_from_the_base_in_what_its_name_says_and_nothing_else(name: str) -> None:
    base, of = _flat(as_json(BASE)), _flat(as_json(VARIANTS[name]))
    found = {key: of.get(key) for key in base.keys() | of.keys() if of.get(key) != base.get(key)}
    expected = dict(DIFFERENCES[name])
    if expected.get("loop.mix", BASE) is None:  # a part that is not there has no fields either
        expected |= {f"loop.mix.{field}": None for field in as_json(BASE)["loop"]["mix"]}
    found.pop("loop.mix", None), expected.pop("loop.mix", None)
    assert found == expected


def test_the_baseline_differs_in_its_model_alone() -> None:
    assert replace(VARIANTS[BASELINE], model=BASE.model) == BASE
    assert replace(VARIANTS[PLAIN_BASELINE], model=BASE.model) == VARIANTS[PLAIN]
    for name in (BASELINE, PLAIN_BASELINE):
        assert not isinstance(VARIANTS[name].model, MgdsprConfig)


def test_the_base_is_the_papers_form() -> None:
    loop = BASE.loop
    assert BASE.model == MgdsprConfig()
    assert (loop.temperature, loop.loss) == (2.0, "softmax")
    assert loop.mix is not None
    assert (loop.mix.low, loop.mix.high, loop.mix.most) == (0.4, 0.6, 684)


def test_sweeps_name_the_variants_with_those_values() -> None:
    assert all(VARIANTS[name].loop.temperature == tau for tau, name in TAUS.items())
    for label, name in ALPHAS.items():
        mix = VARIANTS[name].loop.mix
        assert (label == "none") == (mix is None)
    for label, name in [*ALPHAS.items(), *CORRECTED_ALPHAS.items()]:
        if mix := VARIANTS[name].loop.mix:
            assert label == "–".join(dict.fromkeys((f"{mix.low:g}", f"{mix.high:g}")))
            assert mix.corrected == (name in CORRECTED)


def test_every_run_has_a_file_of_its_own(tmp_path: Path) -> None:
    paths = {
        record.path(tmp_path, name, seeded(recipe, seed))
        for name, recipe in VARIANTS.items()
        for seed in range(3)
    }
    assert len(paths) == 3 * len(VARIANTS)
    assert len({fingerprint(recipe) for recipe in VARIANTS.values()}) == len(VARIANTS)


@pytest.mark.parametrize("size", SIZES)
def test_every_claim_can_be_answered_and_ablations_are_never_judged_on_the_test_week(
    size: str,
) -> None:
    parts = {part.name: part for part in SIZES[size].parts}
    asked = {name for claim in CLAIMS for name in claim.pair}
    for part in parts.values():
        assert part.name == "final" or asked <= {*part.variants}
        assert (part.week == "test") == (part.name == "final")
        assert all(part.recipe(name).train_days == part.train_days for name in part.variants)


def test_parts_are_chosen_by_name_and_a_wrong_name_is_told() -> None:
    def names(*only: str) -> list[str]:
        return [part.name for part in chosen(FULL, only)]

    assert names() == [part.name for part in FULL.parts]
    assert names("final", "noise") == ["noise 0", "noise 0.1", "noise 0.4", "final"]
    assert names("noise 0.1") == ["noise 0.1"]
    with pytest.raises(InputError, match="fianl") as told:
        chosen(FULL, ["ablations", "fianl"])
    assert "ablations" in str(told.value)


# Lines ---------------------------------------------------------------------------------------


@given(sizes=st.lists(st.integers(1, 5), min_size=1, max_size=12), most=st.integers(1, 40))
def test_the_latest_lines_are_whole_requests_and_drawn_ones_too(
    sizes: list[int], most: int
) -> None:
    frame = pl.DataFrame(
        [
            {"user_key": at % 3, "t_ms": at, "item_key": item}
            for at, size in enumerate(sizes)
            for item in range(size)
        ]
    )
    room, kept = most, set()
    for at in reversed(range(len(sizes))):
        room -= sizes[at]
        if room < 0:
            break
        kept.add(at)
    found = latest(frame, most)
    assert found.rows() == [row for row in frame.rows() if row[1] in kept]
    some = drawn(frame, most)
    assert len(some) <= most
    assert all(some.filter(pl.col("t_ms") == at).height == sizes[at] for at in set(some["t_ms"]))
    assert some.rows() == drawn(frame, most).rows()
    assert drawn(frame, sum(sizes)).rows() == frame.rows()


def test_the_truth_says_the_wanted_shelf_and_which_clicks_were_meant(
    home: Home, tmp_path: Path
) -> None:
    """s1 wanted tea, clicked i1 for it and i7 by mistake; s2 was shown nothing that it wanted."""
    made = home("truth")
    at = datetime(2026, 3, 1, 10, tzinfo=UTC)
    lines = [shops.line("u1", at, 1, 1), shops.line("u2", at, 2, 2)]
    searches = [
        each["search"] | {"search_id": search}
        for each, search in zip(lines, ("s1", "s2"), strict=True)
    ]
    shops.write(made, SEARCHES, searches)
    shown = [
        ("s1", "u1", "i1", 0, 2, True, "relevance"),
        ("s1", "u1", "i7", 1, 1, True, "noise"),
        ("s1", "u1", "i0", 2, 0, True, None),
        ("s2", "u2", "i0", 0, 0, True, "noise"),
    ]
    columns = [pa.array(each) for each in zip(*shown, strict=True)]
    impressions = pa.table(columns, names=IMPRESSIONS.names).cast(IMPRESSIONS)
    (tmp_path / "truth" / "impressions").mkdir(parents=True)
    pq.write_table(impressions, tmp_path / "truth" / "impressions" / "day.parquet")
    items = {"item_id": ["i0", "i1", "i7"], "leaf_category": ["milk", "tea", "tea"]}
    pq.write_table(pa.table(items), tmp_path / "items.parquet")
    found = {row["user_key"]: row for row in truth(made, tmp_path).to_dicts()}
    wanted = {key: (row["leaf_category"], row["meant"]) for key, row in found.items()}
    assert wanted == {
        key_of("user", "u1"): ("tea", [key_of("item", "i1")]),
        key_of("user", "u2"): (None, []),
    }
    assert found[key_of("user", "u1")]["query"] == "tea"
    assert found[key_of("user", "u1")]["t_ms"] == at.timestamp() * 1000


def test_days_without_features_are_all_days_that_the_parts_need(shop: Settings) -> None:
    ablations, _, final = SMALL.parts
    assert homes.lacking(shop, [ablations]) == Span(
        first=shops.TEST.replace(day=1, month=9).replace(day=15), end=shops.TEST
    )
    assert homes.lacking(shop, [ablations, final]) == Span(
        first=shops.FIRST.replace(day=8), end=shops.LAST.replace(day=13)
    )


# Conclusions ---------------------------------------------------------------------------------


def _found(ranks: Mapping[str, list[list[int]]], good: Mapping[str, list[list[int]]]) -> Found:
    """Made-up runs over six lines of three users; line 5 has no known shelf."""
    runs = {
        name: [
            RunRecord(
                variant=name,
                seed=seed,
                recipe={},
                train_lines=1,
                steps=1,
                seconds={},
                losses=[],
                recalls=[],
                ranks=of_seed,
                good={100: good[name][seed]},
                zero=[],
                empty={},
            )
            for seed, of_seed in enumerate(of_variant)
        ]
        for name, of_variant in ranks.items()
    }
    ground = GroundRecord(
        facts=Facts(data_set="", queries="", trained_on="", judged_on="", candidates=1),
        relevance="P_good",
        user=[0, 0, 1, 1, 2, 2],
        sets={"all": [1] * 6, "some": [1, 0, 1, 0, 1, 0]},
        shelved=[1, 1, 1, 1, 1, 0],
        baselines={"popular": [0, -1, 5, 200, 9, 10]},
        ceiling={},
    )
    return Found(part=SMALL.parts[0], ground=ground, runs=runs)


_RANKS = st.lists(st.lists(st.integers(-1, 150), min_size=6, max_size=6), min_size=1, max_size=3)


@given(one=_RANKS, other=_RANKS, good=st.lists(st.integers(0, 100), min_size=6, max_size=6))
def test_means_and_differences_are_those_of_plain_loops(
    one: list[list[int]], other: list[list[int]], good: list[int]
) -> None:
    found = _found(
        {"one": one, "other": other},
        {"one": [good] * len(one), "other": [good[::-1]] * len(other)},
    )

    def recall(ranks: list[int], lines: tuple[int, ...]) -> float:
        return statistics.fmean(0 <= ranks[line] < 10 for line in lines)

    for rows, lines in (("all", (0, 1, 2, 3, 4, 5)), ("some", (0, 2, 4))):
        told = found.values(["one", "other", "popular"], "recall@10", rows)
        by_seed = {"one": [recall(each, lines) for each in one]}
        by_seed["other"] = [recall(each, lines) for each in other]
        by_seed["popular"] = [recall(found.ground.baselines["popular"], lines)]
        for name, seeds in by_seed.items():
            assert told[name].seeds == pytest.approx(seeds)
            assert told[name].mean == pytest.approx(statistics.fmean(seeds))
        difference = found.differences({"d": ("one", "other")}, "recall@10", rows)["d"]
        paired = [a - b for a, b in zip(by_seed["one"], by_seed["other"], strict=False)]
        assert difference.seeds == pytest.approx(paired)
        gains = [
            statistics.fmean(
                (0 <= a[line] < 10) - (0 <= b[line] < 10) for a, b in zip(one, other, strict=False)
            )
            for line in lines
        ]
        users = np.array(found.ground.user)[list(lines)]
        expected = intervals(np.array(gains)[:, None], users)
        assert expected is not None
        assert difference.interval == pytest.approx(tuple(expected[0]))
    shelved = found.values(["one"], "good@100")["one"]
    assert shelved.mean == pytest.approx(statistics.fmean(good[:5]) / 100)


@pytest.mark.parametrize(
    ("seeds", "interval", "direction"),
    [
        ((0.1, 0.2), (0.05, 0.3), "up"),
        ((-0.1, -0.2), (-0.3, -0.05), "down"),
        ((0.1, -0.01), (0.02, 0.3), "within noise"),
        ((0.1, 0.2), (-0.01, 0.3), "within noise"),
        ((0.1, 0.2), None, "within noise"),
        ((0.1,), (0.05, 0.3), "within noise"),
    ],
)
def test_a_difference_is_found_if_all_seeds_and_the_interval_say_so(
    seeds: tuple[float, ...], interval: tuple[float, float] | None, direction: str
) -> None:
    value = Value(mean=statistics.fmean(seeds), seeds=seeds, interval=interval)
    assert value.direction == direction
    assert verdict("up", value.direction) == {
        "up": "agrees", "down": "says otherwise", "within noise": "within noise",
    }[direction]  # fmt: skip


@pytest.mark.parametrize(
    ("relevance", "told"), [("P_good", "agrees"), ("category precision", None)]
)
def test_only_labels_of_relevance_say_whether_results_are_relevant(
    relevance: str, told: str | None
) -> None:
    pair = (BASE.name, BASELINE)
    made = _found(
        dict(zip(pair, ([[0] * 6] * 2, [[-1] * 6] * 2), strict=True)),
        dict(zip(pair, ([[90] * 6] * 2, [[10] * 6] * 2), strict=True)),
    )
    found = replace(made, ground=made.ground.model_copy(update={"relevance": relevance}))
    recall, relevant = (answer(found, claim) for claim in CLAIMS if claim.pair == pair)
    assert recall
    assert relevant
    assert (recall.verdict, relevant.verdict) == ("agrees", told)
    assert relevant.difference.mean == pytest.approx(0.8)


def test_the_hinge_is_compared_with_a_softmax_without_mixed_negatives() -> None:
    (claim,) = (each for each in CLAIMS if HINGE in each.pair)
    softmax = VARIANTS[claim.pair[0]]
    assert replace(softmax.loop, loss="hinge") == VARIANTS[HINGE].loop


# Plots ---------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=8, unique=True))
def test_no_label_is_written_over_another_and_all_are_within_the_plot(
    places: list[tuple[float, float]],
) -> None:
    corners = [Point(x=0.0, y=0.0), Point(x=1.0, y=1.0)]
    points = [Point(x=x, y=y, label=f"α={at}.25") for at, (x, y) in enumerate(places)]
    drawn = chart([Series(name="α", points=[*points, *corners])], title="", x="", y="")
    found = re.findall(r'<text class="label" x="([-.\d]+)" y="([-.\d]+)"[^>]*>(α=\d)', drawn)
    assert len(found) == len(places)
    written = [(float(left), float(base)) for left, base, _ in found]
    for one, other in combinations(written, 2):
        assert abs(one[0] - other[0]) >= 30 or abs(one[1] - other[1]) >= 11
    for left, base in written:
        assert 0 <= left <= 420
        assert 0 <= base <= 260
