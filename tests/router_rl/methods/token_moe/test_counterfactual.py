"""The counterfactual learner's loss, by hand."""

from __future__ import annotations

import math

import torch

from router_rl.methods.token_moe.counterfactual import expected_loss
from router_rl.routing import Hard


def test_the_expected_loss_by_hand() -> None:
    # p = (3/4, 1/4); losses 2 and 4 without their mean: -1 and 1.
    z = torch.tensor([[math.log(3.0), 0.0]])
    found = expected_loss(Hard(), z, torch.tensor([[2.0, 4.0]]), 0.0)
    torch.testing.assert_close(found, torch.tensor(-0.5))


def test_the_entropy_bonus_lowers_the_loss() -> None:
    z = torch.tensor([[math.log(3.0), 0.0]])
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    found = expected_loss(Hard(), z, torch.tensor([[2.0, 4.0]]), 0.2)
    torch.testing.assert_close(found, torch.tensor(-0.5 - 0.2 * entropy))


def test_a_descent_of_the_entropy_bonus_makes_the_policy_less_certain() -> None:
    z = torch.tensor([[1.0, 0.0]], requires_grad=True)
    expected_loss(Hard(), z, torch.zeros(1, 2), 1.0).backward()
    assert z.grad is not None
    assert z.grad[0, 0] > 0 > z.grad[0, 1]  # descent lowers the larger logit
