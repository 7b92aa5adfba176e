"""What iterations of rollout policy iteration are made of."""

from __future__ import annotations

import pytest
import torch

from router_rl.methods.method import Method
from router_rl.methods.queueing import rollout_iteration
from router_rl.methods.queueing.index_router import index_router, scorer_of, with_weights
from router_rl.methods.queueing.rollout_iteration import (
    METHOD,
    RolloutHyperparameters,
    Rollouts,
    _spread,
    ascend,
    regress,
)
from router_rl.methods.queueing.weight_search import IndexHyperparameters
from router_rl.problems.queueing.problem import QueueingProblem


def rollouts(prices, states=800, seed=0, noise=0.0):
    generator = torch.Generator().manual_seed(seed)
    products = torch.randn(states, 4, len(prices), generator=generator)
    products[..., -1] = 3.0  # never varies: it cannot have a price
    scores = torch.randn(states, 4, generator=generator)
    base = 5.0 * torch.randn(states, 1, generator=generator)  # the value of a state is no expert's advantage
    extra = noise * torch.randn(states, 4, generator=generator)
    return Rollouts(scores, products, scores + products @ prices + base + extra)


def test_a_regression_recovers_the_prices():
    prices = torch.tensor([0.2, -0.1, 0.0, 0.0])
    torch.testing.assert_close(regress(rollouts(prices), 1e-6), prices, atol=1e-3, rtol=0.0)
    shrunk = regress(rollouts(prices, noise=0.3), 1.0)
    assert 0.05 < shrunk[0] < 0.15
    assert shrunk[3] == 0.0


def test_ascending_makes_the_best_expert_the_choice():
    data = rollouts(torch.tensor([0.8, -0.5, 0.0, 0.0]), noise=0.2)
    fresh = rollouts(torch.tensor([0.8, -0.5, 0.0, 0.0]), seed=1)

    def earned(prices):
        choice = (fresh.scores + fresh.products @ prices).argmax(dim=1, keepdim=True)
        return float((fresh.returns.gather(1, choice) - fresh.returns.mean(dim=1, keepdim=True)).mean())

    start = torch.zeros(4)
    prices = ascend(data, start, RolloutHyperparameters(learning_rate=0.03), temperature=0.3)
    best = float((fresh.returns.amax(dim=1) - fresh.returns.mean(dim=1)).mean())
    assert earned(prices) > earned(start) + 0.1
    assert earned(prices) > best - 0.05
    assert prices[3] == 0.0


def test_forks_are_spread_over_the_episode():
    times = _spread(400, 8, torch.Generator().manual_seed(0))
    assert [time // 50 for time in times] == list(range(8))
    assert _spread(1, 5, torch.Generator()) == [0]
    assert len(_spread(3, 5, torch.Generator())) == 3


def test_the_first_trial_is_the_default_and_nested_hyperparameters_can_be_plain():
    assert isinstance(METHOD, Method)
    trials = METHOD.candidates(4)
    assert trials[0] == RolloutHyperparameters()
    assert len(set(trials)) == 4
    changed = METHOD.configure({"index": {"candidates": 8}, "states": 16})
    assert changed.index == IndexHyperparameters(candidates=8)
    assert changed.states == 16


@pytest.mark.parametrize(("states", "times"), [(20, 5), (18, 5), (4, 1)])
def test_every_lane_forks_once_in_each_interval(table, states, times):
    problem = QueueingProblem(table, loads=0.6, window=40, episodes=4)
    scorer = scorer_of(with_weights(index_router(problem), {"quality": 1.0, "wait": 0.1}))
    few = RolloutHyperparameters(lanes=4, states=states, horizon=8, experts=2)
    found = rollout_iteration._fork_states(problem, scorer, few, seed=0)
    assert found.scores.shape == found.returns.shape == (4 * times, 2)
    assert found.products.shape == (4 * times, 2, len(scorer.prices))
    assert (found.scores[:, 0] >= found.scores[:, 1]).all()  # those with the highest scores


def test_a_fork_earns_what_its_lane_earns_when_it_follows_the_policy(table):
    """One state at the start: the forks are whole episodes, each first answered by another expert."""
    problem = QueueingProblem(table, loads=0.6, window=12, episodes=4)
    scorer = scorer_of(with_weights(index_router(problem), {"quality": 1.0, "wait": 0.1}))
    few = RolloutHyperparameters(lanes=5, states=5, horizon=12, experts=3)
    found = rollout_iteration._fork_states(problem, scorer, few, seed=3)
    core = problem.core("train", problem.case, lanes=15, seed=3, group=3)
    core.outcomes = rollout_iteration._predicted(core, scorer)
    experts = scorer(core.observation()[::3]).argsort(dim=-1, descending=True)
    returns = core.step(experts.flatten()).reward.double()
    for _ in range(11):
        returns += core.step(scorer(core.observation()).argmax(dim=-1)).reward
    torch.testing.assert_close(found.returns, (returns - core.settle()).float().reshape(5, 3))


@pytest.mark.parametrize("budget", [None, 0.4])
def test_a_fork_runs_for_the_horizon_and_under_a_budget_to_the_end(table, budget, monkeypatch):
    problem = QueueingProblem(
        table, loads=0.6, window=40, episodes=4, budget=budget, overspend_weight=1.0 if budget else 0.0
    )
    scorer = scorer_of(with_weights(index_router(problem), {"quality": 1.0, "wait": 0.1}))
    steps = []

    def follow(fork, experts, scorer, count):
        steps.append((int(fork.state.step[0]), count))
        return torch.zeros(len(experts))

    monkeypatch.setattr(rollout_iteration, "_follow", follow)
    few = RolloutHyperparameters(lanes=2, states=48, horizon=8)
    rollout_iteration._fork_states(problem, scorer, few, seed=0)
    assert len(steps) == (6 if budget else 24)
    if budget:
        assert all(count == 40 - step for step, count in steps)
    else:
        assert {count for _, count in steps} == {8}
