"""Constant routers: the mixture's closed form against a grid, and what each chooses."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from experts import OutcomeTable
from router_rl import Objective, fit
from router_rl.methods.baselines.constants import zero_mixture
from router_rl.problems.routing.problem import RoutingProblem
from router_rl.problems.routing.router_measurement import measure


@pytest.mark.slow
@pytest.mark.parametrize("load_weight", [0.01, 0.1, 1.0])
@pytest.mark.parametrize("seed", range(4))
def test_the_mixture_is_the_best_of_a_grid(load_weight: float, seed: int) -> None:
    utility = np.random.default_rng(seed).normal(size=4)

    def value(p: np.ndarray) -> float:
        return float(p @ utility - load_weight * (4 * p @ p - 1))

    best = -np.inf
    for i in range(4):
        for j in range(4):
            for share in np.linspace(0, 1, 2001):
                p = np.zeros(4)
                p[i] += share
                p[j] += 1 - share
                best = max(best, value(p))
    found = zero_mixture(utility, load_weight)
    assert found.sum() == pytest.approx(1.0)
    assert value(found) == pytest.approx(best, abs=1e-5)


def test_best_single_is_best_for_the_objective(kinds: OutcomeTable) -> None:
    dear = fit("best_single", RoutingProblem(kinds, Objective(compute_weight=0.0)))
    cheap = fit("best_single", RoutingProblem(kinds, Objective(compute_weight=5.0)))
    rows = torch.tensor(kinds.features)
    assert (dear(rows).experts == 3).all()
    assert (cheap(rows).experts == 0).all()


def test_zero_router_mixes_where_load_is_charged(kinds: OutcomeTable) -> None:
    objective = Objective(compute_weight=0.0, load_weight=0.2)
    zero = measure(fit("zero_router", RoutingProblem(kinds, objective)), kinds, objective, 10.0).means()
    single = measure(fit("best_single", RoutingProblem(kinds, objective)), kinds, objective, 10.0).means()
    assert zero["utility"] > single["utility"]


def test_random_is_uniform_and_seeded(kinds: OutcomeTable) -> None:
    objective = Objective()
    router = fit("random", RoutingProblem(kinds, objective))
    one, two = (measure(router, kinds, objective, 10.0, seed=seed) for seed in (0, 1))
    assert np.abs(one.shares - 0.25).max() < 0.08
    assert not np.array_equal(one.share, two.share)
    assert np.array_equal(one.share, measure(router, kinds, objective, 10.0, seed=0).share)
