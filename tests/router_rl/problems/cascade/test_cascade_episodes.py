"""Episodes of a cascade that is solved by hand."""

from __future__ import annotations

import torch
from environment_tables import solved_cascade
from torch import Tensor

from router_rl import Objective
from router_rl.problems.cascade.cascade_episodes import run_episodes
from router_rl.problems.cascade.problem import CascadeProblem
from router_rl.problems.problem import ActionPolicy
from router_rl.routing.policies.cascade_policy import CascadeView


def cheap_first(observation: Tensor) -> Tensor:
    """Ask the cheap expert, and the dear one where the cheap one is not confident."""
    view = CascadeView.of(observation, 2)
    asked = view.asked.sum(dim=-1)
    sure = view.confidence[:, 0] > 0.5
    last = torch.where(asked == 2, 3, torch.where(sure, 2, 1))
    return torch.where(asked == 0, 0, last)


def test_steps_end_with_the_answer_and_rewards_are_those_until_then() -> None:
    problem = CascadeProblem(solved_cascade(), Objective(compute_weight=0.5))
    rows = torch.arange(4)  # the cheap expert is right on rows 0 and 2
    table = problem.rows("test")
    found = run_episodes(ActionPolicy(actions=cheap_first), table, problem.config, 0.5, rows)
    short, long = [0, 2, -1], [0, 1, 3]  # -1: the episode is over
    assert found.steps.tolist() == [short, long, short, long]
    assert found.quality.tolist() == [1.0] * 4
    torch.testing.assert_close(found.compute, torch.tensor([0.2, 1.2, 0.2, 1.2]))
    torch.testing.assert_close(found.reward, torch.tensor([0.9, 0.4, 0.9, 0.4]))
    torch.testing.assert_close(found.share, torch.tensor([[1.0, 0.0], [0.5, 0.5]]).repeat(2, 1))
