"""Experts are bit-identical before and after a router is trained, and PPO earns more than one expert."""

from __future__ import annotations

import torch

from experts import OutcomeTable
from experts.sources import open_source
from router_rl import Objective, fit
from router_rl.problems.routing.problem import RoutingProblem


def test_training_a_router_leaves_the_experts_alone(digits: OutcomeTable) -> None:
    source = open_source("digits")
    assert source is not None
    pool = source.pool(0, progress=False)
    queries = source.queries(0)
    before = pool.fingerprint()
    answers = pool.run(queries.inputs[:64])
    assert tuple(pool.names) == digits.experts
    settings = {"decisions": 8192, "validate_every": 4096}
    fit("ppo", RoutingProblem(digits, Objective()), hyperparameters=settings)
    fit("softmax_gate", RoutingProblem(digits, Objective()), hyperparameters={"epochs": 2})
    assert pool.fingerprint() == before
    assert torch.equal(pool.run(queries.inputs[:64]), answers)
