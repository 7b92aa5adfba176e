"""What rounds of rollout policy iteration are made of."""

from __future__ import annotations

import torch

from router_rl.methods.queueing.rollout_iteration import (
    RolloutHyperparameters,
    Tried,
    _spread,
    ascend,
    regress,
)


def tried(prices, states=800, seed=0, noise=0.0):
    generator = torch.Generator().manual_seed(seed)
    priced = torch.randn(states, 4, len(prices), generator=generator)
    priced[..., -1] = 3.0  # never varies: it cannot have a price
    scored = torch.randn(states, 4, generator=generator)
    base = 5.0 * torch.randn(states, 1, generator=generator)  # what a state is worth is nobody's merit
    extra = noise * torch.randn(states, 4, generator=generator)
    return Tried(scored, priced, scored + priced @ prices + base + extra)


def test_a_regression_finds_the_prices():
    prices = torch.tensor([0.2, -0.1, 0.0, 0.0])
    torch.testing.assert_close(regress(tried(prices), 1e-6), prices, atol=1e-3, rtol=0.0)
    shrunk = regress(tried(prices, noise=0.3), 1.0)
    assert 0.05 < shrunk[0] < 0.15
    assert shrunk[3] == 0.0


def test_ascending_makes_the_best_expert_the_choice():
    data = tried(torch.tensor([0.8, -0.5, 0.0, 0.0]), noise=0.2)
    fresh = tried(torch.tensor([0.8, -0.5, 0.0, 0.0]), seed=1)

    def earned(prices):
        choice = (fresh.scored + fresh.priced @ prices).argmax(dim=1, keepdim=True)
        return float((fresh.earned.gather(1, choice) - fresh.earned.mean(dim=1, keepdim=True)).mean())

    start = torch.zeros(4)
    found = ascend(data, start, RolloutHyperparameters(learning_rate=0.03), temperature=0.3)
    best = float((fresh.earned.amax(dim=1) - fresh.earned.mean(dim=1)).mean())
    assert earned(found) > earned(start) + 0.1
    assert earned(found) > best - 0.05
    assert found[3] == 0.0


def test_forks_are_spread_over_the_episode():
    times = _spread(400, 8, torch.Generator().manual_seed(0))
    assert [time // 50 for time in times] == list(range(8))
    assert _spread(1, 5, torch.Generator()) == [0]
    assert len(_spread(3, 5, torch.Generator())) == 3
