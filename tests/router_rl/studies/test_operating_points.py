"""Operating points: 41 of a policy fitted for all compute weights, those of the fits of any other method."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from experts import OutcomeTable
from router_rl import Objective, RoutingProblem
from router_rl.exports.save_policy import save_policy
from router_rl.methods.agents.conditioned_pg import ConditionedPGHyperparameters
from router_rl.problems.measure import Measurement
from router_rl.problems.problem import Case
from router_rl.routing import Router, StateInput
from router_rl.routing.scorers.conditioned_scorer import ConditionedScorer
from router_rl.studies.entry import Entry
from router_rl.studies.frontier import Points, aiq_differences, frontier_facts
from router_rl.studies.operating_points import SWEPT, own_points

WEIGHTS = (0.05, 0.4)
RANGE = (0.02, 1.0)


@pytest.fixture(scope="module")
def problem(kinds: OutcomeTable) -> RoutingProblem:
    return RoutingProblem(kinds, [Objective(compute_weight=weight) for weight in WEIGHTS])


def conditioned(problem: RoutingProblem, seed: int) -> Router:
    """A router whose choices depend on the compute weight."""
    torch.manual_seed(seed)
    features = problem.table.features
    assert features is not None
    scorer = ConditionedScorer(features.shape[1] + 1, 4, (8,), [RANGE])
    for parameter in scorer.parameters():
        torch.nn.init.normal_(parameter)
    return problem.wrap(scorer, (StateInput("compute_weight", 1, "the compute weight"),)).eval()


def entry(method: str, case: Case, seed: int, test: Measurement, router: Path | None) -> Entry:
    return Entry(
        method=method,
        family="rl",
        case=case,
        seed=seed,
        hyperparameters=ConditionedPGHyperparameters(),
        validation={"utility": 0.0},
        test=test,
        seconds=0.0,
        router=router,
    )


def entries_of(method: str, problem: RoutingProblem, folder: Path) -> tuple[list[list[Entry]], list[Router]]:
    """Entries of two seeds in both cases, and the routers behind them."""
    routers = [conditioned(problem, seed) for seed in (0, 1)]
    for seed, router in enumerate(routers):
        save_policy(router, folder / str(seed))
    groups = [
        [
            entry(method, case, seed, problem.evaluate(router, "test", case), folder / str(seed))
            for seed, router in enumerate(routers)
        ]
        for case in problem.cases
    ]
    return groups, routers


def by_hand(
    routers: Sequence[Router], problem: RoutingProblem, weights: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Cost and quality [T, P], row by row and weight by weight."""
    test = problem.table.part("test")
    assert test.features is not None
    cost, quality = np.zeros((2, len(test), len(weights)))
    for router in routers:
        for at, weight in enumerate(weights):
            fixed = router.at(compute_weight=float(weight))
            for row in range(len(test)):
                expert = int(fixed(torch.tensor(test.features[row : row + 1])).experts[0, 0])
                cost[row, at] += test.cost[row, expert] / len(routers)
                quality[row, at] += test.quality[row, expert] / len(routers)
    return cost, quality


@pytest.mark.slow
def test_a_policy_for_all_weights_is_swept_over_its_own_range(
    problem: RoutingProblem, tmp_path: Path
) -> None:
    groups, routers = entries_of("conditioned_pg", problem, tmp_path)
    points = own_points(groups, problem, problem.scale)
    cost, quality = by_hand(routers, problem, np.geomspace(*RANGE, SWEPT))
    assert points.cost.shape == (len(cost), 41)
    np.testing.assert_allclose(points.cost, cost, rtol=1e-5)
    np.testing.assert_allclose(points.quality, quality, atol=1e-6)
    assert np.ptp(points.cost.mean(axis=0)) > 0.0


def test_any_other_method_has_the_points_that_were_fitted(problem: RoutingProblem, tmp_path: Path) -> None:
    groups, routers = entries_of("softmax_gate", problem, tmp_path)
    points = own_points(groups, problem, problem.scale)
    cost, _ = by_hand(routers, problem, WEIGHTS)
    np.testing.assert_allclose(points.cost, cost, rtol=1e-5)


def test_differences_of_aiq_are_paired_and_need_the_same_points() -> None:
    rng = np.random.default_rng(0)
    singles = Points(
        cost=np.tile([0.1, 1.0], (300, 1)), quality=rng.binomial(1, [0.4, 0.8], (300, 2)).astype(float)
    )
    middle = rng.binomial(1, 0.7, (300, 1)).astype(float)
    worse = Points(cost=np.full((300, 1), 0.4), quality=middle)
    better = Points(cost=np.full((300, 1), 0.3), quality=middle)  # the same answers at a lower cost
    found = aiq_differences({"better": better, "worse": worse}, "worse", singles, resamples=200)
    assert found["worse"] is None
    assert found["better"] is not None
    facts = frontier_facts({"better": better, "worse": worse}, singles, resamples=200)
    one, two = (facts[name]["aiq"] for name in ("better", "worse"))
    assert found["better"]["value"] == pytest.approx(one["value"] - two["value"])
    width = np.ptp(found["better"]["ci95"])
    assert width < 0.5 * np.ptp(one["ci95"])
    assert found["better"]["ci95"][0] > 0.0


def test_an_estimate_lies_in_its_interval_where_a_hull_selects_lucky_points() -> None:
    """400 equal points: the hull of nearly every resample is higher than the hull of the data."""
    rng = np.random.default_rng(1)
    singles = Points(
        cost=np.tile([0.1, 1.0], (100, 1)), quality=rng.binomial(1, [0.4, 0.6], (100, 2)).astype(float)
    )
    points = Points(
        cost=np.full((100, 400), 0.5) + 0.3 * np.arange(400) / 400,
        quality=rng.binomial(1, 0.6, (100, 400)).astype(float),
    )
    facts = frontier_facts({"router": points}, singles, resamples=200)["router"]
    for name in ("aiq", "aiq_above_zero", "cost_saved", "quality_gained"):
        low, high = facts[name]["ci95"]
        assert low <= facts[name]["value"] <= high, name


def test_nothing_is_saved_where_all_experts_cost_the_same() -> None:
    singles = Points(cost=np.ones((50, 2)), quality=np.tile([0.4, 0.8], (50, 1)))
    router = Points(cost=np.ones((50, 1)), quality=np.full((50, 1), 0.9))
    facts = frontier_facts({"router": router}, singles, resamples=20)["router"]
    assert [facts[name] for name in ("aiq", "aiq_above_zero", "cost_saved", "quality_gained")] == [None] * 4
