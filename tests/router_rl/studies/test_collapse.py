"""Collapse: what counts as one, and each likely reason provoked."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experts import OutcomeTable
from router_rl import Objective, compare, fit
from router_rl.methods.training_loop import CurvePoint, Snapshot
from router_rl.problems.routing.problem import RoutingProblem
from router_rl.problems.routing.router_measurement import measure
from router_rl.routing import Hard, TopK
from router_rl.studies.collapse import Collapse, Facts, Reference, diagnose, live
from router_rl.studies.runs import train_run

REFERENCE = Reference(
    experts=("a", "b", "c"),
    runs=1,
    single="a",
    single_utility=0.7,
    single_train_utility=0.72,
    gain=0.2,
    oracle_shares=np.array([0.4, 0.3, 0.3]),
)
ALL_TO_A = np.array([1.0, 0.0, 0.0])


def curve(*points: tuple[float, float]) -> list[CurvePoint]:
    """Measurements 0, 1, ... of (utility, largest share)."""
    return [CurvePoint(i, utility, 0.0, share) for i, (utility, share) in enumerate(points)]


def facts(**changes: Any) -> Facts:
    """A router that is well, and then what is wrong with it."""
    well = Facts(
        method="exact_pg",
        hyperparameters={"entropy": 0.01},
        shares=np.array([0.5, 0.3, 0.2]),
        utility=0.8,
        train_utility=0.82,
        curve=curve((0.3, 0.5), (0.8, 0.5), (0.7, 0.5)),
    )
    return replace(well, **changes)


def reason(found: Collapse) -> str:
    assert len(found.reasons) == 1, found.reasons
    return found.reasons[0]


def test_a_router_that_is_well() -> None:
    found = diagnose(facts(), REFERENCE)
    assert (found.one_expert, found.below_best_single, found.problems, found.reasons) == (
        False,
        False,
        [],
        (),
    )
    assert found.regret_to_best_single == pytest.approx(-0.1)
    assert found.largest_share == 0.5
    assert found.entropy == pytest.approx(-(0.5 * np.log(0.5) + 0.3 * np.log(0.3) + 0.2 * np.log(0.2)))
    assert found.never_chosen == ()
    assert json.loads(json.dumps(found.to_json())) == found.to_json()


def test_one_expert_where_the_oracle_uses_several() -> None:
    found = diagnose(facts(shares=ALL_TO_A), REFERENCE)
    assert found.one_expert
    assert not found.below_best_single
    assert found.never_chosen == ("b", "c")
    assert found.problems == ["sends nearly all queries to one expert while the oracle uses several"]


def test_below_the_best_single_expert() -> None:
    found = diagnose(facts(utility=0.688, train_utility=0.69), REFERENCE)
    assert not found.one_expert
    assert found.problems == ["has a utility 0.0120 below the best single expert on validation"]
    assert not diagnose(facts(utility=0.7), REFERENCE).below_best_single  # as good is not below


def test_with_two_experts_a_decision_the_two_busiest_count_together() -> None:
    pair = replace(REFERENCE, runs=2, experts=tuple("abcd"), oracle_shares=np.full(4, 0.25))
    assert diagnose(facts(shares=np.array([0.5, 0.5, 0.0, 0.0])), pair).one_expert
    assert not diagnose(facts(shares=np.array([0.5, 0.3, 0.2, 0.0])), pair).one_expert


def test_one_expert_is_no_collapse_where_the_oracle_agrees() -> None:
    found = diagnose(facts(shares=ALL_TO_A), replace(REFERENCE, oracle_shares=np.array([0.96, 0.04, 0.0])))
    assert found.problems == []
    assert reason(found) == (
        "no collapse: under this objective the oracle, too, sends 96% of the queries to a"
    )


def test_overfitting() -> None:
    assert "overfitting: utility is 0.900" in reason(
        diagnose(facts(utility=0.69, train_utility=0.9), REFERENCE)
    )
    # The training rows may be easier for everybody.
    easier = replace(REFERENCE, single_train_utility=0.9)
    assert diagnose(facts(utility=0.69, train_utility=0.9), easier).reasons == ()


def test_nothing_to_route() -> None:
    found = diagnose(facts(utility=0.69, train_utility=0.69), replace(REFERENCE, gain=0.004))
    assert reason(found) == "nothing to route: the oracle is only 0.0040 above the best single expert, a"


def test_learning_that_stops_at_once() -> None:
    stuck = curve((0.5, 0.5), (0.4, 0.5), (0.5, 0.5))
    found = diagnose(facts(utility=0.5, train_utility=0.5, curve=stuck), REFERENCE)
    assert reason(found).startswith("learning stopped at once")
    for other in ([], curve((0.5, 0.5)), stuck[1:]):  # not measured, or not from the start
        assert diagnose(facts(utility=0.5, train_utility=0.5, curve=other), REFERENCE).reasons == ()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"balance": 0.001, "entropy": 0.1}, "auxiliary load loss (balance=0.001) is too small"),
        ({"entropy": 0.01}, "entropy bonus (entropy=0.01) is too small"),
        ({}, "nothing keeps the others in use"),
    ],
)
def test_an_early_collapse(settings: dict[str, float], said: str) -> None:
    early = curve((0.3, 0.4), (0.5, 0.8), (0.7, 1.0), *[(0.7, 1.0)] * 10)
    found = diagnose(facts(shares=ALL_TO_A, hyperparameters=settings, curve=early), REFERENCE)
    assert reason(found).startswith("early collapse: one expert gets all queries from step 2 of 12 on")
    assert said in reason(found)


@pytest.mark.parametrize(("before", "early"), [(2, True), (3, False)])
def test_a_collapse_is_early_within_a_quarter_of_the_validations(before: int, early: bool) -> None:
    """Of eleven validations, numbered from 0, the third is the last early one."""
    points = curve((0.3, 0.4), *[(0.7, 0.5)] * before, *[(0.7, 1.0)] * (11 - before))
    reasons = diagnose(facts(shares=ALL_TO_A, curve=points), REFERENCE).reasons
    assert any(each.startswith("early collapse") for each in reasons) is early


def test_a_late_or_passing_collapse_is_not_early() -> None:
    for shares in ([0.5] * 8 + [1.0] * 3, [1.0] * 3 + [0.6] * 6 + [1.0] * 2):
        late = curve((0.3, 0.4), *[(0.7, share) for share in shares])
        assert diagnose(facts(shares=ALL_TO_A, curve=late), REFERENCE).reasons == ()


def trained(table: OutcomeTable, method: str, folder: Path, weight: float, **settings: Any) -> dict[str, Any]:
    task = RoutingProblem(table, Objective(compute_weight=weight), Hard())
    return train_run(task, method, folder, hyperparameters=settings).facts["collapse"]


def test_the_renormalised_gate_gets_no_gradient(kinds: OutcomeTable, tmp_path: Path) -> None:
    found = trained(kinds, "mixtral_gate", tmp_path, 0.05, balance=0.0, weight_decay=0.0, epochs=5)
    assert found["below_best_single"]
    assert [reason.partition(":")[0] for reason in found["reasons"]] == [
        "no gradient",
        "learning stopped at once",
    ]
    task = RoutingProblem(kinds, Objective(compute_weight=0.05), TopK(k=2))
    two = train_run(task, "mixtral_gate", tmp_path / "two", hyperparameters={"epochs": 5}).facts["collapse"]
    assert not any("no gradient" in reason for reason in two["reasons"])


def test_a_switch_gate_without_balance_collapses_early(kinds: OutcomeTable, tmp_path: Path) -> None:
    settings = {"balance": 0.0, "jitter": 0.0, "learning_rate": 3e-3, "weight_decay": 0.1}
    found = trained(noisy(kinds, 4), "switch_gate", tmp_path, 0.0, **settings, epochs=20)
    assert found["one_expert"]
    assert found["never_chosen"] == ["red", "green", "blue"]
    assert any("auxiliary load loss (balance=0)" in reason for reason in found["reasons"])


def test_a_high_compute_weight_is_no_collapse(kinds: OutcomeTable, tmp_path: Path) -> None:
    found = trained(kinds, "exact_pg", tmp_path, 12.0, learning_rate=0.03, entropy=0.0, epochs=40)
    assert found["problems"] == []
    assert found["largest_share"] == 1.0
    assert found["reasons"] == [
        "no collapse: under this objective the oracle, too, sends 100% of the queries to red"
    ]


def test_a_wide_scorer_overfits_noise(kinds: OutcomeTable, tmp_path: Path) -> None:
    settings = {"learning_rate": 0.03, "weight_decay": 0.0, "batch": 16, "epochs": 10}
    found = trained(noisy(kinds, 60), "straight_through_gate", tmp_path, 0.0, **settings)
    assert found["below_best_single"]
    assert [reason.partition(":")[0] for reason in found["reasons"]] == ["overfitting"]


def noisy(table: OutcomeTable, features: int) -> OutcomeTable:
    """The table with features that tell nothing."""
    noise = np.random.default_rng(0).normal(size=(len(table), features))
    return replace(table, features=noise.astype(np.float32))


def test_twins_are_nothing_to_route(kinds: OutcomeTable) -> None:
    twins = replace(kinds, quality=np.repeat(kinds.quality[:, 3:], 4, axis=1), probabilities=None, label=None)
    task = RoutingProblem(twins, Objective(compute_weight=0.001), Hard())
    reference = Reference.of(task, task.case)
    assert reference.single == "red"  # as good as the others, and cheapest
    assert reference.gain == pytest.approx(0.0, abs=1e-6)


def test_the_reference_is_chosen_on_the_training_rows(kinds: OutcomeTable) -> None:
    objective = Objective(compute_weight=0.0)
    assert kinds.split is not None
    quality = kinds.quality.copy()
    quality[kinds.split == "validation"] = np.eye(4, dtype=np.float32)[0]  # red, and red alone
    task = RoutingProblem(replace(kinds, quality=quality, probabilities=None, label=None), objective, Hard())
    reference = Reference.of(task, task.case)
    assert reference.single == "grey"
    assert reference.single_utility == 0.0
    assert reference.gain == 1.0


def test_it_is_said_while_training(kinds: OutcomeTable) -> None:
    task = RoutingProblem(kinds, Objective(compute_weight=0.0), Hard())
    reference = Reference.of(task, task.case, "validation")
    router = fit("best_single", task)
    result = measure(router, task.validation, task.objective, task.scale)
    best = result.means()["utility"]
    snapshot = Snapshot(step=1, total=9, validation=result, best=best)
    assert live(snapshot, reference) == "collapsed: all to grey"
    assert live(replace(snapshot, step=0), reference) == ""
    spread = measure(task.new_router(0), task.validation, task.objective, task.scale)
    below = replace(snapshot, validation=spread, best=0.1)
    assert live(below, reference) == f"below the best single expert ({best:.4f})"
    assert live(replace(below, best=0.99), reference) == ""


@pytest.mark.usefixtures("few_rules")
def test_a_comparison_says_so(kinds: OutcomeTable) -> None:
    problem = RoutingProblem(kinds, [Objective(compute_weight=weight) for weight in (0.02, 0.1)])
    found = compare(problem, ["mixtral_gate", "ridge"], seeds=1, n_trials=1).results
    rows = {row["method"]: row for row in found["rows"]}
    assert rows["mixtral_gate"]["collapse"]["problems"]
    for method in ("ridge", "best_single", "random", "oracle"):  # not judged
        assert rows[method]["collapse"] is None
        assert rows[method]["collapsed"] is False
    lines = [line for line in found["summary"] if line["method"] == "mixtral_gate"]
    assert sum(line["below_best_single"] for line in lines) > 0
    (warning,) = found["warnings"]
    assert warning.startswith("mixtral_gate is below the best single expert on validation at compute")
    assert "Likely: no gradient: renormalised" in warning
