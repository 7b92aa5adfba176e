"""The queues of one episode: what a policy is asked, and what a report gets."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from experts import OutcomeTable
from router_rl.problems.problem import ActionPolicy
from router_rl.problems.queueing.problem import QueueingProblem
from router_rl.problems.queueing.timeline_data import queue_timeline


@pytest.fixture(scope="module")
def problem(table: OutcomeTable) -> QueueingProblem:
    return QueueingProblem(table, loads=(0.7,), episodes=2, window=300)


def test_the_policy_acts_without_gradients(problem: QueueingProblem) -> None:
    recorded: list[bool] = []

    def actions(seen: Tensor) -> Tensor:
        recorded.append(torch.is_grad_enabled())
        return torch.zeros(len(seen), dtype=torch.int64)

    core = problem.core("test", problem.case, lanes=1, seed=0)
    queue_timeline(core, ActionPolicy(actions=actions), problem.experts, problem.case)
    assert recorded
    assert not any(recorded)


def test_a_long_episode_is_shown_at_its_start(problem: QueueingProblem) -> None:
    core = problem.core("test", problem.case, lanes=1, seed=0)
    first = ActionPolicy(actions=lambda seen: torch.zeros(len(seen), dtype=torch.int64))
    figure = queue_timeline(core, first, problem.experts, problem.case)
    assert len(figure.data["seen"]) == 256
    assert "its first 256 requests" in figure.note
