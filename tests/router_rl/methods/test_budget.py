"""A budget is met on rows no router was fitted to; an expert above the maximum cost is never chosen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from routing_methods import METHODS

from experts import InputError, OutcomeTable
from router_rl import Objective, check_router, compare, export, fit
from router_rl.methods.baselines.oracle import measure_oracle
from router_rl.methods.calibration import smallest_feasible
from router_rl.problems.routing.problem import RoutingProblem
from router_rl.problems.routing.router_measurement import RouterMeasurement, measure
from router_rl.reports.html_report import write_report
from router_rl.reports.markdown import markdown
from router_rl.routing import Hard, LinearScorer, Router, RouterError, load
from router_rl.studies.collapse import Reference
from router_rl.studies.trial import Trial

FAST = {"epochs": 15}


def on_test(router: Router, table: OutcomeTable, objective: Objective) -> RouterMeasurement:
    return measure(router, table.part("test"), objective, RoutingProblem(table, objective, Hard()).scale)


@pytest.mark.slow
@pytest.mark.parametrize("budget", [0.2, 0.4])
@pytest.mark.parametrize("method", ["exact_pg", "warm_exact_pg"])
def test_a_budget_is_met_on_test_rows(digits: OutcomeTable, method: str, budget: float) -> None:
    router = fit(method, RoutingProblem(digits, Objective(budget=budget)), hyperparameters=FAST)
    assert on_test(router, digits, Objective(budget=budget)).means()["compute"] <= 1.02 * budget


@pytest.mark.parametrize("method", ["exact_pg", "conditioned_pg", "softmax_gate", "ridge"])
def test_a_budget_that_binds_is_used(digits: OutcomeTable, method: str) -> None:
    """At .1 more compute helps: the specialists take .19 and the cheap network .04."""
    epochs = {"exact_pg": 15, "conditioned_pg": 10, "softmax_gate": 4}  # the gate is fitted many times
    few = {"epochs": epochs[method]} if method in epochs else None
    objective = Objective(budget=0.1)
    found = on_test(
        fit(method, RoutingProblem(digits, objective), hyperparameters=few), digits, objective
    ).means()
    assert 0.09 <= found["compute"] <= 0.102
    assert found["utility"] == pytest.approx(found["quality"])


@pytest.mark.slow
def test_more_budget_more_quality(digits: OutcomeTable) -> None:
    quality = [
        on_test(
            fit("exact_pg", RoutingProblem(digits, objective), hyperparameters=FAST), digits, objective
        ).means()["quality"]
        for objective in (Objective(budget=0.06), Objective(budget=0.2))
    ]
    assert quality == sorted(quality)
    assert quality[-1] > quality[0] + 0.03


def test_a_router_without_a_bias_is_searched(kinds: OutcomeTable) -> None:
    objective = Objective(budget=0.3)
    assert on_test(fit("knn", RoutingProblem(kinds, objective)), kinds, objective).means()["compute"] <= 0.306


def test_the_bounds_keep_the_budget_too(kinds: OutcomeTable) -> None:
    objective = Objective(budget=0.3)
    single = on_test(fit("best_single", RoutingProblem(kinds, objective)), kinds, objective).means()
    assert single["compute"] <= 0.3  # red or green: each is right on a quarter
    mixed = on_test(fit("zero_router", RoutingProblem(kinds, objective)), kinds, objective).means()
    assert mixed["compute"] == pytest.approx(0.3, abs=0.08)  # it draws
    assert mixed["quality"] > single["quality"]
    test = kinds.part("test")
    oracle = measure_oracle(test, objective, 10.0, [1]).means()
    assert 0.29 < oracle["compute"] <= 0.3
    assert oracle["quality"] > mixed["quality"] + 0.2


@pytest.mark.parametrize("method", ["ppo", "a2c", "dqn", "reinforce", "router_ppo"])
def test_who_cannot_says_who_can(kinds: OutcomeTable, method: str) -> None:
    with pytest.raises(
        InputError, match=r"objective.budget=0.3: .* use exact_pg, warm_exact_pg, conditioned"
    ):
        fit(method, RoutingProblem(kinds, Objective(budget=0.3)))


def test_what_cannot_be_met_is_said(kinds: OutcomeTable) -> None:
    with pytest.raises(InputError, match=r"objective.budget=0.05: cannot be met.*red, costs 0.1"):
        fit("ridge", RoutingProblem(kinds, Objective(budget=0.05)))
    with pytest.raises(InputError, match=r"load_weight=0.1: exact_pg does not support a budget"):
        fit("exact_pg", RoutingProblem(kinds, Objective(budget=0.3, load_weight=0.1)))
    with pytest.raises(InputError, match=r"objective.max_cost=0.05: .*red, costs 0.1"):
        fit("ridge", RoutingProblem(kinds, Objective(max_cost=0.05)))
    with pytest.raises(InputError, match="leaves 1 experts, a decision needs 2"):
        fit("ridge", RoutingProblem(kinds, Objective(max_cost=0.15), select="topk", k=2))
    for field in ("budget", "max_cost"):
        with pytest.raises(InputError, match=f"objective.{field}=0.0"):
            Objective(**{field: 0.0})  # type: ignore[arg-type]
    with pytest.raises(InputError, match="one budget at a time"):
        RoutingProblem(kinds, [Objective(budget=0.2), Objective(budget=0.4)])


@pytest.mark.usefixtures("few_rules")
def test_results_carry_the_budget(kinds: OutcomeTable) -> None:
    problem = RoutingProblem(kinds, Objective(budget=0.3))
    results = compare(problem, ["ridge", "exact_pg"], seeds=1, n_trials=1).results
    assert {row["budget"] for row in results["rows"]} == {0.3}
    met = {row["method"]: row["met"] for row in results["summary"]}
    assert met["oracle"]
    assert met["exact_pg"]
    assert not met["random"]
    assert any("budget of 0.3" in note for note in results["notes"])


LIMITED = Objective(max_cost=0.5)  # of red .1, green .2, blue .4 and grey 1


@pytest.mark.slow
@pytest.mark.parametrize("method", [name for name in METHODS if name != "conditioned_pg"])
def test_no_method_chooses_a_forbidden_expert(kinds: OutcomeTable, method: str) -> None:
    known = METHODS[method].hyperparameters.__dataclass_fields__
    short = {
        "decisions": 2048,
        "validate_every": 1024,
        "lanes": 32,
        "epochs": 2,
        "iterations": 2,
        "minibatch": 64,
    }
    router = fit(
        method, RoutingProblem(kinds, LIMITED), hyperparameters={k: v for k, v in short.items() if k in known}
    )
    found = measure(router, kinds, LIMITED, 10.0)
    assert found.share[:, 3].max() == 0.0
    assert found.share.sum() == pytest.approx(len(kinds))


def test_a_conditioned_router_forbids_at_every_weight(kinds: OutcomeTable) -> None:
    router = fit("conditioned_pg", RoutingProblem(kinds, LIMITED), hyperparameters={"epochs": 2})
    assert router.at(compute_weight=1e-3).allowed is not None
    assert measure(router.at(compute_weight=1e-3), kinds, LIMITED, 10.0).share[:, 3].max() == 0.0


def test_the_maximum_cost_outlives_an_export(kinds: OutcomeTable, tmp_path: Path) -> None:
    router = fit("ridge", RoutingProblem(kinds, LIMITED))
    check_router(router, torch.tensor(kinds.features))
    for format in ("safetensors", "pt2"):
        assert export(router, tmp_path / format, format=format, rows=kinds).passed
    kept = load(tmp_path / "safetensors")
    grey = torch.zeros(1, 4)
    grey[0, 3] = 100.0
    assert int(kept(grey).experts) != 3
    alone = kept(grey, action_mask=torch.tensor([False, False, False, True]))  # nobody who may is left
    assert alone.fallback.all()
    assert int(alone.experts) == kept.fallback != 3
    with pytest.raises(RouterError, match="allow the fallback"):
        Router(LinearScorer(4, 2), Hard(), ("a", "b"), allowed=(False, True))


def test_the_oracle_keeps_to_the_maximum_cost(kinds: OutcomeTable) -> None:
    found = measure_oracle(kinds, LIMITED, 10.0, [1], np.array([True, True, True, False]))
    assert found.share[:, 3].max() == 0.0


def test_bisection_finds_the_edge() -> None:
    assert smallest_feasible(lambda x: x >= 0.25, -1.0, 1.0) == pytest.approx(0.25, abs=1e-6)
    assert smallest_feasible(lambda x: False, 0.0, 1.0) == 1.0


def test_learners_score_no_forbidden_expert(kinds: OutcomeTable) -> None:
    """The unguarded scores, too: else a policy would be paid for choices it can never make."""
    router = RoutingProblem(kinds, LIMITED, Hard()).new_router(0)
    features = torch.tensor(kinds.features)
    scores = router.scores(features)
    assert scores[:, 3].max() == -2e4
    assert scores.equal(router.logits(features)[0])


def test_trials_without_budget_and_maximum_cost_are_named_without_them(kinds: OutcomeTable) -> None:
    (hyperparameters,) = METHODS["ridge"].candidates(1)

    def objective(**values: float) -> dict[str, float]:
        problem = RoutingProblem(kinds, Objective(**values))  # type: ignore[arg-type]
        trial = Trial(method="ridge", hyperparameters=hyperparameters, case=problem.case, seed=0)
        (case,) = trial.identity(problem, "")["cases"]
        return case["objective"]

    assert objective() == {"compute_weight": 0.1, "load_weight": 0.0, "window": 256}
    assert objective(max_cost=0.5) == {**objective(), "max_cost": 0.5}
    assert objective(budget=0.5) == {**objective(), "budget": 0.5}


@pytest.mark.slow
@pytest.mark.usefixtures("few_rules")
def test_a_budget_under_bandit_feedback(kinds: OutcomeTable, tmp_path: Path) -> None:
    objective = Objective(budget=0.4)
    problem = RoutingProblem(kinds, objective, feedback="bandit")
    results = compare(problem, ["exact_pg", "ridge"], seeds=1, n_trials=1).results
    met = {row["method"]: row["met"] for row in results["summary"]}
    assert met["exact_pg"]
    assert met["ridge"]
    assert results["verdict"][0].startswith("Budget 0.4: ")
    assert "\nUse " in markdown(results, "kinds")
    assert "Budget 0.4" in markdown(results, "kinds")
    write_report(results, tmp_path / "report.html")
    assert "Budget 0.4" in (tmp_path / "report.html").read_text("utf-8")


def test_collapse_is_judged_within_the_budget_and_the_maximum_cost(kinds: OutcomeTable) -> None:
    """Grey is always right but too expensive: it is neither the reference nor part of the oracle."""
    for objective in (Objective(budget=0.3), Objective(compute_weight=0.0, max_cost=0.5)):
        problem = RoutingProblem(kinds, objective)
        reference = Reference.of(problem, problem.case)
        assert reference.single not in (None, "grey")
        assert reference.gain > 0.2
    assert reference.oracle_shares[3] == 0.0
