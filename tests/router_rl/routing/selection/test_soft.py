"""Soft selection: weights, and a logistic-normal policy whose density integrates to one."""

from __future__ import annotations

import math

import pytest
import torch

from router_rl.routing import RouterError, Soft

LOGITS = torch.tensor([[0.1, 0.2, 0.3, 0.4]]).log()


def test_weights_such_as_everyone_knows() -> None:
    choice = Soft(k=4).select(LOGITS)
    assert choice.experts.tolist() == [[3, 2, 1, 0]]
    torch.testing.assert_close(choice.weights, torch.tensor([[0.4, 0.3, 0.2, 0.1]]))
    assert Soft(k=3).select(torch.zeros(1, 3)).experts.tolist() == [[0, 1, 2]]


def test_the_density_integrates_to_one_and_its_entropy_is_its_own() -> None:
    rule = Soft(k=2, noise=0.7)
    grid = torch.linspace(-6, 6, 601)
    points = torch.cartesian_prod(grid, grid)
    log_p = rule.log_prob(torch.tensor([[0.5, -0.3]]).expand(len(points), -1), points)
    cell = float(grid[1] - grid[0]) ** 2
    assert float(log_p.exp().sum() * cell) == pytest.approx(1.0, abs=1e-4)
    entropy = -float((log_p.exp() * log_p).sum() * cell)
    assert float(rule.entropy(torch.zeros(1, 2))) == pytest.approx(entropy, abs=1e-3)


def test_draws_have_the_density_they_say() -> None:
    rule, count = Soft(k=3, noise=0.3), 20_000
    noise = torch.randn((count, 3), generator=torch.Generator().manual_seed(0))
    drawn = rule.sample(torch.tensor([[1.0, 0.0, -1.0]]).expand(count, -1), noise)
    torch.testing.assert_close(drawn.mean(dim=0), torch.tensor([1.0, 0.0, -1.0]), atol=0.01, rtol=0)
    torch.testing.assert_close(drawn.std(dim=0), torch.full((3,), 0.3), atol=0.01, rtol=0)
    mean = float(rule.log_prob(torch.tensor([[1.0, 0.0, -1.0]]).expand(count, -1), drawn).mean())
    assert mean == pytest.approx(-float(rule.entropy(torch.zeros(1, 3))), abs=0.03)


def test_the_score_function_gradient_is_the_gradient_of_the_expectation() -> None:
    # E[a . c] over Normal(z, noise^2) is z . c, whose gradient is c.
    rule, count, c = Soft(k=2, noise=0.5), 400_000, torch.tensor([1.0, -2.0])
    logits = torch.tensor([0.3, 0.1], requires_grad=True)
    noise = torch.randn((count, 2), generator=torch.Generator().manual_seed(0))
    drawn = rule.sample(logits.detach().expand(count, -1), noise)
    log_p = rule.log_prob(logits.expand(count, -1), drawn)
    (gradient,) = torch.autograd.grad(((drawn @ c) * log_p).mean(), logits)
    torch.testing.assert_close(gradient, c, atol=0.03, rtol=0)


def test_an_action_is_its_weights() -> None:
    action = torch.tensor([[0.0, math.log(3.0)]])
    choice = Soft(k=2).choice(torch.zeros(1, 2), action)
    assert choice.experts.tolist() == [[1, 0]]
    torch.testing.assert_close(choice.weights, torch.tensor([[0.75, 0.25]]))


def test_a_masked_expert_weighs_nothing() -> None:
    rule = Soft(k=3)
    logits = rule.mask(torch.zeros(4, 3), torch.tensor([True, False, True]))
    choice = rule.select(logits)
    assert (choice.weights[choice.experts == 1] == 0).all()
    drawn = rule.sample(logits, torch.randn(4, 3, generator=torch.Generator().manual_seed(0)))
    choice = rule.choice(logits, drawn)
    assert (choice.weights[choice.experts == 1] == 0).all()
    assert rule.log_prob(logits, drawn).isfinite().all()
    assert float(rule.entropy(logits)[0]) == pytest.approx(float(Soft(k=2).entropy(torch.zeros(1, 2))))


def test_permuting_experts_permutes_the_weights() -> None:
    order = torch.tensor([2, 0, 3, 1])
    one, two = Soft(k=4).select(LOGITS), Soft(k=4).select(LOGITS[:, order])
    assert order[two.experts[0]].tolist() == one.experts[0].tolist()
    torch.testing.assert_close(one.weights, two.weights)


def test_settings_are_checked() -> None:
    with pytest.raises(RouterError, match="noise=0"):
        Soft(k=2, noise=0)
    with pytest.raises(RouterError, match="k=3 but there are 4 experts"):
        Soft(k=3).check(4)
