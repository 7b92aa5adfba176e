"""The entropy bonus of the on-policy learners decays linearly to 0."""

from __future__ import annotations

import pytest
import torch

from experts import OutcomeTable
from router_rl import Objective
from router_rl.methods.agents.on_policy import Update, learn
from router_rl.methods.agents.reinforce import ReinforceHyperparameters
from router_rl.methods.agents.rollout import Trajectory
from router_rl.methods.method import Run
from router_rl.problems.routing.problem import RoutingProblem
from router_rl.routing import Hard


def test_entropy_decays_linearly_over_the_decisions(kinds: OutcomeTable) -> None:
    problem = RoutingProblem(kinds, Objective(compute_weight=0.1), Hard())
    hyperparameters = ReinforceHyperparameters(entropy=0.8, lanes=16, group=4, decisions=64)
    found: list[float] = []

    def watch(update: Update, trajectory: Trajectory) -> None:
        assert trajectory.row.shape == (1, 16)
        found.append(update.entropy)

    learn(problem, hyperparameters, Run(), watch)
    assert found == pytest.approx([0.8, 0.6, 0.4, 0.2])


def test_an_update_goes_uphill() -> None:
    weight = torch.nn.Parameter(torch.tensor([1.0]))
    update = Update(None, torch.optim.SGD([weight], lr=0.1), None, 0.0, torch.Generator())  # type: ignore[arg-type]
    update.ascend((3.0 * weight).sum())
    assert weight.tolist() == pytest.approx([1.3])
