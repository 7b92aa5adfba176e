"""What iterations of rollout policy iteration are made of."""

from __future__ import annotations

import torch

from router_rl.methods.method import Method
from router_rl.methods.queueing.rollout_iteration import (
    METHOD,
    RolloutHyperparameters,
    Rollouts,
    _spread,
    ascend,
    regress,
)
from router_rl.methods.queueing.weight_search import IndexHyperparameters


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
