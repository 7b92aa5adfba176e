"""The lanes of an on-device learner are the environment that `gymnasium.make_vec` makes."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from environment_tables import made_cascade, topics

from router_rl import Objective
from router_rl.methods.agents.env_rollout import advantages, collect, evaluate_actions
from router_rl.methods.agents.env_training import new_policy
from router_rl.problems.caching.problem import CachingProblem
from router_rl.problems.cascade.problem import CascadeProblem
from router_rl.problems.problem import Problem
from router_rl.problems.queueing.problem import QueueingProblem

LANES, STEPS = 5, 23


def cascade() -> CascadeProblem:
    return CascadeProblem(made_cascade(rows=100), [Objective(compute_weight=0.1)], max_experts=3)


def queueing() -> QueueingProblem:
    return QueueingProblem(made_cascade(rows=100), loads=(0.9,), window=8, episodes=4)


def caching() -> CachingProblem:
    return CachingProblem(topics(), resident_shares=(0.5,), window=8, episodes=4)


PROBLEMS = {"cascade": cascade, "queueing": queueing, "caching": caching}


def made_by_gymnasium(problem: Any, config: Any) -> Any:
    """The environment of a problem's only case, made from public arguments."""
    arguments = {each.name: getattr(config, each.name) for each in fields(config)}
    if isinstance(problem, QueueingProblem):
        arguments |= {"units": problem.units, "arrivals": problem.arrivals}
    else:
        arguments["scale"] = problem.scale
    return gymnasium.make_vec(problem.environment, LANES, table=problem.table, split="train", **arguments)


@pytest.mark.parametrize("name", PROBLEMS)
def test_a_rollout_equals_the_environment_of_gymnasium(name: str) -> None:
    problem: Problem = PROBLEMS[name]()
    core: Any = problem.core("train", problem.case, lanes=LANES, seed=40)
    policy = new_policy(problem, core, 8, seed=0)
    rollout = collect(policy, core, STEPS, torch.Generator().manual_seed(0))
    assert rollout.observation.shape == (STEPS + 1, LANES, policy.observation_size)
    assert len(rollout.action.unique()) > 2  # the comparison sees several actions
    assert rollout.last.any()
    assert not rollout.last.all()

    env = made_by_gymnasium(problem, core.config)
    observation, _ = env.reset(seed=40)
    for step in range(STEPS):
        np.testing.assert_array_equal(rollout.observation[step].numpy(), observation)
        observation, reward, terminated, truncated, _ = env.step(rollout.action[step].numpy())
        np.testing.assert_array_equal(rollout.reward[step].double().numpy(), reward)
        np.testing.assert_array_equal(rollout.last[step].numpy(), terminated)
        assert not truncated.any()
    np.testing.assert_array_equal(rollout.observation[-1].numpy(), observation)


@pytest.mark.parametrize("classes", [True, False])
def test_the_mask_of_the_policy_is_that_of_the_environment(classes: bool) -> None:
    """And the rollout never takes an invalid action, which would end an episode with reward 0."""
    table = made_cascade(rows=100)
    if not classes:
        table = type(table)(
            **{name: getattr(table, name) for name in ("experts", "query_id", "features", "quality")},
            **{name: getattr(table, name) for name in ("cost", "confidence", "split")},
        )
    problem = CascadeProblem(table, [Objective(compute_weight=0.1)], max_experts=2)
    core = problem.core("train", problem.case, lanes=64, seed=0)
    policy = new_policy(problem, core, 8, seed=0)
    with torch.no_grad():
        policy.layers[-1].bias.normal_(std=3.0, generator=torch.Generator().manual_seed(2))
    asked = 0
    for step in range(12):
        assert policy.valid(core.observation()).equal(core.action_mask())
        rollout = collect(policy, core, 1, torch.Generator().manual_seed(step))
        valid = policy.valid(rollout.observation[0])
        assert valid.gather(1, rollout.action[0].unsqueeze(1)).all()
        asked += int((rollout.action < 4).sum())
    assert asked > 50


@pytest.mark.parametrize("name", PROBLEMS)
def test_log_probabilities_are_those_of_the_draws(name: str) -> None:
    """Actions are drawn as often as their log-probability says, and the mean of -log p is the entropy."""
    problem: Problem = PROBLEMS[name]()
    core = problem.core("train", problem.case, lanes=4_000, seed=0)
    policy = new_policy(problem, core, 8, seed=0)
    with torch.no_grad():
        policy.layers[-1].bias.normal_(generator=torch.Generator().manual_seed(1))
    core.load_state_dict({key: _first(value) for key, value in core.state_dict().items()})
    rollout = collect(policy, core, 1, torch.Generator().manual_seed(0))
    observation, action = rollout.observation[0], rollout.action[0]
    acts = evaluate_actions(policy, observation, action)
    torch.testing.assert_close(acts.log_prob, rollout.log_prob[0])
    assert float(-rollout.log_prob.mean()) == pytest.approx(acts.entropy[0].item(), abs=0.05)
    each, count = action.reshape(4_000, -1).unique(dim=0, return_counts=True)
    for one, drawn in zip(each, count, strict=True):
        where = (action.reshape(4_000, -1) == one).all(dim=1)
        chance = acts.log_prob[where][0].exp().item()
        assert float(drawn) / 4_000 == pytest.approx(chance, abs=0.04)


def _first(value: torch.Tensor) -> torch.Tensor:
    """Every lane in the state of the first one."""
    return value[:1].expand(value.shape).clone()


def test_advantages_by_hand() -> None:
    reward = torch.tensor([[1.0], [2.0], [4.0]])
    value = torch.tensor([[0.5], [1.0], [1.5], [2.0]])
    last = torch.tensor([[False], [True], [False]])
    # d = 1 + 0.5 * 1 - 0.5, 2 - 1 (the episode ends), 4 + 0.5 * 2 - 1.5
    advantage, returns = advantages(reward, value, last, discount=0.5, trace=0.5)
    assert advantage.flatten().tolist() == [1.0 + 0.25 * 1.0, 1.0, 3.5]
    assert returns.flatten().tolist() == [1.75, 2.0, 5.0]


def test_advantages_equal_the_sum_of_their_definition() -> None:
    generator = torch.Generator().manual_seed(0)
    reward, value = torch.randn(7, 3, generator=generator), torch.randn(8, 3, generator=generator)
    last = torch.rand(7, 3, generator=generator) < 0.3
    found, returns = advantages(reward, value, last, discount=0.9, trace=0.8)
    for lane in range(3):
        for start in range(7):
            total, weight = 0.0, 1.0
            for step in range(start, 7):
                follows = 0.0 if last[step, lane] else 0.9 * float(value[step + 1, lane])
                total += weight * (float(reward[step, lane]) + follows - float(value[step, lane]))
                weight *= 0.9 * 0.8
                if last[step, lane]:
                    break
            assert float(found[start, lane]) == pytest.approx(total, abs=1e-5)
    torch.testing.assert_close(returns, found + value[:-1])
