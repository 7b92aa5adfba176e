"""Cascade and caching through the one engine: compare, train, parallel jobs, resumption, and changed data."""

from __future__ import annotations

import json
import shutil
from functools import partial

import numpy as np
import pytest
from environment_tables import made_cascade, topics

from experts import OutcomeTable
from router_rl import Objective, compare
from router_rl.problems.caching.problem import CachingProblem
from router_rl.problems.cascade.problem import CascadeProblem
from router_rl.studies.runs import read_run, train_run

FEW_STEPS = {"steps": 8, "members": 1, "hidden": 8}


def cascade(table=None):
    weights = [Objective(compute_weight=weight) for weight in (0.05, 0.2)]
    return CascadeProblem(made_cascade(rows=100) if table is None else table, weights, max_experts=2)


def caching(table=None):
    table = topics() if table is None else table
    return CachingProblem(table, wait_weight=3.0, episodes=4, window=16, resident_shares=(0.5, 1.0))


PROBLEMS = {
    "cascade": (cascade, ["thresholds", "lookahead", "softmax_gate"]),
    "caching": (caching, ["lfu", "pinned"]),
}


def summary_of(study):
    return {(row["method"], row["case"]): row for row in study.summary}


def numbers_of(study):
    """Rows of a study without seconds, which differ."""
    return [
        {name: value for name, value in row.items() if name not in ("fit_seconds", "router")}
        for row in study.results["rows"]
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", PROBLEMS)
def test_a_comparison_gives_the_same_in_parallel_and_resumes(name, tmp_path, request):
    make, methods = PROBLEMS[name]
    problem = make()
    study = compare(problem, methods, seeds=2, n_trials=1, out=tmp_path / "one")
    summary = summary_of(study)
    wanted = {*methods, *problem.always}
    assert {method for method, _ in summary} == wanted
    assert len(study.results["rows"]) == len(wanted) * 2 * 2 * 2  # methods, cases, seeds, splits
    assert json.loads((tmp_path / "one" / "results.json").read_text())["rows"] == study.results["rows"]

    assert (tmp_path / "one" / "report.html").exists()

    request.getfixturevalue("no_report")
    parallel = compare(make(), methods, seeds=2, n_trials=1, jobs=2, out=tmp_path / "two")
    assert numbers_of(parallel) == numbers_of(study)

    trials = tmp_path / "one" / "trials"
    kept = sorted(trials.iterdir())
    shutil.rmtree(next(folder for folder in kept if folder.name.startswith(methods[0])))
    again = compare(make(), methods, seeds=2, n_trials=1, out=tmp_path / "one")
    assert again.reused == len(kept) - 1
    assert sorted(trials.iterdir()) == kept
    assert numbers_of(again) == numbers_of(study)


@pytest.mark.slow
@pytest.mark.usefixtures("no_report")
@pytest.mark.parametrize("name", PROBLEMS)
def test_other_data_under_the_same_path_are_other_trials(name, tmp_path):
    """Version 1 keyed its trials by the path, and returned the results of the old data."""
    make, methods = PROBLEMS[name]
    path = tmp_path / "table.parquet"
    tables = {"cascade": partial(made_cascade, rows=100), "caching": topics}[name]
    tables().write(path)
    before = compare(make(OutcomeTable.read(path)), methods[:1], seeds=1, n_trials=1, out=tmp_path / "out")
    path.unlink()
    tables(seed=11).write(path)
    after = compare(make(OutcomeTable.read(path)), methods[:1], seeds=1, n_trials=1, out=tmp_path / "out")
    assert before.results["problem"]["source"] == after.results["problem"]["source"]
    assert after.reused == 0
    fresh = compare(make(OutcomeTable.read(path)), methods[:1], seeds=1, n_trials=1)
    assert numbers_of(after) == numbers_of(fresh)
    assert numbers_of(after) != numbers_of(before)


@pytest.mark.slow
def test_a_cascade_is_judged_by_the_oracle_and_the_thresholds(tmp_path):
    study = compare(cascade(), ["thresholds", "lookahead"], seeds=1, n_trials=1, out=tmp_path)
    for (method, case), row in summary_of(study).items():
        bound = summary_of(study)["oracle", case]
        assert row["utility_mean"] <= bound["utility_mean"] + 1e-9
        if method != "thresholds":
            assert row["paired_difference_to_rival"]["method"] == "thresholds"
        assert 1.0 <= row["asked_mean"] <= 2.0
    assert "one fit per seed serves all cases" in " ".join(study.results["notes"])
    forms = {figure["form"] for figure in study.results["figures"]}
    assert forms == {"cascade_tree"}
    assert study.recommendation


def test_a_trained_cascade_policy_is_read_again_and_earns_the_same(tmp_path):
    problem = cascade()
    run = train_run(problem, "exact_pg", tmp_path, hyperparameters=FEW_STEPS)
    assert [case["label"] for case in run.facts["cases"]] == [case.label for case in problem.cases]
    policy = read_run(tmp_path).policy
    assert policy.limit == 2
    for case, kept in zip(problem.cases, run.facts["cases"], strict=True):
        assert problem.evaluate(policy, "test", case).means() == pytest.approx(kept["test"], abs=1e-6)


def test_a_trained_router_of_the_query_is_a_router(tmp_path):
    problem = cascade()
    run = train_run(problem, "softmax_gate", tmp_path, hyperparameters={"epochs": 2})
    case = problem.cases[0]
    assert run.facts["cases"][0]["label"] == case.label
    found = problem.evaluate(run.router, "test", case)
    assert found.means()["utility"] == pytest.approx(run.facts["test"]["utility"], abs=1e-6)


def test_a_trained_caching_policy_is_read_again_and_earns_the_same(tmp_path):
    problem = caching()
    few = {"population": 4, "elite": 2, "generations": 4, "streams": 2}
    run = train_run(problem, "cross_entropy", tmp_path, hyperparameters=few)
    case = problem.cases[0]
    assert run.facts["cases"][0]["label"] == case.label
    policy = read_run(tmp_path).policy
    assert problem.evaluate(policy, "test", case).means()["utility"] == pytest.approx(
        run.facts["test"]["utility"], abs=1e-6
    )
    np.testing.assert_allclose(sum(run.facts["test"]["shares"]), 1.0, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["router_ppo", "reinforce"])
@pytest.mark.parametrize("name", PROBLEMS)
def test_a_policy_trained_in_the_environment_is_read_again_and_earns_the_same(name, method, tmp_path):
    problem = PROBLEMS[name][0]()
    few = {"decisions": 128, "lanes": 8, "steps": 4, "hidden": 8}
    run = train_run(problem, method, tmp_path, hyperparameters=few)
    policy = read_run(tmp_path).policy
    assert policy.kind == "network"
    cases = problem.cases if name == "cascade" else problem.cases[:1]
    assert [case["label"] for case in run.facts["cases"]] == [case.label for case in cases]
    for case, kept in zip(cases, run.facts["cases"], strict=True):
        earned = problem.evaluate(policy, "test", case).means()["utility"]
        assert earned == pytest.approx(kept["test"]["utility"], abs=1e-6)
