"""Small outcomes made by hand, and what a learner ascends in one update."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from envs import Outcomes
from router_rl.methods.agents.expectation import RewardTable
from router_rl.methods.agents.on_policy import Update
from router_rl.methods.agents.rollout import Trajectory
from router_rl.methods.method import Run
from router_rl.problems.routing.problem import RoutingProblem
from router_rl.routing import Router


@pytest.fixture
def outcomes_of() -> Callable[..., Outcomes]:
    """Make outcomes of T queries, N experts, 3 features and, if asked for, 4 classes."""

    def make(queries: int, experts: int, *, classes: bool = False) -> Outcomes:
        generator = torch.Generator().manual_seed(5)
        probabilities = torch.rand(queries, experts, 4, generator=generator)
        probabilities = probabilities / probabilities.sum(dim=-1, keepdim=True)
        label = torch.randint(4, (queries,), generator=generator)
        right = (probabilities.argmax(dim=-1) == label.unsqueeze(1)).float()
        return Outcomes(
            features=torch.randn(queries, 3, generator=generator),
            quality=right if classes else torch.rand(queries, experts, generator=generator),
            compute=torch.rand(queries, experts, generator=generator),
            probabilities=probabilities if classes else None,
            label=label if classes else None,
        )

    return make


@pytest.fixture
def ascended(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Tensor]]:
    """Return a function that lists the scalars which an on-policy learner ascends on one rollout."""

    def values(
        method: ModuleType,
        problem: RoutingProblem,
        hyperparameters: Any,
        router: Router,
        trajectory: Trajectory,
        *,
        entropy: float = 0.0,
    ) -> list[Tensor]:
        found: list[Tensor] = []

        class Recorded(Update):
            def ascend(self, value: Tensor) -> None:
                found.append(value)

        def learn(problem: RoutingProblem, _: Any, run: Run, ascent: Any, start: Any = None) -> None:
            rewards = RewardTable(problem.outcomes(), problem.objective.compute_weight)
            optimizer = torch.optim.SGD(router.parameters())
            generator = torch.Generator().manual_seed(run.seed)
            ascent(Recorded(router, optimizer, rewards, entropy, generator), trajectory)

        with monkeypatch.context() as patch:
            patch.setattr(method, "learn", learn)
            method.fit(problem, hyperparameters, Run())
        return found

    return values
