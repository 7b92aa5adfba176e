"""The Mixtral gate by hand; what one expert does to it is in test_k1_trap.py."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from envs import Outcomes
from router_rl.methods.gates.mixture import expected_loss
from router_rl.routing import TopK


def test_loss_of_two_of_three_by_hand(table_of: Callable[[Tensor], Outcomes]) -> None:
    logits = torch.tensor([[1.0, 3.0, 0.5]]).log().requires_grad_()
    quality = torch.tensor([[0.2, 0.8, 1.0]])
    loss = expected_loss(TopK(k=2).mixing(logits), table_of(quality), torch.tensor([0]), 0.0)
    # weights 1/4 and 3/4: .05 + .6, and the floor
    assert float(loss.detach()) == pytest.approx(-math.log(0.65 + 0.0005), rel=1e-6)
    (gradient,) = torch.autograd.grad(loss, logits)
    # -g_e (q_e - .65) / .6505; the third, though always right, was not chosen and learns nothing
    expected = torch.tensor([[-0.25 * (0.2 - 0.65), -0.75 * (0.8 - 0.65), 0.0]]) / 0.6505
    torch.testing.assert_close(gradient, expected)
