"""The price of load is the derivative of what a window will be charged."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from experts import OutcomeTable
from router_rl import Objective
from router_rl.methods.agents import exact_pg
from router_rl.methods.agents.exact_pg import load_price
from router_rl.methods.method import Run
from router_rl.problems.routing.problem import RoutingProblem
from router_rl.problems.routing.router_measurement import measure
from router_rl.routing import Hard

N, W = 3, 8
SHARE = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
COUNTS = torch.tensor([2.0, 1.0, 0.0], dtype=torch.float64)


def _window_load(counts: Tensor) -> Tensor:
    """W times the load of a whole window: `N sum n^2 / W - W`."""
    return N * counts.square().sum() / W - W


def test_the_price_is_the_finite_difference_of_the_windows_load() -> None:
    left = W - COUNTS.sum() - 1.0
    step = 1e-6
    marginal = torch.stack(
        [
            (_window_load(COUNTS + left * SHARE + step * one) - _window_load(COUNTS + left * SHARE)) / step
            for one in torch.eye(N, dtype=torch.float64)
        ]
    )
    static = 2.0 * N * (1.0 - 1.0 / W) * SHARE  # the gradient of N (1 - 1/W) sum P^2
    torch.testing.assert_close(static + load_price(COUNTS, SHARE, W), marginal, atol=1e-4, rtol=0.0)


def test_counts_on_their_mean_cost_nothing_more() -> None:
    assert load_price(4.0 * SHARE, SHARE, W).abs().max() < 1e-12
    price = load_price(COUNTS, SHARE, W)
    assert price.argmax() == 0  # 2 of 3 where half is usual
    assert price.argmin() == 2


def test_a_policy_that_sees_nothing_is_charged_its_static_load() -> None:
    window = 5
    load = torch.zeros((), dtype=torch.float64)
    for drawn in itertools.product(range(N), repeat=window):
        counts = torch.bincount(torch.tensor(drawn), minlength=N).double()
        chance = SHARE[list(drawn)].prod()
        load += chance * (N * (counts / window).square().sum() - 1.0)
    # N (1 - 1/W) sum P^2 and what does not depend on the policy, (N - W) / W.
    static = N * (1.0 - 1.0 / window) * SHARE.square().sum() + N / window - 1.0
    torch.testing.assert_close(load, static)


@pytest.mark.parametrize("load_weight", [0.0, 0.1])
def test_it_learns_a_table_whose_answer_is_known(kinds: OutcomeTable, load_weight: float) -> None:
    objective = Objective(compute_weight=0.1, load_weight=load_weight, window=32)
    task = RoutingProblem(kinds, objective, Hard())
    settings = exact_pg.ExactPGHyperparameters(epochs=30, decisions=100_000)
    router = exact_pg.fit(task, settings, Run())
    found = measure(router, kinds.part("test"), objective, task.scale).means()
    assert found["quality"] > 0.95
