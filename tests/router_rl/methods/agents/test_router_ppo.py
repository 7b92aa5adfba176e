"""The clipped surrogate by hand, and the ratio it clips."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from experts import OutcomeTable
from router_rl import Objective, ScorerConfig
from router_rl.methods.agents import reinforce, router_ppo
from router_rl.methods.agents.reinforce import ReinforceHyperparameters
from router_rl.methods.agents.rollout import Trajectory
from router_rl.methods.agents.router_ppo import RouterPPOHyperparameters, clipped
from router_rl.problems.routing.problem import RoutingProblem
from router_rl.routing import Hard, Router

ACTION = torch.tensor([0, 1, 3, 2])
REWARD = torch.tensor([1.0, 0.0, 0.5, 0.0])
ADVANTAGE = torch.tensor([1.0, -1.0, 0.5, -0.5])  # over the other lane of the group
ONCE = RouterPPOHyperparameters(group=2, reuse=1, minibatches=1)


def test_clipped_by_hand() -> None:
    ratio = torch.tensor([1.5, 1.5, 0.5, 0.5, 1.1])
    advantage = torch.tensor([1.0, -1.0, 1.0, -1.0, 2.0])
    # Good and already likelier: cut at 1.2. Bad and already rarer: cut at 0.8. Otherwise as it is.
    want = torch.tensor([1.2, -1.5, 0.5, -0.8, 2.2])
    torch.testing.assert_close(clipped(ratio, advantage, 0.2), want)


def test_the_gradient_stops_past_the_clip() -> None:
    ratio = torch.tensor([1.5, 1.5, 0.5, 0.5], requires_grad=True)
    clipped(ratio, torch.tensor([1.0, -1.0, 1.0, -1.0]), 0.2).sum().backward()
    assert ratio.grad is not None
    assert ratio.grad.tolist() == [0.0, -1.0, 1.0, 0.0]


def test_no_advantage_no_gradient() -> None:
    logits = torch.randn(5, 3, requires_grad=True)
    ratio = (logits.log_softmax(dim=-1)[:, 0] - 0.3).exp()
    clipped(ratio, torch.zeros(5), 0.2).mean().backward()
    assert logits.grad is not None
    assert (logits.grad == 0).all()


@pytest.fixture
def problem(kinds: OutcomeTable) -> RoutingProblem:
    return RoutingProblem(kinds, Objective(compute_weight=0.1), Hard(), scorer=ScorerConfig(kind="linear"))


@pytest.fixture
def router(problem: RoutingProblem) -> Router:
    router = problem.new_router(0)
    with torch.no_grad():
        for parameter in router.parameters():
            parameter.normal_(generator=torch.Generator().manual_seed(3))
    return router


@pytest.fixture
def score(problem: RoutingProblem, router: Router) -> Tensor:
    """Log-probabilities [4, N] of the current policy: two lanes on row 5, two on row 9."""
    row = torch.tensor([5, 5, 9, 9])
    return router.scores(problem.outcomes().features[row]).log_softmax(dim=-1)


def _trajectory(old: Tensor) -> Trajectory:
    zeros = torch.zeros(1, 4, 4)
    return Trajectory(
        row=torch.tensor([[5, 5, 9, 9]]),
        counts=zeros,
        action=ACTION.reshape(1, 4, 1),
        share=zeros,
        log_prob=old.unsqueeze(0),
        reward=REWARD.unsqueeze(0),
        last=torch.ones(1, 4, dtype=torch.bool),
    )


def test_the_ratio_is_to_the_policy_that_acted(
    problem: RoutingProblem, router: Router, score: Tensor, ascended: Callable[..., list[Tensor]]
) -> None:
    ratio = torch.tensor([1.1, 0.9, 1.5, 0.5])  # so the old log-probabilities are not 0, nor the current ones
    now = score[range(4), ACTION].detach()
    (value,) = ascended(router_ppo, problem, ONCE, router, _trajectory(now - ratio.log()))
    # 1.1 * 1, 0.9 * -1, 1.2 * 0.5 (clipped), 0.8 * -0.5 (clipped)
    torch.testing.assert_close(value.detach(), torch.tensor((1.1 - 0.9 + 0.6 - 0.4) / 4))


def test_the_first_gradient_of_ppo_is_that_of_reinforce_with_a_baseline(
    problem: RoutingProblem, router: Router, score: Tensor, ascended: Callable[..., list[Tensor]]
) -> None:
    taken = score[range(4), ACTION]
    trajectory = _trajectory(taken.detach())
    (ppo,) = ascended(router_ppo, problem, ONCE, router, trajectory)
    (plain,) = ascended(reinforce, problem, ReinforceHyperparameters(group=2), router, trajectory)
    torch.testing.assert_close(plain, (taken * ADVANTAGE).mean())
    weights = list(router.parameters())
    expected = torch.autograd.grad((taken * ADVANTAGE).mean(), weights, retain_graph=True)
    for value in (ppo, plain):
        found = torch.autograd.grad(value, weights, retain_graph=True)
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("method", "settings"), [(router_ppo, ONCE), (reinforce, ReinforceHyperparameters(group=2))]
)
def test_the_entropy_bonus_is_added_not_subtracted(
    problem: RoutingProblem,
    router: Router,
    score: Tensor,
    ascended: Callable[..., list[Tensor]],
    method: object,
    settings: object,
) -> None:
    trajectory = _trajectory(score[range(4), ACTION].detach())
    (without,) = ascended(method, problem, settings, router, trajectory)
    (bonus,) = ascended(method, problem, settings, router, trajectory, entropy=0.5)
    torch.testing.assert_close(bonus - without, -0.5 * (score.exp() * score).sum(dim=-1).mean())
