"""Runs of a reproduction on a made-up shop: real training, real judging, small models."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import orjson
import polars as pl
import pytest
import torch

from pagoda.ids import key_of
from pagoda.models.catalogue import Catalogue
from pagoda.models.inputs import UserBatch
from pagoda.models.mgdspr import QUERY_ROWS
from pagoda.models.tables import Sizes
from pagoda.windows import DAY_MS
from tests.oracles import metrics as oracle
from tests.training import toy
from tests.training.card import CARD, Card
from tests.training.small import MGDSPR, built
from training import loop
from training.data.batches import Examples
from training.evaluation.trial import Trial
from training.reproduce import findings, record, report, runs, tables
from training.reproduce.attention import attended, related
from training.reproduce.charts import pareto
from training.reproduce.cli import claimed, planned, write_report
from training.reproduce.ground import Ground, by_category, by_truth
from training.reproduce.plan import SMALL, Part
from training.reproduce.record import Facts
from training.reproduce.report import share, signed
from training.reproduce.runs import Run
from training.reproduce.variants import (
    BASE,
    BASELINE,
    HINGE,
    LONGER,
    SOFTMAX,
    TAUS,
    VARIANTS,
)
from training.vectors import encode_items, encode_lines

CPU = torch.device("cpu")
PARTS = tuple(
    replace(part, variants={name: part.variants[name] for name in part.variants if name in asked})
    for part, asked in (
        (SMALL.parts[0], {BASE.name, BASELINE, SOFTMAX, HINGE, *TAUS.values()}),
        (replace(SMALL.parts[1], name="noise 0", noise=0.0), {BASE.name, SOFTMAX}),
        (SMALL.parts[1], {BASE.name, SOFTMAX}),
    )
)


@pytest.fixture(scope="module")
def ground(examples: Examples, catalogue: Catalogue, sizes: Sizes) -> Ground:
    """The shop's baskets, to train on and to judge: nobody is judged by it, it only has to run."""
    events = [(f"u{n % 12}", f"i{n * 7 % 50}", toy.T0 - DAY_MS - n) for n in range(120)]
    past = [
        {"user_key": key_of("user", user), "item_key": key_of("item", item), "t_ms": t_ms}
        for user, item, t_ms in events
    ]
    trial = Trial(
        examples=examples,
        catalogue=catalogue,
        history=pl.DataFrame(past),
        starts_ms=toy.T0,
    )
    return Ground(
        facts=Facts(
            data_set="toy",
            queries="made up (synthetic)",
            trained_on="all",
            judged_on="all",
            candidates=len(trial.candidates),
        ),
        train=examples,
        trial=trial,
        sizes=sizes,
        wanted=by_category(trial),
    )


def _only(part: Part, *variants: str) -> Part:
    return replace(part, variants={name: VARIANTS[name] for name in variants})


def _nothing(run: Run, share: float) -> None:
    pass


@pytest.fixture(scope="module")
def reproduced(ground: Ground, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small reproduction, whole but for its Spark."""
    folder = Path(tmp_path_factory.mktemp("reproduced"))
    meant_B = np.arange(ground.trial.examples.lines) % 4 > 0
    simulated = replace(ground.wanted, measure="P_good", meant_B=meant_B)
    for part in PARTS:
        place = folder / "runs" / part.name / "toy"
        of_part = ground if part.noise is None else replace(ground, wanted=simulated)
        record.write(place / record.GROUND, of_part.record())
        runs.do(runs.runs_of(part, place, 2), ground, advance=_nothing, device=CPU)
    return folder


def test_a_run_is_judged_as_looking_at_every_score_would(
    ground: Ground, examples: Examples, catalogue: Catalogue, tmp_path: Path
) -> None:
    """The model is trained again; last bits may move a rank by one."""
    part = _only(PARTS[0], SOFTMAX)
    (run,) = runs.runs_of(part, tmp_path, 1)
    found = runs.once(run, ground, lambda _: None, device=CPU)
    torch.manual_seed(0)
    model = run.recipe.model.build(ground.sizes)
    losses = loop.train(model, examples, catalogue, run.recipe.loop)
    assert found.losses == [(at, pytest.approx(loss)) for at, loss in enumerate(losses, 1)]
    assert found.recalls[-1][0] == len(losses)
    items_ND = encode_items(model, catalogue)[ground.trial.candidates - 1]
    leaf = catalogue.attributes["leaf"]
    for lines, user_BD in encode_lines(model, examples, catalogue):
        for line, scores in zip(lines.tolist(), user_BD.numpy() @ items_ND.T, strict=True):
            order = oracle.ranking(scores.tolist())
            target = int(ground.trial.targets[line])
            rank = order.index(target) if target >= 0 else -1
            assert abs(found.ranks[line] - rank) <= (target >= 0)
            shelves = [leaf[ground.trial.candidates[column]] for column in order]
            wanted = leaf[examples.item_B[line]]
            assert abs(found.good[10][line] - shelves[:10].count(wanted)) <= 1
            assert found.good[50][line] == shelves.count(wanted)


def test_a_run_on_a_card_is_judged_as_on_the_processor(ground: Ground, tmp_path: Path) -> None:
    (run,) = runs.runs_of(_only(PARTS[0], BASE.name), tmp_path, 1)
    expected = runs.once(run, ground, lambda _: None, device=CPU)
    with Card():
        found = runs.once(run, ground, lambda _: None, device=CARD)
    assert (found.device, expected.device) == (str(CARD), "cpu")
    assert np.array(found.losses) == pytest.approx(np.array(expected.losses), rel=1e-3)
    assert np.abs(np.subtract(found.ranks, expected.ranks)).mean() < 0.5
    for one, other in zip(found.zero, expected.zero, strict=True):
        assert one == other.model_copy(update={"share": pytest.approx(other.share, abs=1e-3)})


def test_a_reproduction_that_was_stopped_repeats_nothing(ground: Ground, tmp_path: Path) -> None:
    part = _only(PARTS[0], BASELINE, SOFTMAX, HINGE)
    wanted = runs.runs_of(part, tmp_path, 1)

    def stop(run: Run, share: float) -> None:
        if run.variant == SOFTMAX:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        runs.do(wanted, ground, advance=stop, device=CPU)
    assert [each.variant for each in wanted if each.done] == [BASELINE]
    kept = wanted[0].path.stat().st_ino
    began: list[str] = []
    missing = [each for each in runs.runs_of(part, tmp_path, 1) if not each.done]
    runs.do(missing, ground, advance=lambda run, _: began.append(run.variant), device=CPU)
    assert list(dict.fromkeys(began)) == [SOFTMAX, HINGE]
    assert wanted[0].path.stat().st_ino == kept
    assert all(each.done for each in wanted)
    assert not list(tmp_path.rglob(".draft*"))


def test_the_same_seed_gives_the_same_run_and_another_seed_another(
    ground: Ground, reproduced: Path, tmp_path: Path
) -> None:
    place = reproduced / "runs" / PARTS[2].name / "toy"
    kept = record.read_runs(run.path for run in runs.runs_of(PARTS[2], place, 2))
    (again,) = runs.runs_of(_only(PARTS[2], SOFTMAX), tmp_path, 1)
    found = runs.once(again, ground, lambda _: None, device=CPU)
    one, other = (run for run in kept if run.variant == SOFTMAX)
    assert found.model_dump(exclude={"seconds"}) == one.model_dump(exclude={"seconds"})
    assert other.ranks != one.ranks


@pytest.mark.parametrize("zero_vector", [True, False])
def test_attention_is_what_the_forward_pass_attends_with(
    sizes: Sizes, batch: UserBatch, zero_vector: bool
) -> None:
    model = built(replace(MGDSPR, zero_vector=zero_vector), sizes)
    kept: list[torch.Tensor] = []
    model.fusion.register_forward_pre_hook(lambda _, given: kept.append(given[0]))
    with torch.no_grad():
        model.encode_user(batch)
        found = attended(model, batch)
    rows = len(QUERY_ROWS)
    for place, each in enumerate(found.values(), 1):
        h_BQD = kept[0][:, place * rows : (place + 1) * rows]
        form = "bqt,btd->bqd" if each.memory.dim() == 3 else "bqva,bvad->bqd"
        torch.testing.assert_close(torch.einsum(form, each.weight, each.memory), h_BQD)
        empty_B = ~each.held.mask_UT.any(1)[batch.request_B]
        assert (each.zero[empty_B] == 1).all()
        # Without a zero vector all weight is on events.
        assert zero_vector or (each.zero[~empty_B].abs() < 1e-5).all()


def test_related_events_are_of_the_wanted_leaf(
    batch: UserBatch, sizes: Sizes, ground: Ground, examples: Examples, catalogue: Catalogue
) -> None:
    wanted_B, leaf = ground.wanted.leaf_B, catalogue.attributes["leaf"]
    with torch.no_grad():
        found = attended(built(MGDSPR, sizes), batch)
    behaviour = examples.behaviour
    held = {
        "real-time": [behaviour.real_time],
        "short-term": [behaviour.short_term],
        "long-term": list(behaviour.long_term.values()),
    }
    for name, each in found.items():
        expected = [
            any(leaf[item] == wanted for rows in held[name] for item in rows[request])
            for request, wanted in zip(examples.request_B, wanted_B, strict=True)
        ]
        assert related(each.held, torch.from_numpy(wanted_B), batch).tolist() == expected
        assert any(expected)


def test_simulated_lines_want_the_shelf_that_the_truth_knows(
    ground: Ground, examples: Examples, catalogue: Catalogue
) -> None:
    """The first line wanted tea and was meant; the last one's shelf nobody knows."""
    lines = [
        {
            "user_key": int(examples.user_key_U[request]),
            "t_ms": int(examples.t_ms_U[request]),
            "query": examples.queries[line],
            "leaf_category": leaf,
            "meant": [int(catalogue.keys[examples.item_B[line] - 1])] if meant else [7],
        }
        for line, leaf, meant in ((0, "tea", True), (examples.lines - 1, None, False))
        for request in (examples.request_B[line],)
    ]
    found = by_truth(ground.trial, pl.DataFrame(lines))
    tea = catalogue.table["leaf_category"].to_pylist().index("tea")
    assert found.leaf_B[0] == catalogue.attributes["leaf"][tea + 1] > 0
    assert found.leaf_B[-1] == 0
    assert found.meant_B is not None
    assert found.meant_B[0]
    assert not found.meant_B[-1]
    assert (found.measure, len(found.leaf_B)) == ("P_good", examples.lines)


def test_the_report_says_what_was_run_and_loads_nothing(reproduced: Path) -> None:
    told = report.contents(findings.read_all(reproduced / "runs", PARTS, 2))
    path, _ = write_report(reproduced, told, size="small", seeds=2)
    page = path.read_text()
    assert not re.search(r"""(src|href)\s*=|url\(|@import|https?://""", page)
    assert page.count("<svg") == page.count("</svg>") >= 5
    assert "its figures mean nothing" in page
    assert re.search(r"2\d % of the judged clicks are mistakes", page)
    assert all(name in page for part in PARTS for name in (part.name, *part.variants))
    of_part = findings.read(reproduced / "runs", PARTS[0], 2)
    assert of_part
    for name, value in of_part.values(of_part.runs, "recall@10").items():
        row = page[page.index(f'<th scope="row">{name}</th>') :]
        assert share(value.mean) in row[: row.index("</td>")]


def test_programs_get_the_figures_of_the_page(reproduced: Path) -> None:
    parts = findings.read_all(reproduced / "runs", PARTS, 2)
    contents = report.contents(parts)
    path, figures = write_report(reproduced, contents, size="small", seeds=2)
    page, told = path.read_text(), orjson.loads(figures.read_bytes())
    recalls = {
        each["variant"]: each
        for each in told["tables"]
        if (each["part"], each["metric"], each["rows"]) == (PARTS[0].name, "R@100", "all")
        and each["beside"] == BASE.name
    }
    recall_of = {
        name: [float(np.mean([0 <= rank < 100 for rank in run.ranks])) for run in of_variant]
        for name, of_variant in parts[0].runs.items()
    }
    assert {BASE.name, BASELINE, SOFTMAX} <= recalls.keys()
    for name, each in recalls.items():
        assert each["share"]["seeds"] == pytest.approx(recall_of[name])
        assert share(each["share"]["mean"]) in page
        if name != BASE.name:
            less = np.mean(recall_of[name]) - np.mean(recall_of[BASE.name])
            assert each["difference"]["mean"] == pytest.approx(less)
    assert [each["claim"]["says"] for each in told["claims"]] == [
        each["the paper says"] for each in claimed(contents)
    ]
    first = told["claims"][0]["answers"][PARTS[0].name]
    row = claimed(contents)[0]
    assert row[PARTS[0].name] == f"{signed(first['difference']['mean'])} {first['verdict']}"
    assert row[PARTS[1].name] == "–"  # it ran no α-DNN
    assert [*told["zero vector"]] == [part.name for part in PARTS]


def test_each_point_of_the_plot_is_a_variants_means(reproduced: Path) -> None:
    found = findings.read(reproduced / "runs", PARTS[0], 2)
    assert found
    drawn = re.findall(r"<title>τ varies τ=(\S+): (\S+), (\S+)</title>", str(pareto(found)))
    assert [float(tau) for tau, _, _ in drawn] == list(TAUS)
    for (_, x, y), name in zip(drawn, TAUS.values(), strict=True):
        of_variant = found.runs[name]
        good = [count / 100 for run in of_variant for count in run.good[100]]
        recall = [0 <= rank < 100 for run in of_variant for rank in run.ranks]
        assert float(x) == pytest.approx(np.mean(good), rel=1e-3)
        assert float(y) == pytest.approx(np.mean(recall), rel=1e-3)


def test_the_report_says_what_more_steps_make_of_tau(ground: Ground, tmp_path: Path) -> None:
    ends = (TAUS[min(TAUS)], TAUS[max(TAUS)])
    part = _only(PARTS[0], *ends, *LONGER)
    place = tmp_path / "runs" / part.name / "toy"
    record.write(place / record.GROUND, ground.record())
    runs.do(runs.runs_of(part, place, 1), ground, advance=_nothing, device=CPU)
    found = findings.read(tmp_path / "runs", part, 1)
    assert found

    def recall(variant: str) -> float:
        (run,) = found.runs[variant]
        return float(np.mean([0 <= rank < 100 for rank in run.ranks]))

    (_, one, more), (_, _, precise) = tables.longer(found)
    smallest, largest = LONGER
    assert one.mean == pytest.approx(recall(ends[1]) - recall(ends[0]))
    assert more.mean == pytest.approx(recall(largest) - recall(smallest))
    good = [np.mean(found.runs[name][0].good[100]) / 100 for name in (largest, smallest)]
    assert precise.mean == pytest.approx(good[0] - good[1], abs=1e-6)
    page = report.render(report.contents([found]), size="small", seeds=1)
    assert "Is τ a matter of steps?" not in page  # no claim was asked of these
    assert not tables.longer(replace(found, runs={ends[0]: found.runs[ends[0]]}))


def test_the_plan_says_what_is_done(reproduced: Path) -> None:
    part = _only(PARTS[2], *PARTS[2].variants, BASELINE)
    (said,) = planned(reproduced, (part,), 2)
    assert (said["runs"], said["done"]) == (6, 4)
    (nothing,) = planned(reproduced, (replace(part, name="other"),), 2)
    assert (nothing["runs"], nothing["done"]) == (6, 0)


def test_the_report_is_about_the_rows_that_were_used_last(ground: Ground, reproduced: Path) -> None:
    folder = reproduced / "runs"
    newer = folder / PARTS[1].name / "newer"
    record.write(newer / record.GROUND, ground.record())
    assert record.newest_ground(folder, PARTS[1].name) == newer
    assert findings.read(folder, PARTS[1], 2) is None
    (newer / record.GROUND).unlink()
    assert findings.read(folder, PARTS[1], 2)
