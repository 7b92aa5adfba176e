"""The ReMoE gate: its penalty by hand, and that the penalty finds the target sparsity."""

from __future__ import annotations

import pytest
import torch

from experts import OutcomeTable
from router_rl import Objective, check_router, fit
from router_rl.methods.gates.remoe_gate import adapted, weighted_l1
from router_rl.problems.routing.problem import RoutingProblem
from router_rl.routing import Hard, ScoredTopK


def test_penalty_by_hand() -> None:
    gate = torch.tensor([[1.0, 2.0, 0.0], [3.0, 0.0, 0.0]], requires_grad=True)
    # k = 1: f = 3 / 2 * (2, 1, 0) = (3, 1.5, 0); rows 3 + 3 = 6 and 9
    loss = weighted_l1(gate, 1)
    assert float(loss.detach()) == pytest.approx(7.5)
    loss.backward()
    torch.testing.assert_close(gate.grad, torch.tensor([[1.5, 0.75, 0.0], [1.5, 0.75, 0.0]]))


def test_the_coefficient_follows_the_sparsity() -> None:
    one = torch.tensor(0.5)
    assert float(adapted(one, torch.tensor(0.2), 0.75, 1.2)) == pytest.approx(0.6)
    assert float(adapted(one, torch.tensor(0.9), 0.75, 1.2)) == pytest.approx(0.5 / 1.2)
    assert float(adapted(one, torch.tensor(0.75), 0.75, 1.2)) == pytest.approx(0.5)


@pytest.mark.parametrize("k", [1, 2, 4])
def test_the_penalty_finds_the_target_sparsity(k: int) -> None:
    """Free logits are drawn to positive values of all sizes; the penalty turns off all but k of 8.

    Slowly: an expert that is off passes no gradient and does not come back.
    """
    wanted = torch.rand(256, 8, generator=torch.Generator().manual_seed(0))
    logits = wanted.clone().requires_grad_()
    coefficient = torch.tensor(1e-8)
    for _ in range(1500):
        gate = logits.relu()
        loss = 0.5 * (gate - wanted).square().sum() + coefficient * 256 * weighted_l1(gate, k)
        (gradient,) = torch.autograd.grad(loss, logits)
        logits = (logits - 0.05 * gradient).detach().requires_grad_()
        coefficient = adapted(coefficient, (gate == 0).float().mean(), 1 - k / 8, 1.02)
    active = (logits > 0).float().sum(dim=1).mean()
    assert abs(float(active) - k) < 0.35


def test_it_is_served_by_relu(kinds: OutcomeTable) -> None:
    router = fit(
        "remoe_gate", RoutingProblem(kinds, Objective(), select="topk"), hyperparameters={"epochs": 4}
    )
    assert router.rule == ScoredTopK(k=2, score="relu")
    check_router(router, torch.tensor(kinds.features))
    routing = router(torch.tensor(kinds.features))
    active = routing.logits.relu().gather(1, routing.experts)
    expected = active / active.sum(dim=1, keepdim=True)
    torch.testing.assert_close(routing.weights, expected)
    assert fit("remoe_gate", RoutingProblem(kinds, Objective()), hyperparameters={"epochs": 1}).rule == Hard()
