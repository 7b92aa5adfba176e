"""The auxiliary load loss, by hand."""

from __future__ import annotations

import pytest
import torch

from router_rl.methods.gates.gate_training import balance_loss


def test_uniform_is_one_and_collapse_is_the_number_of_experts() -> None:
    uniform = torch.full((4, 4), 0.25)
    assert float(balance_loss(uniform, torch.tensor([[0], [1], [2], [3]]))) == pytest.approx(1.0)
    collapsed = torch.tensor([[1.0, 0.0, 0.0, 0.0]]).expand(4, 4)
    assert float(balance_loss(collapsed, torch.zeros(4, 1, dtype=torch.int64))) == pytest.approx(4.0)


def test_by_hand() -> None:
    # f = (2/3, 1/3), P = (0.6, 0.4): 2 * (0.4 + 0.1333) = 1.0667
    probabilities = torch.tensor([[0.9, 0.1], [0.7, 0.3], [0.2, 0.8]], requires_grad=True)
    loss = balance_loss(probabilities, torch.tensor([[0], [0], [1]]))
    assert float(loss.detach()) == pytest.approx(2 * (2 / 3 * 0.6 + 1 / 3 * 0.4))
    loss.backward()
    torch.testing.assert_close(probabilities.grad[0], torch.tensor([2 * 2 / 3 / 3, 2 * 1 / 3 / 3]))


def test_two_choices_a_row_count_half_each() -> None:
    probabilities = torch.tensor([[0.5, 0.3, 0.2]])
    assert float(balance_loss(probabilities, torch.tensor([[0, 1]]))) == pytest.approx(3 * (0.25 + 0.15))
