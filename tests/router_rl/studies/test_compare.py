"""A comparison: its schema, its arithmetic, its fairness, and that nothing finished is done twice."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy_methods
from routing_methods import METHODS

from experts import InputError, OutcomeTable
from router_rl import Objective, RoutingProblem, compare
from router_rl.problems.data_digest import table_digest
from router_rl.routing import RouterError, load, load_router
from router_rl.studies import trial_fit as trials
from router_rl.studies.trial import Trial

OBJECTIVES = [Objective(compute_weight=weight) for weight in (0.05, 0.5)]
METHOD_NAMES = ["softmax_gate", "ridge"]


def run(table: OutcomeTable, out: Path | None = None, **options: Any) -> dict[str, Any]:
    problem = RoutingProblem(table, OBJECTIVES)
    return compare(problem, METHOD_NAMES, **{"seeds": 2, "n_trials": 2, "out": out, **options}).results


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("compare")


@pytest.fixture(scope="module")
def results(kinds: OutcomeTable, folder: Path) -> dict[str, Any]:
    return run(kinds, folder)


def fitted(results: dict[str, Any], name: str) -> list[Any]:
    """Return a field of the methods' lines, which do not depend on the rules beside them."""
    return [(row["method"], row[name]) for row in results["summary"] if row["method"] in METHOD_NAMES]


def test_the_schema(results: dict[str, Any], folder: Path) -> None:
    assert results["schema_version"] == 2
    assert results["problem"]["options"]["feedback"] == "full"
    assert json.loads((folder / "results.json").read_text()) == results
    assert (folder / "report.html").exists()
    assert list((folder / "tensorboard").glob("softmax_gate/c=0.05/seed=0/trial=1/events*"))
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
    expected = {*METHOD_NAMES, *RoutingProblem.always}
    assert {"knn", "kernel", "cluster", "guarded_knn", "ridge", "boosted_trees", "group_label"} < expected
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
        assert line["extra_inputs"] == (["group"] if line["method"] == "group_label" else [])


def test_the_verdict_names_who_validation_selects(kinds: OutcomeTable, results: dict[str, Any]) -> None:
    assert results["rl_verdicts"] == []  # no RL
    found = compare(
        RoutingProblem(kinds, OBJECTIVES[0]), ["exact_pg", *METHOD_NAMES], seeds=1, n_trials=1
    ).results
    (verdict,) = found["rl_verdicts"]
    rows = {row["method"]: row for row in found["summary"]}
    others = [
        row for row in found["summary"] if row["family"] in ("gate", "baseline") and not row["extra_inputs"]
    ]
    assert verdict["rl"] == "exact_pg"
    assert verdict["rival"] == max(others, key=lambda row: row["validation_utility_mean"])["method"]
    assert verdict["ci95"] == rows["exact_pg"]["paired_difference_to_best_rival"]["ci95"]
    assert rows["exact_pg"]["full_information"]
    assert not rows["softmax_gate"]["full_information"]


def test_rl_that_makes_the_decisions_of_a_gate_is_reported_as_the_gate() -> None:
    with toy_methods.installed():
        problem = RoutingProblem(toy_methods.disagreeing_table(), Objective(compute_weight=0.1))
        names = ["toy_gate_one", "toy_gate_two", "toy_warm"]
        found = compare(problem, names, seeds=2, n_trials=2).results
    rows = {row["method"]: row for row in found["summary"]}
    assert rows["toy_warm"]["same_as"] == "toy_gate_one"
    assert rows["toy_gate_one"]["same_as"] is None
    (verdict,) = found["rl_verdicts"]
    assert (verdict["rl"], verdict["outcome"]) == ("toy_warm", "same policy")
    assert found["recommendation"]["method"] != "toy_warm"
    assert found["verdict"][0].endswith("makes the decisions of toy_gate_one.")


def test_the_group_s_router_is_known_to_see_it(kinds: OutcomeTable) -> None:
    found = compare(RoutingProblem(kinds, OBJECTIVES[0]), ["group_label"], seeds=1, n_trials=1).results
    assert {line["method"] for line in found["summary"] if line["extra_inputs"]} == {"group_label"}


def test_the_oracle_is_on_top_and_the_difference_to_the_gate_adds_up(results: dict[str, Any]) -> None:
    for weight in (0.05, 0.5):
        lines = {s["method"]: s for s in results["summary"] if s["compute_weight"] == weight}
        highest = max(line["utility_mean"] for line in lines.values())
        assert lines["oracle"]["utility_mean"] == pytest.approx(highest)
        assert lines["softmax_gate"]["paired_difference_to_best_gate"] is None
        found = lines["ridge"]["paired_difference_to_best_gate"]
        assert found["method"] == "softmax_gate"
        expected = lines["ridge"]["utility_mean"] - lines["softmax_gate"]["utility_mean"]
        assert found["mean"] == pytest.approx(expected, abs=1e-6)


def test_its_routers_can_be_loaded(results: dict[str, Any], folder: Path) -> None:
    kept = [row["router"] for row in results["rows"] if row["router"] is not None]
    assert load(folder / kept[0] / ".." / "router").experts == ("red", "green", "blue", "grey")


@pytest.mark.slow
def test_the_second_run_fits_nothing(
    kinds: OutcomeTable, results: dict[str, Any], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trials, "fit_method", lambda *_: pytest.fail("something was fitted again"))
    study = compare(RoutingProblem(kinds, OBJECTIVES), METHOD_NAMES, seeds=2, n_trials=2, out=folder)
    assert study.results["summary"] == results["summary"]
    assert study.reused == 2 * 12 * 2  # cases, methods, seeds: the trials whose results are kept
    assert study.recommendation.startswith("Use ")


@pytest.mark.slow
@pytest.mark.usefixtures("few_rules")
def test_an_interrupted_comparison_resumes(
    kinds: OutcomeTable, results: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fits = 0
    fit_method = trials.fit_method

    def stop(finished: int, total: int, what: str) -> None:
        if finished == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(kinds, tmp_path, progress=stop)
    assert not (tmp_path / "results.json").exists()

    def count(*arguments: Any) -> Any:
        nonlocal fits
        fits += 1
        return fit_method(*arguments)

    monkeypatch.setattr(trials, "fit_method", count)
    again = run(kinds, tmp_path)
    total = 2 * (2 * 2 + 2 * 1) + 2 * 4  # two methods with a search space, two without
    assert fits == total - 6
    assert len(fitted(again, "utility_ci95")) == 2 * 2
    assert fitted(again, "utility_ci95") == fitted(results, "utility_ci95")


@pytest.mark.usefixtures("few_rules")
def test_other_data_under_the_same_path_are_fitted_again(kinds: OutcomeTable, tmp_path: Path) -> None:
    changed = replace(kinds, quality=1.0 - kinds.quality)
    before, after = (
        compare(RoutingProblem(table, OBJECTIVES[0]), ["ridge"], seeds=1, n_trials=1, out=tmp_path)
        for table in (kinds, changed)
    )
    assert after.reused == 0
    assert fitted(before.results, "utility_mean") != fitted(after.results, "utility_mean")


@pytest.mark.usefixtures("few_rules")
def test_a_table_of_prompts_is_compared(kinds: OutcomeTable) -> None:
    prompts = np.array([f"query {row % 7} {row}" for row in range(len(kinds))], dtype=object)
    table = replace(kinds, features=None, prompt=prompts)
    study = compare(RoutingProblem(table, OBJECTIVES[0]), ["ridge"], seeds=1, n_trials=1)
    assert {row["method"] for row in study.summary} >= {"ridge", "best_single"}


@pytest.mark.slow
@pytest.mark.usefixtures("few_rules")
def test_processes_change_nothing(kinds: OutcomeTable, results: dict[str, Any]) -> None:
    parallel = run(kinds, jobs=2)
    assert len(fitted(parallel, "utility_mean")) == 2 * 2
    assert fitted(parallel, "utility_mean") == fitted(results, "utility_mean")


def test_other_seeds_and_data_are_other_trials(kinds: OutcomeTable) -> None:
    problem = RoutingProblem(kinds, OBJECTIVES[0])
    hyperparameters = METHODS["ridge"].hyperparameters()
    one, other = (
        Trial(method="ridge", hyperparameters=hyperparameters, case=problem.case, seed=seed)
        for seed in (0, 1)
    )
    assert one.identity(problem, "a") != other.identity(problem, "a")
    assert one.identity(problem, "a") != one.identity(problem, "b")


def test_other_groups_and_prompts_are_another_table(kinds: OutcomeTable) -> None:
    changes = [{}, {"group": None}, {"group": kinds.query_id}, {"prompt": kinds.query_id}]
    assert len({table_digest(replace(kinds, **change)) for change in changes}) == len(changes)


def test_options_are_part_of_the_digest(kinds: OutcomeTable) -> None:
    problems = [
        RoutingProblem(kinds, OBJECTIVES[0]),
        RoutingProblem(kinds, OBJECTIVES[0], "topk"),
        RoutingProblem(kinds, OBJECTIVES[0], feedback="bandit"),
        RoutingProblem(kinds, OBJECTIVES[0], observe_load=True),
    ]
    assert len({problem.digest() for problem in problems}) == len(problems)


@pytest.mark.usefixtures("few_rules")
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
    results = run(pair, seeds=1, n_trials=1)
    found = results["frontier"]
    assert found["ridge"]["apgr"] > 0.6
    assert any("of the cost saved" in line or "no significant saving" in line for line in results["verdict"])
    assert found["random"]["apgr"] is None  # it scores all queries alike


@pytest.mark.slow
@pytest.mark.usefixtures("few_rules")
def test_with_load_and_two_experts_a_query(
    kinds: OutcomeTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit_method = trials.fit_method

    def few(method: Any, problem: Any, hyperparameters: Any, run: Any) -> Any:
        if method.name == "a2c":
            hyperparameters = replace(hyperparameters, decisions=4_096)
        return fit_method(method, problem, hyperparameters, run)

    monkeypatch.setattr(trials, "fit_method", few)
    problem = RoutingProblem(kinds, Objective(compute_weight=0.05, load_weight=0.1, window=32), "topk")
    found = compare(problem, ["a2c", "softmax_gate"], seeds=1, n_trials=1, out=tmp_path).results
    assert found["cases"][0]["values"]["load_weight"] == 0.1
    assert found["problem"]["options"]["select"] == "topk"
    assert "load weight 0.1" in found["verdict"][0]
    a2c = next(row for row in found["rows"] if row["method"] == "a2c" and row["split"] == "test")
    assert load_router(tmp_path / a2c["router"]).state[0].name == "load"


@pytest.mark.parametrize("name", ["seeds", "n_trials", "jobs"])
def test_bad_counts(kinds: OutcomeTable, name: str) -> None:
    options = {"seeds": 1, "n_trials": 1, name: 0}
    with pytest.raises(InputError, match=f"{name}=0"):
        compare(RoutingProblem(kinds, OBJECTIVES), ["ridge"], **options)


def test_bad_problems_and_names(kinds: OutcomeTable) -> None:
    with pytest.raises(RouterError, match=r"TopK\.k=9 exceeds 4 experts"):
        RoutingProblem(kinds, OBJECTIVES, "topk", k=9)
    with pytest.raises(InputError, match="objective"):
        RoutingProblem(kinds, [])
    with pytest.raises(InputError, match="did you mean 'feedback'"):
        RoutingProblem(kinds, OBJECTIVES, fedback="bandit")
    with pytest.raises(InputError, match="did you mean 'ridge'"):
        compare(RoutingProblem(kinds, OBJECTIVES), ["rigde"])
