"""The expected load against the load of every draw, weighed by its probability, and against many draws."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from envs.layer_load import LoadRule, token_penalties
from experts import InputError
from router_rl.methods.token_moe.expected_load import expected_load

TILED = LoadRule("tiles", tile=128)


def probabilities(tokens: int, experts: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(tokens, experts, generator=generator, dtype=torch.float64).softmax(dim=-1)


def load(rule: LoadRule, experts: torch.Tensor, total: int) -> torch.Tensor:
    return token_penalties(rule, experts.reshape(1, -1, 1), total).mean()


def test_shares_are_exact():
    p = probabilities(4, 3).requires_grad_()
    slow = torch.zeros((), dtype=torch.float64)
    for draw in itertools.product(range(3), repeat=4):
        chance = math.prod(p[t, e] for t, e in enumerate(draw))
        slow = slow + chance * load(LoadRule(), torch.tensor(draw), 3)
    fast = expected_load(LoadRule(), p)
    torch.testing.assert_close(fast, slow)
    gradients = [torch.autograd.grad(value, p)[0] for value in (fast, slow)]
    # Off the simplex the two are different polynomials; along it they are one.
    along = [g - g.mean(dim=1, keepdim=True) for g in gradients]
    torch.testing.assert_close(*along)


@pytest.mark.parametrize("tokens", [1024, 1000])
def test_tiles_are_those_of_the_exact_law(tokens):
    p = probabilities(tokens, 5)
    slow = torch.zeros((), dtype=torch.float64)
    for expert in range(5):
        law = torch.zeros(tokens + 1, dtype=torch.float64)  # of how many tokens it has
        law[0] = 1.0
        for chance in p[:, expert]:
            law = law * (1.0 - chance) + torch.cat([law.new_zeros(1), law[:-1]]) * chance
        slow = slow + (law * torch.ceil(torch.arange(tokens + 1) / 128)).sum()
    assert float(expected_load(TILED, p)) == pytest.approx(float(slow) / 8 - 1.0, abs=0.01)


def test_tiles_of_a_sure_policy_are_counted():
    experts = torch.tensor([0] * 128 + [1] * 129 + [2] * 255)
    p = torch.nn.functional.one_hot(experts, 4).double()
    assert float(expected_load(TILED, p)) == pytest.approx(float(load(TILED, experts, 4)), abs=1e-3)


def test_tiles_have_a_gradient_that_fills_them():
    logits = torch.zeros(256, 3, dtype=torch.float64, requires_grad=True)
    with torch.no_grad():
        logits += torch.tensor([4.0, 2.0, -1.0])
    expected_load(TILED, logits.softmax(dim=-1)).backward()
    assert logits.grad is not None
    assert logits.grad[:, 2].mean() > 0  # the expert of one short tile had better have none


def test_a_placement_is_refused():
    with pytest.raises(InputError, match="placement"):
        expected_load(LoadRule(placement=(0, 0, 1)), probabilities(4, 3))
