"""A comparison: its schema, its arithmetic, its fairness, and that nothing finished is done twice."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experts import InputError, OutcomeTable
from router_rl import METHODS, Objective, compare
from router_rl.routing import RouterError, load
from router_rl.studies import trial as cells

OBJECTIVES = [Objective(compute_weight=weight) for weight in (0.05, 0.5)]
METHOD_NAMES = ["softmax_gate", "ridge"]


def run(table: OutcomeTable, out: Path | None = None, **options: Any) -> dict[str, Any]:
    return compare(
        table, METHOD_NAMES, objectives=OBJECTIVES, **{"seeds": 2, "tries": 2, "out": out, **options}
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("compare")


@pytest.fixture(scope="module")
def results(kinds: OutcomeTable, folder: Path) -> dict[str, Any]:
    return run(kinds, folder)


def test_the_schema(results: dict[str, Any], folder: Path) -> None:
    assert results["schema_version"] == 1
    assert results["feedback"] == "full"
    assert json.loads((folder / "results.json").read_text()) == results
    assert (folder / "report.html").exists()
    assert list((folder / "tensorboard").glob("softmax_gate-*/events*"))
    row = results["rows"][0]
    for name, kind in {
        "method": str,
        "family": str,
        "compute_weight": float,
        "load_weight": float,
        "seed": int,
        "split": str,
        "quality": float,
        "cost": float,
        "compute": float,
        "load_cv": float,
        "max_over_mean": float,
        "drops": float,
        "utility": float,
        "fit_seconds": float,
        "collapsed": bool,
    }.items():
        assert isinstance(row[name], kind), name
    summary = results["summary"][0]
    assert {"method", "compute_weight", "utility_mean", "utility_ci95"} <= set(summary)
    assert set(results["frontier"]) >= {*METHOD_NAMES, "oracle"}
    assert results["frontier"]["ridge"]["apgr"] is None  # four experts
    zero = results["frontier"]["zero_router"]  # known between the weights too
    assert zero["aiq_above_zero"] == {"value": 0.0, "ci95": [0.0, 0.0]}


def test_every_method_weight_and_seed_is_there(results: dict[str, Any]) -> None:
    expected = {*METHOD_NAMES, "random", "best_single", "zero_router", "oracle"}
    rows = [row for row in results["rows"] if row["split"] == "test"]
    assert {row["method"] for row in rows} == expected
    assert len(rows) == len(expected) * 2 * 2
    assert {row["family"] for row in rows if row["method"] == "oracle"} == {"bound"}


def test_the_arithmetic_of_a_row(results: dict[str, Any]) -> None:
    unit = results["table_facts"]["compute_unit"]
    for row in results["rows"]:
        assert row["utility"] == pytest.approx(
            row["quality"] - row["compute_weight"] * row["compute"], abs=1e-5
        )
        assert row["cost"] == pytest.approx(row["compute"] * unit)


def test_the_summary_is_the_mean_of_its_rows(results: dict[str, Any]) -> None:
    for line in results["summary"]:
        rows = [
            row["utility"]
            for row in results["rows"]
            if row["split"] == "test"
            and (row["method"], row["compute_weight"]) == (line["method"], line["compute_weight"])
        ]
        assert line["utility_mean"] == pytest.approx(np.mean(rows), abs=1e-6)
        low, high = line["utility_ci95"]
        assert low <= line["utility_mean"] <= high


def test_two_seeds_have_no_quarter_to_leave_out(results: dict[str, Any]) -> None:
    for line in results["summary"]:
        assert (line["utility_iqm"], line["utility_iqm_ci95"]) == (line["utility_mean"], line["utility_ci95"])
        assert line["sees"] == []


def test_the_goal_names_who_validation_picks(kinds: OutcomeTable, results: dict[str, Any]) -> None:
    assert results["goal"] == []  # no RL
    found = compare(kinds, ["exact_pg", *METHOD_NAMES], objectives=OBJECTIVES[:1], seeds=1, tries=1)
    (goal,) = found["goal"]
    line = next(line for line in found["summary"] if line["method"] == "exact_pg")
    assert (goal["rl"], goal["gate"]) == ("exact_pg", "softmax_gate")
    assert goal["ci95"] == line["paired_difference_to_best_gate"]["ci95"]


def test_the_group_s_router_is_known_to_see_it(kinds: OutcomeTable) -> None:
    found = compare(kinds, ["group_label"], objectives=OBJECTIVES[:1], seeds=1, tries=1)
    assert {line["method"] for line in found["summary"] if line["sees"]} == {"group_label"}


def test_the_oracle_is_on_top_and_the_difference_to_the_gate_adds_up(results: dict[str, Any]) -> None:
    for weight in (0.05, 0.5):
        lines = {s["method"]: s for s in results["summary"] if s["compute_weight"] == weight}
        highest = max(line["utility_mean"] for line in lines.values())
        assert lines["oracle"]["utility_mean"] == pytest.approx(highest)
        assert lines["softmax_gate"]["paired_difference_to_best_gate"] is None
        found = lines["ridge"]["paired_difference_to_best_gate"]
        assert found["gate"] == "softmax_gate"
        expected = lines["ridge"]["utility_mean"] - lines["softmax_gate"]["utility_mean"]
        assert found["mean"] == pytest.approx(expected, abs=1e-6)


def test_its_routers_can_be_loaded(results: dict[str, Any], folder: Path) -> None:
    kept = [row["router"] for row in results["rows"] if row["router"] is not None]
    assert load(folder / kept[0] / ".." / "router").experts == ("red", "green", "blue", "grey")


def test_the_second_run_fits_nothing(
    kinds: OutcomeTable, results: dict[str, Any], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cells, "find_method", lambda name: pytest.fail(f"{name} was fitted again"))
    again = run(kinds, folder)
    assert again["summary"] == results["summary"]


def test_an_interrupted_comparison_goes_on(
    kinds: OutcomeTable, results: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = 0

    def stop(finished: int, total: int, what: str) -> None:
        if finished == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(kinds, tmp_path, progress=stop)
    assert not (tmp_path / "results.json").exists()
    find = cells.find_method

    def count(name: str) -> Any:
        nonlocal done
        done += 1
        return find(name)

    monkeypatch.setattr(cells, "find_method", count)
    again = run(kinds, tmp_path)
    total = 2 * (2 + 2 + 1 + 1 + 1) + 2 * 5
    assert done == total - 6
    for before, after in zip(results["summary"], again["summary"], strict=True):
        assert before["utility_ci95"] == after["utility_ci95"]


def test_processes_change_nothing(kinds: OutcomeTable, results: dict[str, Any], tmp_path: Path) -> None:
    parallel = run(kinds, tmp_path, jobs=2)
    for one, two in zip(results["summary"], parallel["summary"], strict=True):
        assert (one["method"], one["utility_mean"]) == (two["method"], two["utility_mean"])


def test_other_settings_are_other_fits(kinds: OutcomeTable, tmp_path: Path) -> None:
    cell = cells.Cell(method="ridge", settings=METHODS["ridge"].settings(), objective=OBJECTIVES[0], seed=0)
    other = cells.Cell(method="ridge", settings=METHODS["ridge"].settings(), objective=OBJECTIVES[0], seed=1)
    from router_rl.problems.routing.problem import Task
    from router_rl.routing import Hard

    task = Task.of(kinds, OBJECTIVES[0], Hard())
    assert cell.identity(task, "a") != other.identity(task, "a")
    assert cell.identity(task, "a") != cell.identity(task, "b")


def test_other_groups_are_another_table(kinds: OutcomeTable) -> None:
    digests = {
        cells.table_digest(replace(kinds, group=group)) for group in (None, kinds.group, kinds.query_id)
    }
    assert len(digests) == 3


def test_two_experts_have_an_apgr(kinds: OutcomeTable) -> None:
    fields = {name: getattr(kinds, name) for name in kinds.__dataclass_fields__}
    keep = [0, 3]
    pair = OutcomeTable(
        **{
            **fields,
            "experts": ("red", "grey"),
            "quality": kinds.quality[:, keep],
            "cost": kinds.cost[:, keep],
            "probabilities": kinds.probabilities[:, keep],
        }
    )
    results = run(pair)
    found = results["frontier"]
    assert found["ridge"]["apgr"] > 0.6
    assert any("of the cost saved" in line or "no sure saving" in line for line in results["verdict"])
    assert found["random"]["apgr"] is None  # it scores all queries alike


def test_with_load_and_two_experts_a_query(kinds: OutcomeTable, tmp_path: Path) -> None:
    objectives = [Objective(compute_weight=0.05, load_weight=0.1, window=32)]
    found = compare(
        kinds, ["a2c", "softmax_gate"], objectives=objectives, seeds=1, tries=1, select="topk", out=tmp_path
    )
    assert found["load_weight"] == 0.1
    assert found["select"] == "topk(k=2)"
    assert "load weight 0.1" in found["verdict"][0]
    a2c = next(row for row in found["rows"] if row["method"] == "a2c" and row["split"] == "test")
    assert load(tmp_path / a2c["router"]).state[0].name == "load"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seeds": 0}, "seeds=0"),
        ({"tries": 0}, "tries=0"),
        ({"select": "topk", "k": 9}, "TopK.k=9 exceeds 4 experts"),
        ({"objectives": []}, "objectives"),
    ],
)
def test_bad_options(kinds: OutcomeTable, options: dict[str, Any], message: str) -> None:
    with pytest.raises((InputError, RouterError), match=message):
        compare(kinds, ["ridge"], **{"objectives": OBJECTIVES, "seeds": 1, "tries": 1, **options})
    with pytest.raises(InputError, match="did you mean 'ridge'"):
        compare(kinds, ["rigde"], objectives=OBJECTIVES)
