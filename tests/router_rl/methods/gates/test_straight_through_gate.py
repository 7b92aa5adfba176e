"""The straight-through gate: values of the sparse choice, gradient of the dense mixture."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from envs import Outcomes
from experts import OutcomeTable
from router_rl import Objective
from router_rl.methods.gates import straight_through_gate
from router_rl.methods.gates.mixture import expected_loss
from router_rl.methods.gates.straight_through_gate import StraightThroughGateHyperparameters, straight_through
from router_rl.methods.method import Run
from router_rl.problems.routing.problem import RoutingProblem
from router_rl.routing import AdaptiveK, ExpertChoice, Hard, Hierarchical, Selection, TopK


def test_by_hand(table_of: Callable[[Tensor], Outcomes]) -> None:
    logits = torch.tensor([[1.0, 3.0]]).log().requires_grad_()
    mixing = straight_through(Hard(), logits)
    torch.testing.assert_close(mixing.detach(), torch.tensor([[0.0, 1.0]]))
    loss = expected_loss(mixing, table_of(torch.tensor([[0.9, 0.5]])), torch.tensor([0]), 0.0)
    assert float(loss.detach()) == pytest.approx(-math.log(0.5005), rel=1e-6)
    (gradient,) = torch.autograd.grad(loss, logits)
    # dL/dg = -(q - 1/2) / .5005 (nobody's half is the same for all), then p_e (dL/dg_e - sum p dL/dg)
    by_weight = [-(0.9 - 0.5) / 0.5005, 0.0]
    mean = 0.25 * by_weight[0]
    expected = torch.tensor([[0.25 * (by_weight[0] - mean), 0.75 * (0.0 - mean)]])
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize(
    "rule",
    [Hard(), TopK(k=2), AdaptiveK(k=2), ExpertChoice(k=4), Hierarchical(tree=("r", (0, ("s", (1, 2, 3)))))],
    ids=lambda rule: rule.name,
)
def test_every_rule(rule: Selection) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(9, rule.outputs(4), generator=generator).requires_grad_()
    downstream = torch.randn(9, 4, generator=generator)
    mixing = straight_through(rule, logits)
    choice = rule.select(logits.detach())
    for row in range(9):
        expected = dict.fromkeys(range(4), 0.0)
        for expert, weight in zip(choice.experts[row].tolist(), choice.weights[row].tolist(), strict=True):
            if expert < 4:
                expected[expert] = weight
        assert mixing[row].tolist() == pytest.approx(list(expected.values()), abs=1e-6)
    (found,) = torch.autograd.grad((mixing * downstream).sum(), logits)
    (dense,) = torch.autograd.grad((rule.probabilities(logits) * downstream).sum(), logits)
    torch.testing.assert_close(found, dense)


def test_compute_is_charged_at_the_gates_own_weight(
    kinds: OutcomeTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = RoutingProblem(kinds, Objective(compute_weight=0.4), Hard())
    outcomes, rows, router = problem.outcomes(), torch.arange(9), problem.new_router(0)
    found: list[Tensor] = []

    def watch(problem: RoutingProblem, _: Any, run: Run, loss: Any) -> None:
        found.append(loss(router, outcomes, rows, torch.Generator()).detach())

    monkeypatch.setattr(straight_through_gate, "train_gate", watch)
    straight_through_gate.fit(problem, StraightThroughGateHyperparameters(own_compute=2.0), Run())
    mixing = straight_through(Hard(), router.logits(outcomes.features[rows])[0])
    torch.testing.assert_close(found[0], expected_loss(mixing, outcomes, rows, 0.8).detach())
