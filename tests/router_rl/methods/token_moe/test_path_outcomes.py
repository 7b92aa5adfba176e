"""The loss on the outcome table, by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from experts.moe.token_pool import TokenPool
from router_rl.methods.token_moe import path_outcomes
from router_rl.methods.token_moe.path_outcomes import expected_loss, train_outcome_table
from router_rl.methods.token_moe.token_training import Training
from router_rl.problems.token_moe.layer_routers import LayerRouters
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


def test_a_step_on_the_outcome_table_trains_every_layer(
    micro_pool: TokenPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    tail = micro_pool.tail
    routers = LayerRouters(tail.depth, tail.hidden, Hard(), tail.names)
    moved: list[bool] = []

    def watch(pool: TokenPool, start: LayerRouters, training: Training, loss: Any, **_: Any) -> None:
        value = loss(start, torch.arange(3), torch.Generator().manual_seed(0))
        gradients = torch.autograd.grad(value, [each.weight for each in start.scorers], allow_unused=True)
        moved.extend(each is not None and bool(each.any()) for each in gradients)

    monkeypatch.setattr(path_outcomes, "train", watch)
    train_outcome_table(micro_pool, routers, Training())
    assert moved == [True] * tail.depth
