"""The noisy top-k gate's smooth load, by hand and against draws."""

from __future__ import annotations

import math

import pytest
import torch
from routing_methods import METHODS

from experts import OutcomeTable
from router_rl import Objective
from router_rl.methods.gates.mixture import squared_variation
from router_rl.methods.gates.noisy_topk_gate import load_probability
from router_rl.methods.method import Run
from router_rl.problems.routing.problem import RoutingProblem
from router_rl.routing import Hard


def normal_cdf(x: float) -> float:
    return 0.5 * (1 + math.erf(x / math.sqrt(2)))


def test_load_by_hand() -> None:
    # H = (3, 2, 1), k = 1: the first must beat 2, the second and third 3.
    clean, noisy = torch.tensor([[2.5, 2.0, 1.5]]), torch.tensor([[3.0, 2.0, 1.0]])
    spread = torch.tensor([[0.5, 1.0, 2.0]])
    expected = [[normal_cdf(0.5 / 0.5), normal_cdf(-1.0), normal_cdf(-1.5 / 2.0)]]
    torch.testing.assert_close(load_probability(clean, noisy, spread, 1), torch.tensor(expected))
    # k = 2: the two kept must beat 1, the third 2.
    expected = [[normal_cdf(1.5 / 0.5), normal_cdf(1.0), normal_cdf(-0.5 / 2.0)]]
    torch.testing.assert_close(load_probability(clean, noisy, spread, 2), torch.tensor(expected))
    assert load_probability(clean, noisy, spread, 3).tolist() == [[1.0, 1.0, 1.0]]


@pytest.mark.parametrize("k", [1, 2, 3])
def test_load_is_how_often_an_expert_is_kept_when_its_noise_is_drawn_anew(k: int) -> None:
    generator = torch.Generator().manual_seed(0)
    clean, spread = torch.randn(1, 4, generator=generator), torch.rand(1, 4, generator=generator) + 0.5
    noisy = clean + spread * torch.randn(1, 4, generator=generator)
    found = load_probability(clean, noisy, spread, k)[0]
    for expert in range(4):
        again = noisy.repeat(20_000, 1)
        again[:, expert] = clean[0, expert] + spread[0, expert] * torch.randn(20_000, generator=generator)
        kept = (again.topk(k).indices == expert).any(dim=1).float().mean()
        assert float(found[expert]) == pytest.approx(float(kept), abs=0.015)


def test_both_losses_pull_towards_an_even_load() -> None:
    logits = torch.tensor([[2.0, 0.0, -1.0]], requires_grad=True)
    load = load_probability(logits, logits.detach(), torch.ones(1, 3), 1).sum(dim=0)
    squared_variation(load).backward()
    assert logits.grad[0, 0] > 0 > logits.grad[0, 1]


def test_the_noise_is_learned_and_left_behind(kinds: OutcomeTable) -> None:
    method = METHODS["noisy_topk_gate"]
    task = RoutingProblem(kinds, Objective(), Hard())
    router = method.fit(task, method.configure({"epochs": 2}), Run(seed=0))
    assert sorted(router.state_dict()) == sorted(task.new_router(0).state_dict())
    features = torch.tensor(kinds.features)
    assert router(features).logits.equal(router(features).logits)
